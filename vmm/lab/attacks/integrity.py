"""What must be true of the VMM after any guest: its memory as it was, its tables naming nothing but the guest's.

Source: Intel SDM Vol. 3A, "PAE Paging".
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmm.arch.descriptors import DESCRIPTOR_SIZE, Descriptor
from vmm.arch.layout import PAGE_SHIFT, PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.engines.engine import Engine
from vmm.machine import Vm

_P, _W, _PS, _NX = int(Pte.P), int(Pte.W), int(Pte.PS), int(Pte.NX)
_FRAME: Final = 0x000F_FFFF_FFFF_F000
_ENTRIES: Final = 512
_PATTERN: Final = bytes(range(256)) * (PAGE_SIZE // 256)
_ONES: Final = b"\xff" * PAGE_SIZE
_CODE_PARTS: Final = ("kernel_cache", "user_cache")
_FIXED_PARTS: Final = ("shadow_tss",)
_DESCRIPTOR_TABLES: Final = ("shadow_gdt", "whole_gdt", "whole_ldt")
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Leaf:
    """A page that a root maps: linear address, physical address of its frame, whether it may be written or run."""

    la: int
    frame: int
    writable: bool
    executable: bool


def leaves(entries: memoryview, root: int) -> Iterator[Leaf]:
    """All pages under a PAE root; `entries` is physical memory as 64-bit words."""
    for quarter in range(4):
        pdpte = entries[(root >> 3) + quarter]
        if not pdpte & _P:
            continue
        for number in range(_ENTRIES):
            pde = entries[((pdpte & _FRAME) >> 3) + number]
            if pde & _P:
                yield from _pages(entries, pde, quarter << 30 | number << 21)


def _pages(entries: memoryview, pde: int, la: int) -> Iterator[Leaf]:
    if pde & _PS:
        for index in range(_ENTRIES):
            frame = (pde & _FRAME) + index * PAGE_SIZE
            yield Leaf(la + index * PAGE_SIZE, frame, bool(pde & _W), not pde & _NX)
        return
    at = (pde & _FRAME) >> 3
    for index, pte in enumerate(entries[at : at + _ENTRIES]):
        if pte & _P:
            both = pte & pde
            yield Leaf(la + index * PAGE_SIZE, pte & _FRAME, bool(both & _W), not (pte | pde) & _NX)


class Guard:
    """Takes a picture of the VMM's memory before an attack, and finds out afterwards what is not as it has to be."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._canaries = [vm.physical.window(vm.physical.allocate(PAGE_SIZE), PAGE_SIZE) for _ in range(2)]
        for canary in self._canaries:
            canary[:] = _PATTERN
        self._writable: set[int] = set()
        self._read_only: set[int] = set()
        for region in vm.memory.regions:
            if region.host is not None:
                frames = range(region.host >> PAGE_SHIFT, region.host + region.size >> PAGE_SHIFT)
                (self._read_only if region.read_only else self._writable).update(frames)
        self._hole: dict[int, tuple[bool, bool]] = {}
        for name, part in vm.hole.parts.items():
            rights = (bool(part.rights & _W), name in _CODE_PARTS)
            for frame in range(part.host >> PAGE_SHIFT, part.host + part.size >> PAGE_SHIFT):
                writable, executable = self._hole.get(frame, (False, False))
                self._hole[frame] = (writable or rights[0], executable or rights[1])
        self._before = self._digest()

    def problems(self, engine: Engine) -> list[str]:
        """One line for each thing that is wrong; empty if the VMM is intact."""
        found = []
        if any(bytes(canary) != _PATTERN for canary in self._canaries):
            found.append("a frame of the VMM beside the guest's was written")
        if self._digest() != self._before:
            found.append("a ROM, or a table that never changes, was written")
        if not _is_zero(self._vm.physical.unused):
            found.append("memory that nobody has was written")
        found += self._descriptors()
        for root in engine.roots:
            found += self._tables(root)
        return found

    def _digest(self) -> str:
        """Of what nothing may change: ROMs and fixed tables."""
        vm = self._vm
        digest = hashlib.sha256()
        for region in vm.memory.regions:
            if region.host is not None and region.read_only:
                digest.update(vm.physical.copy(region.host, region.size))
        for name in _FIXED_PARTS:
            part = vm.hole.parts[name]
            digest.update(vm.physical.copy(part.host, part.size))
        return digest.hexdigest()

    def _descriptors(self) -> list[str]:
        """The tables that GDTR and LDTR of the processor may point at have segments below ring 0 and nothing else."""
        found = []
        for name in _DESCRIPTOR_TABLES:
            part = self._vm.hole.parts[name]
            table = self._vm.physical.copy(part.host, part.size)
            for at in range(0, part.size, DESCRIPTOR_SIZE):
                raw = table[at : at + DESCRIPTOR_SIZE]
                if any(raw):
                    entry = Descriptor.from_bytes(raw)
                    if entry.is_system or not entry.dpl:
                        found.append(f"{name}: {raw.hex()} at {at:#x} is of ring 0 or no segment")
        return found

    def _tables(self, root: int) -> list[str]:
        entries = self._vm.physical.view.cast("Q")
        return [
            f"root {root:#x} maps {leaf.la:#x} to frame {leaf.frame:#x}" + (", writable" if leaf.writable else "")
            for leaf in leaves(entries, root)
            if not self._is_allowed(leaf)
        ]

    def _is_allowed(self, leaf: Leaf) -> bool:
        frame = leaf.frame >> PAGE_SHIFT
        if frame in self._hole:
            writable, executable = self._hole[frame]
            return writable >= leaf.writable and executable >= leaf.executable
        if frame in self._writable:
            return True
        if leaf.writable:
            return False
        return frame in self._read_only or self._vm.physical.copy(leaf.frame, PAGE_SIZE) == _ONES


def _is_zero(view: memoryview) -> bool:
    zeros = bytes(_PIECE)
    return all(bytes(view[at : at + _PIECE]) == zeros[: len(view) - at] for at in range(0, len(view), _PIECE))
