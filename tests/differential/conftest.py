"""Fixtures: rigs, which cost a second each, shared by the tests of a process."""

import pytest

from vmm.differential.rig import SUBJECTS, Rig


@pytest.fixture(scope="session")
def translate() -> Rig:
    return Rig(SUBJECTS["translate"])


@pytest.fixture(scope="session")
def callouts() -> Rig:
    return Rig(SUBJECTS["callouts"])
