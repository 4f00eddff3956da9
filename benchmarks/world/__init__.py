"""How the embedded world's models were made: the training of its two pipelines and of its CLIP. See ../README.md."""
