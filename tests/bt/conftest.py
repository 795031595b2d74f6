"""Lets the tests here use the rig of tests/hw."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "hw"))
