"""``python -m mitune``: the same as ``mitune``, for ``accelerate launch -m mitune``."""

import sys

from mitune.cli import main
from mitune.launcher import leave_code

code = main()
leave_code(code)
sys.exit(code)
