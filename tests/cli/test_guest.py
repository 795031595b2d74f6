"""The queues before the guest's door."""

import pytest
from fakes import FakeDoor, FakeGuest, FakeMemory

from vmm.cli.guest import (
    KEY_GAP_NS,
    PASTE_GAP_NS,
    PATIENCE_NS,
    SERIAL_LOG_MAX,
    UNREAD_MAX,
    SerialFeed,
    SerialLog,
    Typist,
    unread_keys,
)
from vmm.devices.keymap import KeyStroke, keys_for_text


def bios_buffer(head: int, tail: int, start: int = 0x1E, end: int = 0x3E) -> FakeMemory:
    def words(*values: int) -> bytes:
        return b"".join(value.to_bytes(2, "little") for value in values)

    return FakeMemory({0x41A: words(head, tail), 0x480: words(start, end)})


UNREAD = [
    pytest.param(bios_buffer(0x1E, 0x1E), 0, id="empty"),
    pytest.param(bios_buffer(0x1E, 0x24), 3, id="three"),
    pytest.param(bios_buffer(0x3C, 0x20), 2, id="wrapped"),
    pytest.param(bios_buffer(0x1E, 0x3C), 15, id="full"),
    pytest.param(bios_buffer(0x80, 0x84, 0x80, 0x90), 2, id="moved_elsewhere"),
    pytest.param(bios_buffer(0x1234, 0x5678), 0, id="something_else_lies_there"),
    pytest.param(FakeMemory(), 0, id="all_zero"),
]


@pytest.mark.parametrize(("memory", "count"), UNREAD)
def test_unread_keys_of_the_bios(memory: FakeMemory, count: int) -> None:
    assert unread_keys(memory) == count


def typed_after(guest: FakeGuest, nanoseconds: int) -> int:
    typist = Typist(guest)
    typist.type(keys_for_text("ab"))
    typist.pump()
    guest.now += nanoseconds
    typist.pump()
    return len(guest.door.keys)


def test_keys_keep_their_distance() -> None:
    assert typed_after(FakeGuest(), KEY_GAP_NS - 1) == 1
    assert typed_after(FakeGuest(), KEY_GAP_NS) == 2


def test_a_paste_is_typed_faster() -> None:
    guest = FakeGuest()
    typist = Typist(guest)
    typist.type(keys_for_text("abc"), PASTE_GAP_NS)
    handed_over = []
    for _ in range(4):
        handed_over.append(typist.pump())
        guest.now += PASTE_GAP_NS
    assert handed_over == [True, True, True, False]


class FullDoor(FakeDoor):
    """Takes three bytes and two keys, ever."""

    def post_keys(self, strokes: list[KeyStroke]) -> int:
        return super().post_keys(strokes[: 2 - len(self.keys)])

    def post_serial(self, data: bytes) -> int:
        return super().post_serial(data[: 3 - len(self.serial)])


def test_what_the_door_refuses_waits() -> None:
    guest = FakeGuest(door=FullDoor())
    typist, feed = Typist(guest), SerialFeed(guest)
    typist.type(keys_for_text("abc"), 0)
    feed.feed(b"abcde")
    assert [typist.pump() for _ in range(4)] == [True, True, False, False]
    assert [feed.pump() for _ in range(2)] == [True, False]
    assert (typist.waiting, feed.waiting) == (1, 2)


def test_a_typist_waits_for_a_guest_that_does_not_read_but_not_for_ever() -> None:
    full = bios_buffer(0x1E, 0x1E + 2 * UNREAD_MAX)
    assert typed_after(FakeGuest(memory=full, now=PATIENCE_NS), PATIENCE_NS) == 1
    assert typed_after(FakeGuest(memory=full, now=PATIENCE_NS), PATIENCE_NS + KEY_GAP_NS) == 2


def test_the_serial_log_forgets_the_oldest_and_keeps_positions() -> None:
    log = SerialLog()
    for _ in range(5):
        log(b"x" * SERIAL_LOG_MAX)
    log(b"end")
    assert log.end == 5 * SERIAL_LOG_MAX + 3
    assert log.text(log.end - 3) == "end"
    assert len(log.text(0)) <= 2 * SERIAL_LOG_MAX
