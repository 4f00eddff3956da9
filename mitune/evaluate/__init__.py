"""Base model against tuned model: means by category with intervals, diversity, pictures, tables."""
