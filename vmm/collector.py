"""Python's cycle collector, while a guest runs.

A running guest makes no reference cycles, but long-lived blocks by the ten thousand, and the collector would look at
all of them over and over.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """No automatic collection inside; what was before comes back. May be nested."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
