"""A fresh world for each test."""

import pytest
from cpu_world import World


@pytest.fixture
def world() -> World:
    return World()
