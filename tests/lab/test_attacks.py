"""Attacks on the VMM: each attempt ends as the manual says, and the VMM is intact afterwards."""

from dataclasses import replace

import pytest

from vmm.cpu.hole import Hole
from vmm.engines.names import EngineName
from vmm.hw.memory import PhysicalMemory
from vmm.lab.attacks import rig
from vmm.lab.attacks.guest import Attack, attempt
from vmm.lab.attacks.suite import attacks

SUITE = attacks(Hole.build(PhysicalMemory(64 << 20)))


@pytest.mark.parametrize("attack", SUITE, ids=lambda attack: attack.name)
def test_the_vmm_keeps_control(attack: Attack) -> None:
    result = rig.run(attack, EngineName.TRANSLATE)
    assert result.damage == ()
    assert result.wrong == 0, result.first_wrong


def test_names_are_not_used_twice() -> None:
    assert len({attack.name for attack in SUITE}) == len(SUITE)


def test_what_is_not_prescribed_is_wrong() -> None:
    """A fault that did not come, one of another kind, one too many, and another end."""
    told = Attack(
        "false", "", attempt("nop") + attempt("ud2") + attempt("nop"), ((13, 0), (6, 0)), ending="TripleFault"
    )
    result = rig.run(told, EngineName.TRANSLATE)
    assert (result.attempts, result.as_prescribed, result.wrong) == (2, 1, 3)
    assert result.first_wrong == "attempt 0: no fault, expected vector 13 with error code 0x0"
    assert result.ending == "ExitPort"
    assert not result.is_right


def test_a_write_to_what_the_kernel_trusts_is_damage() -> None:
    """Nothing but a page table that lets ring 3 in makes this one possible."""
    text = attempt("mov dword ptr [0x20000], 0")
    closed = rig.run(Attack("closed", "", text, ((14, 7),), 3), EngineName.TRANSLATE)
    assert (closed.damage, closed.wrong) == ((), 0)
    entry = (0x20000 | 7).to_bytes(4, "little")
    opened = replace(Attack("open", "", text, ((0x80, 0),), 3), memory={0x20_1000 + 4 * 0x20: entry})
    result = rig.run(opened, EngineName.TRANSLATE)
    assert result.damage == ("the guest kernel's page at 0x20000 has changed",)
    assert result.wrong == 0
