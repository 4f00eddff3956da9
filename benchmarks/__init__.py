"""Measurements, not tests: how fast the package is and what that is held against. See README.md in this folder."""
