"""Sampling: one loop over a population of candidates, its samplers, its noise and its observers."""
