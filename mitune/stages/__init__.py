"""One thin file a stage: configuration in, calls to the floors below, results out."""
