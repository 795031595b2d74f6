"""`vmm lab smsw` and `vmm lab redpill`: what a guest is told about the machine that it runs on.

Source of what is expected: Intel SDM Vol. 2A and 2B, each instruction.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from vmm.arch.registers import Cr0, Eflags
from vmm.lab import critical_cases
from vmm.lab import setting as at
from vmm.lab.critical_cases import flags_on_the_stack, store_tables, store_words
from vmm.lab.machine import LabMachine
from vmm.lab.program import Case, Program
from vmm.lab.rows import Row
from vmm.lab.setting import REAL, RING3, Setting

_PE: Final = int(Cr0.PE)
_HYPERVISOR: Final = 1 << 31
_FEATURES_LEAF: Final = 1
_IOPL: Final = int(Eflags.IOPL)


def smsw_cases() -> Iterator[Case]:
    """SMSW in real mode: is PE set?"""
    code = Program(REAL).memory("0f01", 4, at.RESULT).code
    yield Case("SMSW", "m16, bit PE", REAL, code, str(REAL.cr0 & _PE), lambda machine: str(machine.result(2) & _PE))


def as_bits(rows: list[Row]) -> list[Row]:
    """Rows of 0 and 1 with numbers in the place of text."""
    return [replace(row, expected=_number(row.expected), got=_number(row.got)) for row in rows]


def _number(text: str | int) -> str | int:
    return int(text) if str(text).isdigit() else text


DRIVER: Final = Setting("protected", 3, RING3.eflags | _IOPL)
"""A user program that may do port I/O: IOPL 3, so that it sees what PUSHF makes of IOPL."""
_PILLS: Final = ("SIDT", "SGDT", "SLDT", "STR", "SMSW", "PUSHF", "LAR", "LSL", "VERR")
_FORMS: Final = ("m16&32", "m16", "32-bit", "r32, r32", "r16")
"""Of each of them one form is enough, the first of these that it has."""


def pills() -> list[Case]:
    """A case for each pill, in a user program."""
    tables = (store_tables, store_words, critical_cases.look_up_rights, critical_cases.verify_rights)
    every = [case for table in tables for case in table(RING3)] + list(flags_on_the_stack(DRIVER))
    chosen = [_first_form([case for case in every if case.instruction == name]) for name in _PILLS]
    return [*chosen, _cpuid()]


def _first_form(cases: list[Case]) -> Case:
    return min((case for case in cases if case.form in _FORMS), key=lambda case: _FORMS.index(case.form))


def _cpuid() -> Case:
    """Leaf 1, ECX bit 31: "Not Used, always returns 0" (SDM Vol. 2A, "CPUID", "Feature Information Returned in the ECX
    Register"), which hypervisors use to make themselves known.
    """
    program = Program(RING3).op("b8", 4, at.word(_FEATURES_LEAF)).op("0fa2").op("89c8", 4).store_eax()

    def observe(machine: LabMachine) -> str:
        return f"ECX bit 31: {int(bool(machine.result(4) & _HYPERVISOR))}"

    return Case("CPUID", "leaf 1", RING3, program.code, "ECX bit 31: 0", observe)
