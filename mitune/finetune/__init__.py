"""Fine-tuning: attach an adapter, draw batches, minimise an objective, keep checkpoints that resume bit for
bit.
"""
