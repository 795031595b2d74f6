"""A guest program: everything that decides what a machine does with it, and nothing else.

Its code is a list of *steps*. A step is one instruction, perhaps with others in front that set its operands up; a fault
in it makes the program go on at the next one. Steps name each other in fixups, so that one can be left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Any, Final, NamedTuple

from bt.decode import Decoder
from vmm.arch.registers import Cr0, Cr4, Eflags
from vmm.differential import layout
from vmm.differential.modes import MODES, Kind, Mode, Paging

RELATIVE: Final = -1
_VM: Final = int(Eflags.VM)


class Fixup(NamedTuple):
    """`size` bytes at `at` in a step are to lead to the start of step `step` (or the end of the program).

    `origin` RELATIVE: the distance from behind the field; else the offset in a segment of that base.
    """

    at: int
    size: int
    step: int
    origin: int = RELATIVE


class Step(NamedTuple):
    """`name`: the mnemonic that it is there for."""

    name: str
    code: bytes
    fixups: tuple[Fixup, ...] = ()


class Patch(NamedTuple):
    """A program's own bytes in memory, at a physical address."""

    at: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Program:
    """A program and the machine that it starts on.

    `based`: segments with bases (always in real mode and V86). `entry`: linear address of the first step. `registers`:
    in encoding order, ESP included. `cr0`, `cr4`: bits beside those that the mode needs. `fill`: seed of the bytes in
    the data area, 0 for none. `patches` change memory after everything else.
    """

    mode: Mode
    paging: Paging
    based: bool
    entry: int
    registers: tuple[int, ...]
    eflags: int
    cr0: int
    cr4: int
    fill: int
    patches: tuple[Patch, ...]
    steps: tuple[Step, ...]

    @property
    def code_base(self) -> int:
        """Base of CS at the start."""
        return layout.CODE if self.based else 0

    @property
    def start_flags(self) -> int:
        """EFLAGS at the start."""
        return self.eflags | int(Eflags.ONE) | (_VM if self.mode.kind is Kind.V86 else 0)

    @property
    def start_cr0(self) -> int:
        """CR0 at the start. NE is always set: without it x87 errors are the board's business (docs/limits.md)."""
        value = self.cr0 | int(Cr0.ET | Cr0.NE) | (0 if self.mode.kind is Kind.REAL else int(Cr0.PE))
        return value | (0 if self.paging is Paging.NONE else int(Cr0.PG))

    @property
    def start_cr4(self) -> int:
        """CR4 at the start."""
        return self.cr4 | (int(Cr4.PAE) if self.paging is Paging.PAE else 0)

    def assemble(self) -> tuple[bytes, tuple[int, ...]]:
        """The code, HLT behind it; and the linear address of each step and of that HLT."""
        starts = [self.entry]
        for step in self.steps:
            starts.append(starts[-1] + len(step.code))
        code = bytearray()
        for start, step in zip(starts, self.steps, strict=False):
            raw = bytearray(step.code)
            for at, size, target, origin in step.fixups:
                to = starts[min(target, len(self.steps))]
                value = to - (start + at + size if origin == RELATIVE else origin)
                raw[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            code += raw
        code.append(layout.HLT)
        return bytes(code), tuple(starts)

    def memory(self) -> bytes:
        """All of RAM at the start."""
        ram = bytearray(layout.image(self.paging))
        if self.fill:
            ram[layout.DATA : layout.DATA + layout.DATA_SIZE] = Random(self.fill).randbytes(layout.DATA_SIZE)
        pool = layout.pool()
        ram[layout.POOL : layout.POOL + len(pool)] = pool
        code, _ = self.assemble()
        ram[self.entry : self.entry + len(code)] = code
        for at, data in self.patches:
            ram[at : at + len(data)] = data
        return bytes(ram)

    def without(self, first: int, count: int) -> "Program":
        """The program without some of its steps; what led to them leads behind them."""

        def moved(fixup: Fixup) -> Fixup:
            if fixup.step < first:
                return fixup
            return fixup._replace(step=max(first, fixup.step - count))

        kept = self.steps[:first] + self.steps[first + count :]
        return replace(
            self, steps=tuple(step._replace(fixups=tuple(moved(fixup) for fixup in step.fixups)) for step in kept)
        )

    # --- as text ---------------------------------------------------------------------------------------

    def listing(self) -> list[str]:
        """Each step on a line: address, bytes, instructions."""
        code, starts = self.assemble()
        decoder = Decoder()
        lines = []
        for start, end in pairwise(starts):
            raw = code[start - self.entry : end - self.entry]
            lines.append(f"{start:05x}  {raw.hex(' '):<24}  {'; '.join(_texts(decoder, raw, start, self))}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """JSON-able, complete; the listing is for readers."""
        return {
            "mode": self.mode.name,
            "paging": str(self.paging),
            "based": self.based,
            "entry": self.entry,
            "registers": [f"{value:#x}" for value in self.registers],
            "eflags": self.eflags,
            "cr0": self.cr0,
            "cr4": self.cr4,
            "fill": self.fill,
            "patches": [[patch.at, patch.data.hex()] for patch in self.patches],
            "steps": [[step.name, step.code.hex(), [list(fixup) for fixup in step.fixups]] for step in self.steps],
            "listing": self.listing(),
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Program":
        """What `to_json` gave."""
        return cls(
            MODES[saved["mode"]],
            Paging(saved["paging"]),
            saved["based"],
            saved["entry"],
            tuple(int(value, 16) for value in saved["registers"]),
            saved["eflags"],
            saved["cr0"],
            saved["cr4"],
            saved["fill"],
            tuple(Patch(at, bytes.fromhex(data)) for at, data in saved["patches"]),
            tuple(
                Step(name, bytes.fromhex(code), tuple(Fixup(*fixup) for fixup in fixups))
                for name, code, fixups in saved["steps"]
            ),
        )


def _texts(decoder: Decoder, raw: bytes, start: int, program: Program) -> list[str]:
    found = []
    at = 0
    while at < len(raw):
        insn = decoder.one(raw[at:], start + at - program.code_base, program.mode.code32)
        if insn is None:
            found.append(f"db {raw[at:].hex(' ')}")
            break
        found.append(str(insn))
        at += len(insn.raw)
    return found
