"""`python -m vmm` is `vmm`."""

import sys

from vmm.cli.main import program

sys.exit(program())
