"""What flows between the stages: prompts, candidates on disk, the selected ones, the training set."""
