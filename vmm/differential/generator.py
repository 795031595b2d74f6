"""Program number N of a seed: always the same, and independent of all others.

Modes take turns. In each mode the mnemonics of the tables take turns, too, in an order shuffled anew each time round,
so that none is rare; the rest of a program is chance.
"""

from functools import lru_cache
from random import Random
from typing import Final, NamedTuple

from vmm.arch.descriptors import SystemType
from vmm.arch.registers import ARITHMETIC, Cr0, Cr4, Eflags, Reg
from vmm.differential import layout, special
from vmm.differential.forms import forms
from vmm.differential.instructions import Writer
from vmm.differential.modes import MODES, Kind, Mode, Paging
from vmm.differential.program import Patch, Program, Step

TURNS: Final = 9
"""How many mnemonics of each program are those whose turn it is."""
_EXTRAS: Final = 3
_SOMEWHERE: Final = layout.CODE + 0x100
_ACROSS: Final = layout.CODE + 0x1000
_GATES: Final = tuple(
    int(kind) for kind in (SystemType.TRAP_GATE32, SystemType.INTERRUPT_GATE16, SystemType.TRAP_GATE16)
)
_VECTORS: Final = (0, 1, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 13, 14, 14, 16, 0x20, 0x25, 0x30, 0x3F)
_PAGES: Final = (
    layout.DATA >> 12, (layout.DATA >> 12) + 1, (layout.DATA >> 12) + 1, (layout.CODE >> 12) + 1,
    layout.STACK >> 12, layout.STACK - 0x1000 >> 12, layout.GDT >> 12,
)  # fmt: skip
_RIGHTS: Final = (0, 0, 1, 3, 5, 7, 0x27, 0x87 & ~0x80, 0x107)
_NX: Final = 1 << 63


