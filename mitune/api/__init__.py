"""What the stages do, on objects: :func:`load` a model, draw, score, select, train, evaluate, export.

``import mitune`` offers these names; nothing here is imported until one of them is used. A command and these objects
call the same functions: the same settings, prompts and seed give the same pictures, scores and adapters, bit for bit.
One process does all of it; many processes, racing, searches and going on after a kill are the command line's.
"""
