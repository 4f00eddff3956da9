"""The agreement study: which score ranks candidates best, and at what cost (``python -m benchmarks.agreement``)."""
