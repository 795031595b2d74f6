"""Saving and restoring a chip's fields."""

import json
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

import pytest

from vmm.devices.snapshot import load_fields, save_fields, wired


class Colour(IntEnum):
    RED = 1
    BLUE = 2


@dataclass(slots=True)
class Inner:
    value: int = 0

    def save(self):
        return save_fields(self)

    def load(self, state):
        load_fields(self, state)


@dataclass(slots=True)
class Chip:
    on_irq: object = wired(default=None)
    number: int = 0
    flag: bool = False
    text: str = ""
    blob: bytes = b""
    ram: bytearray = field(default_factory=lambda: bytearray(4))
    queue: deque = field(default_factory=lambda: deque(maxlen=3))
    rows: list = field(default_factory=list)
    table: dict = field(default_factory=dict)
    maybe: int | None = None
    maybe_blob: bytes | None = None
    packets: deque[bytes] = field(default_factory=deque)
    pair: tuple = (0, 0)
    colour: Colour = Colour.RED
    inner: Inner = field(default_factory=Inner)
    inners: list = field(default_factory=lambda: [Inner(), Inner()])


def busy_chip():
    return Chip(
        on_irq=print,
        number=1 << 80,
        flag=True,
        text="x",
        blob=b"\x00\xff",
        ram=bytearray(b"abcd"),
        queue=deque([1, 2, 3], maxlen=3),
        rows=[1, [2, 3]],
        table={1: 2, "a": [3]},
        maybe=7,
        maybe_blob=b"\x01",
        packets=deque([b"\x02\x03", b""]),
        pair=(4, 5),
        colour=Colour.BLUE,
        inner=Inner(5),
        inners=[Inner(6), Inner(7)],
    )


def test_round_trip_through_json_is_exact_and_leaves_the_wiring():
    before, after = busy_chip(), Chip(on_irq=repr)
    load_fields(after, json.loads(json.dumps(save_fields(before))))
    assert after == before
    assert after.on_irq is repr
    assert (type(after.colour), type(after.flag), after.queue.maxlen) == (Colour, bool, 3)


def test_wiring_is_not_saved():
    assert "on_irq" not in save_fields(busy_chip())


def test_a_loaded_chip_does_not_write_into_the_state():
    chip, state = Chip(), save_fields(busy_chip())
    load_fields(chip, state)
    chip.rows[1].append(9)
    assert state["rows"] == [1, [2, 3]]


def test_load_keeps_the_identity_of_buffers():
    chip = Chip()
    ram, queue = chip.ram, chip.queue
    load_fields(chip, save_fields(busy_chip()))
    assert (chip.ram is ram, chip.queue is queue, bytes(ram), list(queue)) == (True, True, b"abcd", [1, 2, 3])


def test_a_saved_state_does_not_change_with_the_chip():
    chip = busy_chip()
    state = save_fields(chip)
    chip.rows.append(9)
    chip.table["a"].append(2)
    assert (state["rows"], state["table"]) == ([1, [2, 3]], [[1, 2], ["a", [3]]])


@pytest.mark.parametrize("change", [lambda s: s.pop("number"), lambda s: s.update(extra=1)], ids=["missing", "unknown"])
def test_a_state_with_other_fields_is_refused(change):
    state = save_fields(Chip())
    change(state)
    with pytest.raises(KeyError, match="saved fields differ"):
        load_fields(Chip(), state)


def test_none_comes_back_over_a_value():
    chip = busy_chip()
    load_fields(chip, save_fields(Chip()))
    assert (chip.maybe, chip.maybe_blob) == (None, None)
