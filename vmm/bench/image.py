"""Images of cases: a hard disk that every PC boots, and that ours, QEMU and Bochs time by the same marks.

A boot sector, a kernel (`guest/boot.s`, `guest/kernel.s`), the cases behind it, and C programs at `PROGRAMS`. How often
each case is repeated lies in a table, so that an image is built once for all machines, slow and fast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from firmware.assembler import assemble_text
from vmm.bench.case import MARKS_PER_CASE, Case

LOAD: Final = 0x10000
PROGRAMS: Final = 0x40000
END: Final = 0x90000
_BOOT: Final = 0x7C00
_SECTOR: Final = 512
_CHUNK: Final = 32 * _SECTOR
_SIGNATURE: Final = b"\x55\xaa"
HEADS: Final = 16
SECTORS: Final = 63
_CYLINDER: Final = HEADS * SECTORS * _SECTOR
CYLINDERS: Final = 2
"""The geometry: what LOAD to END needs."""
GUEST: Final = Path(__file__).with_name("guest")


@dataclass(frozen=True, slots=True)
class Image:
    """The cases in memory from LOAD on, and where the 32-bit counts lie there."""

    cases: tuple[Case, ...]
    memory: bytes = field(repr=False)
    counts_at: int

    @property
    def marks(self) -> int:
        """How many marks a run that succeeds makes."""
        return MARKS_PER_CASE * len(self.cases)

    def loaded(self, counts: Sequence[int]) -> bytes:
        """What lies from LOAD on, for so many rounds of each case."""
        table = b"".join(count.to_bytes(4, "little") for count in counts)
        return self.memory[: self.counts_at] + table + self.memory[self.counts_at + len(table) :]

    def disk(self, counts: Sequence[int]) -> bytes:
        """The disk image."""
        chunks = -(-len(self.memory) // _CHUNK)
        settings = f".set LOAD, {LOAD:#x}\n.set CHUNKS, {chunks}\n"
        boot = assemble_text(settings + (GUEST / "boot.s").read_text(), _BOOT, 16, "boot.s").flat(_BOOT)
        sector = boot.ljust(_SECTOR - len(_SIGNATURE), b"\0") + _SIGNATURE
        return (sector + self.loaded(counts)).ljust(CYLINDERS * _CYLINDER, b"\0")


def build(cases: Sequence[Case], *, paging: bool, programs: Mapping[int, bytes] | None = None) -> Image:
    """Assemble cases; `programs`: machine code by address. Raises: AssemblyError."""
    text = [(GUEST / "kernel.s").read_text(), f".set PAGING, {int(paging)}", "cases:"]
    text += [case.text(number) for number, case in enumerate(cases)]
    text += [f"case{len(cases)}:", "jmp finished", ".align 8", "counts:", f".space {4 * len(cases)}, 0"]
    assembly = assemble_text("\n".join(text), LOAD, 32, "cases")
    memory = assembly.flat(LOAD)
    for address, code in sorted((programs or {}).items()):
        memory = memory.ljust(address - LOAD, b"\0") + code
    if len(memory) > END - LOAD:
        raise ValueError(f"an image of {len(memory)} bytes does not fit")
    return Image(tuple(cases), memory, assembly.symbols["counts"] - LOAD)
