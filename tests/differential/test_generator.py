"""The generator: the same programs for the same numbers, every mnemonic in its turn."""

from collections import Counter

import pytest

from bt.decode import Decoder
from vmm.differential.forms import MNEMONICS, forms
from vmm.differential.generator import TURNS, Source
from vmm.differential.modes import MODES, Paging


def test_a_program_depends_on_nothing_but_its_seed_and_number() -> None:
    once = [Source(7).program(number) for number in (3, 14, 15)]
    again = [Source(7).program(number) for number in (15, 3, 14)]
    assert once == [again[1], again[2], again[0]]
    assert Source(8).program(3) != once[0]


def test_modes_take_turns() -> None:
    assert [Source(1).program(number).mode.name for number in range(len(MODES))] == list(MODES)
    only = Source(1, ("real", "p32-ring3"))
    assert [only.program(number).mode.name for number in range(3)] == ["real", "p32-ring3", "real"]


@pytest.mark.parametrize("mode", ["real", "p32-ring1"])
def test_each_mnemonic_comes_once_before_any_comes_twice(mode: str) -> None:
    names = forms(MODES[mode].code32)
    source, programs = Source(3, (mode,)), len(names) // TURNS + 1
    counts = Counter(step.name for number in range(programs) for step in source.program(number).steps)
    assert set(counts) >= set(names)


def test_real_mode_never_pages_and_other_modes_do_in_every_way() -> None:
    ways = {(each.mode.kind, each.paging) for each in (Source(5).program(number) for number in range(150))}
    assert {paging for kind, paging in ways if kind == "real"} == {Paging.NONE}
    assert {paging for kind, paging in ways if kind == "protected"} == set(Paging)


@pytest.mark.parametrize("code32", [False, True])
def test_every_encoding_decodes_to_its_mnemonic(code32: bool) -> None:
    decoder = Decoder()
    for name, encodings in forms(code32).items():
        for form in encodings:
            tail = (
                b""
                if not form.registers and not form.memory
                else bytes([(form.registers or (form.memory[0] << 3,))[0]])
            )
            raw = form.head + tail + (form.fixed or bytes(form.immediate))
            found = decoder.one(raw + bytes(8), 0, code32) if len(form.head) < 2 or code32 else None
            assert found is None or (found.name, found.raw) == (name, raw)


def test_few_mnemonics_of_the_tables_have_no_encoding() -> None:
    assert MNEMONICS - set(forms(True)) == {"fcomip", "fucomip", "movabs"}  # other spellings, and 64-bit code's
    assert MNEMONICS - set(forms(False)) == {"cbw", "cwd", "fcomip", "fucomip", "movabs"}  # CWDE and CDQ there
