"""The cycle collector at rest: what a guest's run leaves behind is not looked at again and again, but at some time."""

import gc
import weakref

from vmm import collector
from vmm.collector import collector_at_rest


class Ring:
    """It holds itself."""

    def __init__(self) -> None:
        self.me = self


def test_it_rests_inside_and_works_again_outside() -> None:
    assert gc.isenabled()
    with collector_at_rest():
        assert not gc.isenabled()
        with collector_at_rest():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_is_there_at_the_end_of_a_rest_is_left_alone_until_the_next_full_look(monkeypatch) -> None:
    with collector_at_rest():
        seen = weakref.ref(Ring())
    gc.collect()
    assert seen() is not None
    monkeypatch.setattr(collector, "_FULL_AFTER", 1)
    with collector_at_rest():
        assert seen() is None
