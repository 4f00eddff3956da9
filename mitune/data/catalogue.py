"""The forms of prompt files and of tables, which the configuration has to know too; nothing is imported here."""

SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
"""What such a file's name ends in."""
FORMS = ".txt (a prompt a line), .csv, .tsv, .json, .jsonl, .ndjson or .parquet"
"""The same in words."""
