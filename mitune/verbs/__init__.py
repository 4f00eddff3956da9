"""Commands beside the stages: what a user starts with, looks up and tidies up. Each is a row of ``catalogue.py``."""
