"""MI-Tune: self-supervised alignment of text-to-image models by mutual information."""

__version__ = "0.2.0"
