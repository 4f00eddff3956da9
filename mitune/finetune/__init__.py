"""Fine-tuning attaches an adapter, minimises an objective and keeps checkpoints that resume bit for bit."""
