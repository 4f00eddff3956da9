"""``python -m mitune``: the same as ``mitune``, for ``accelerate launch -m mitune``."""

import sys

from mitune.cli import main

sys.exit(main())