class Source(NamedTuple):
    """What programs are made from: a seed, and the names of the modes that take turns."""

    seed: int
    modes: tuple[str, ...] = tuple(MODES)

    def program(self, number: int) -> Program:
        """Program `number`, from 0."""
        mode = MODES[self.modes[number % len(self.modes)]]
        return _write(Random(f"{self.seed}/{number}"), mode, self._turns(mode, number // len(self.modes)))

    def _turns(self, mode: Mode, index: int) -> list[str]:
        names = sorted(forms(mode.code32))
        first = index * TURNS
        return [
            _shuffled(self.seed, mode, at // len(names))[at % len(names)] for at in range(first, first + TURNS)
        ]  # fmt: skip


@lru_cache(maxsize=64)
def _shuffled(seed: int, mode: Mode, time_round: int) -> tuple[str, ...]:
    names = sorted(forms(mode.code32))
    Random(f"{seed}/{mode.name}/{time_round}").shuffle(names)
    return tuple(names)


def _write(chance: Random, mode: Mode, turns: list[str]) -> Program:
    paging = chance.choice(mode.paging)
    based = chance.random() < 0.5 if mode.is_segmented and mode.code32 else True
    writer = Writer(chance, mode, based, len(turns) + _EXTRAS)
    steps = _steps(writer, turns)
    entry = _SOMEWHERE if chance.random() < 0.7 else _ACROSS - chance.randint(1, 80)
    registers = [writer.operands.number(4) for _ in Reg]
    registers[Reg.ESP] = layout.STACK_TOP - writer.operands.base(2)
    for reg in (Reg.EBX, Reg.ESI, Reg.EDI):
        registers[reg] = writer.operands.offset(writer.operands.address())
    return Program(
        mode,
        paging,
        based,
        entry,
        tuple(registers),
        _flags(chance, mode),
        _cr0(chance),
        _cr4(chance),
        chance.getrandbits(31) | 1,
        (*_descriptors(chance), *_gates(chance, mode), *_pages(chance, paging)),
        tuple(steps),
    )


def _steps(writer: Writer, turns: list[str]) -> list[Step]:
    """The mnemonics whose turn it is, and extras between them."""
    chance = writer.chance
    plan: list[str] = list(turns)
    extras = chance.choices(("interrupt", "rewrite", "page", "mov", "popf", "pushf"), (4, 2, 1, 2, 1, 1), k=_EXTRAS)
    for extra in extras:
        plan.insert(chance.randrange(len(plan) + 1), f"+{extra}")
    steps = []
    for number, name in enumerate(plan):
        if name == "+interrupt":
            steps.append(special.raise_interrupt(writer, number))
        elif name == "+rewrite":
            steps.append(special.rewrite_code(writer, number))
        elif name == "+page":
            steps.append(special.invalidate_page(writer, number))
        else:
            steps.append(special.write(writer, name.lstrip("+"), number))
    return steps


def _flags(chance: Random, mode: Mode) -> int:
    value = chance.getrandbits(12) & ARITHMETIC
    for flag, share in ((Eflags.IF, 0.65), (Eflags.DF, 0.2), (Eflags.AC, 0.1), (Eflags.ID, 0.1), (Eflags.NT, 0.03)):
        if chance.random() < share:
            value |= int(flag)
    iopl = mode.iopl if mode.iopl is not None else chance.choice((0, 0, mode.ring, 3))
    return value | iopl << 12


def _cr0(chance: Random) -> int:
    value = 0
    for bit, share in ((Cr0.MP, 0.5), (Cr0.WP, 0.5), (Cr0.AM, 0.1), (Cr0.TS, 0.04), (Cr0.EM, 0.02)):
        if chance.random() < share:
            value |= int(bit)
    return value


def _cr4(chance: Random) -> int:
    value = 0
    for bit, share in ((Cr4.OSFXSR, 0.96), (Cr4.PGE, 0.3), (Cr4.PSE, 0.3), (Cr4.TSD, 0.1), (Cr4.DE, 0.2)):
        if chance.random() < share:
            value |= int(bit)
    return value


def _descriptors(chance: Random) -> list[Patch]:
    """Random descriptors in the free part of the GDT."""
    table = b""
    for _ in range(layout.FREE_COUNT):
        base = chance.choice((0, layout.DATA, layout.CODE, layout.STACK_BASE, chance.getrandbits(16)))
        limit = chance.choice((0, 0xFFF, 0xFFFF, layout.FLAT, chance.getrandbits(16)))
        access = chance.getrandbits(8) | (0x80 if chance.random() < 0.8 else 0) | (0x10 if chance.random() < 0.8 else 0)
        bits = chance.choice((0, layout.BIG, layout.BIG, layout.PAGES | layout.BIG))
        table += layout.segment(base, limit, access, bits)
    return [Patch(layout.GDT + layout.FREE, table)]


def _gates(chance: Random, mode: Mode) -> list[Patch]:
    """In some programs a few gates of the IDT are of other kinds."""
    if mode.kind is Kind.REAL or chance.random() < 0.7:
        return []
    patches = []
    for vector in chance.choices(_VECTORS, k=3):
        roll = chance.random()
        if roll < 0.75:
            made = layout.interrupt_gate(vector, chance.choice(_GATES), chance.choice((0, 3)))
        elif roll < 0.85:
            made = layout.interrupt_gate(vector, present=False)
        elif roll < 0.92:
            made = layout.gate(0, layout.SPARE_TSS, SystemType.TASK_GATE, chance.choice((0, 3)))
        else:
            made = layout.gate(layout.HANDLERS_32 + 8 * vector, chance.choice(layout.SELECTORS), 14)
        patches.append(Patch(layout.IDT + 8 * vector, made))
    return patches


def _pages(chance: Random, paging: Paging) -> list[Patch]:
    """In most paged programs some pages are missing, read-only, the supervisor's or not executable."""
    if paging is Paging.NONE or chance.random() < 0.3:
        return []
    patches = []
    for page in chance.choices(_PAGES, k=chance.randint(1, 3)):
        at, width = layout.entry_at(paging, page)
        entry = page << 12 | chance.choice(_RIGHTS)
        if paging is Paging.PAE and chance.random() < 0.15:
            entry |= _NX
        patches.append(Patch(at, entry.to_bytes(width, "little")))
    return patches
