"""Out to the Hugging Face Hub: the export folder, its model card, the upload."""
