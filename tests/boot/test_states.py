"""A real boot saved and continued, recorded and repeated: GRUB, stopped in the middle of its way to the menu."""

import json
import zlib

import pytest

from tests.boot.conftest import ENGINES, by

pytestmark = pytest.mark.boot


def state(run, name):
    return json.loads(zlib.decompress((run.directory / name).read_bytes()))


@pytest.fixture
def floppy(image):
    return (image("grub-rescue-floppy.img"), "--as", "floppy", "--memory", "32M")


@pytest.mark.parametrize(
    ("seconds", "first", "second"),
    [
        (1.5, "translate", "translate"),
        (3, "translate", "translate"),
        (1.5, "bare", "translate"),
        (1.5, "translate", "bare"),
        (1.5, "svm", "svm --npt"),
        (1.5, "svm --npt", "translate"),
    ],
)
def test_grub_saved_in_mid_boot_reaches_its_menu_in_another_machine(vmm, floppy, seconds, first, second):
    begun = vmm(*floppy, *by(first), "--save", "half.state", "--screenshot", "half.txt", timeout=seconds)
    assert begun.status == 124
    ended = vmm(*floppy, *by(second), "--load", "half.state", "--until", "GNU GRUB")
    assert (ended.status, ended.heading) == (0, "matched 'GNU GRUB' (status 0)")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_recorded_boot_replayed_ends_in_the_same_state_to_the_last_bit(vmm, floppy, engine):
    recorded = vmm(*floppy, *by(engine), "--record", "boot.log", "--save", "recorded.state", timeout=4)
    assert recorded.status == 124
    replayed = vmm(*floppy, *by(engine), "--replay", "boot.log", "--save", "replayed.state")
    assert (replayed.status, replayed.heading) == (0, "the recording ended (status 0)")
    first, second = state(recorded, "recorded.state"), state(replayed, "replayed.state")
    assert first.keys() == second.keys()
    for part in first:
        assert first[part] == second[part], part
