"""Python's cycle collector, while a guest runs.

A running guest makes no reference cycles, but long-lived objects by the hundred thousand, and the collector would look
at all of them over and over.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

_FULL_AFTER: Final = 1000
_rests: Final = count(1)


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """No automatic collection inside; what was before comes back, but for the objects that there are by then.

    Those the collector leaves alone until the thousandth rest, before which it looks at everything. May be nested.
    """
    collects = gc.isenabled()
    if collects and next(_rests) % _FULL_AFTER == 0:
        gc.unfreeze()
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.freeze()
            gc.enable()
