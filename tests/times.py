"""How often tests by chance try: ten times as often with ``--everything``."""

from __future__ import annotations

import os
import sys

TIMES = 10 if "--everything" in [*sys.argv, *os.environ.get("PYTEST_ADDOPTS", "").split()] else 1
