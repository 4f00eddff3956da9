"""Which recipe moves held-out alignment most: ``python -m benchmarks.recipe STUDY``."""
