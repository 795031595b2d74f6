"""`python -m vmm` is `vmm`."""

import sys

from vmm.cli.main import main

sys.exit(main())
