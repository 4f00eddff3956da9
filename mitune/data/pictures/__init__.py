"""Sources of (picture, caption) pairs as one list: image folders, tables, tar shards, datasets, candidate stores.

Captions are read at once, pictures one at a time when they are asked for, from where they lie.
"""

from mitune.data.decoding import decode_picture
from mitune.data.pictures.columns import CAPTION_COLUMNS, IMAGE_COLUMNS
from mitune.data.pictures.contents import Contents, read_contents, read_or_none, seeds_of
from mitune.data.pictures.generated import WORLD
from mitune.data.pictures.loading import load_pictures
from mitune.data.pictures.rows import Pictures, numbers, prompts_of
from mitune.data.pictures.writing import write_pictures, written_here

__all__ = [
    "CAPTION_COLUMNS", "IMAGE_COLUMNS", "WORLD", "Contents", "Pictures", "decode_picture", "load_pictures",
    "numbers", "prompts_of", "read_contents", "read_or_none", "seeds_of", "write_pictures", "written_here",
]  # fmt: skip
