"""One thin file a stage: configuration in, calls to the floors below, results out.

A file that is named like one below (``racing``, ``search``, ``train``, ``evaluate``) runs that one as it is configured.
"""
