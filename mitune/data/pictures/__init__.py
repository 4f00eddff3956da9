"""Sources of (picture, caption) pairs as one list: image folders, tables, tar shards, datasets, candidate stores.

Captions are read at once, pictures one at a time when they are asked for, from where they lie.
"""
