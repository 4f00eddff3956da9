"""Public benchmarks as they are: their prompt files, their folders of pictures, their result files, their tables."""
