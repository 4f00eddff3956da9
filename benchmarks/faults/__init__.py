"""Faults on purpose: commands that are killed at random moments, writes that the disk refuses."""
