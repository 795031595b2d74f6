"""A CPU for each test."""

import pytest
from cpu_rig import Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()
