"""The boot door from the inside: a boot image goes into guest memory, and the processor into the state it expects."""

import struct
from typing import Final

from firmware.bootimage import CONVENTIONAL_END, BootImage, FlatMode, MemoryRange, RealMode
from vmm.arch.layout import PAGE_SIZE
from vmm.arch.registers import Cr0, Eflags, Reg, Seg
from vmm.cpu.vcpu import DESC_B, DESC_G, DESC_P, REAL_MODE_CODE, REAL_MODE_DATA, STALE_ALL, SegmentRegister, Vcpu
from vmm.memory import GuestMemory

_FLAT: Final = DESC_G | DESC_B
_FOUR_GIB_LIMIT: Final = 0xFFFF_FFFF
_REAL_LIMIT: Final = 0xFFFF
_DATA_SEGMENTS: Final = (Seg.ES, Seg.SS, Seg.DS, Seg.FS, Seg.GS)
_MAP_ENTRY: Final = struct.Struct("<QQI")
_MAP_ENTRIES: Final = 128  # the option ROM collects no more
_TSS: Final = SegmentRegister(0, 0, 0x67, DESC_P | 11 << 8)
"""A busy 32-bit TSS, which PVH asks for; the other protocols leave TR open (x86/HVM direct boot ABI)."""


def enter(vcpu: Vcpu, memory: GuestMemory, image: BootImage) -> None:
    """Put the image into memory and set the processor to its first instruction; A20 is the caller's."""
    for address, size in image.zeros:
        _zero(memory, address, size)
    for address, data in image.writes:
        memory.write(address, data)
    for complete in image.completions:
        memory.write(*complete(memory.read))
    if isinstance(image.mode, RealMode):
        _real_mode(vcpu, image.mode)
    else:
        _flat_mode(vcpu, image.mode)
    for register, value in image.registers.items():
        vcpu.set_reg32(register, value)
    vcpu.eip = image.entry
    vcpu.eflags = int(Eflags.ONE)
    vcpu.make_stale(STALE_ALL)


def reported_map(vcpu: Vcpu, memory: GuestMemory) -> tuple[MemoryRange, ...]:
    """The memory map that the option ROM got from INT 15h, E820h: CX entries of 20 bytes at ES:DI; empty if none.

    Anybody can write to the door, so what does not lie in conventional memory is no map.
    """
    count = min(vcpu.reg32(Reg.ECX) & 0xFFFF, _MAP_ENTRIES)
    at = vcpu.segment(Seg.ES).base + (vcpu.reg32(Reg.EDI) & 0xFFFF)
    if at + count * _MAP_ENTRY.size > CONVENTIONAL_END:
        return ()
    entries = _MAP_ENTRY.iter_unpack(memory.read(at, count * _MAP_ENTRY.size))
    return tuple(MemoryRange(*entry) for entry in entries)


def _flat_mode(vcpu: Vcpu, mode: FlatMode) -> None:
    vcpu.cr0 = int(Cr0.PE | Cr0.ET)
    vcpu.tr = _TSS
    if mode.gdt is not None:
        base, size = mode.gdt
        vcpu.gdtr = (base, size - 1)
    vcpu.set_segment(Seg.CS, SegmentRegister(mode.code, 0, _FOUR_GIB_LIMIT, REAL_MODE_CODE | _FLAT))
    for seg in _DATA_SEGMENTS:
        vcpu.set_segment(seg, SegmentRegister(mode.data, 0, _FOUR_GIB_LIMIT, REAL_MODE_DATA | _FLAT))


def _real_mode(vcpu: Vcpu, mode: RealMode) -> None:
    vcpu.set_segment(Seg.CS, SegmentRegister(mode.code, mode.code << 4, _REAL_LIMIT, REAL_MODE_CODE))
    for seg in _DATA_SEGMENTS:
        vcpu.set_segment(seg, SegmentRegister(mode.data, mode.data << 4, _REAL_LIMIT, REAL_MODE_DATA))
    if mode.stack is not None:
        vcpu.set_reg32(Reg.ESP, mode.stack)


def _zero(memory: GuestMemory, address: int, size: int) -> None:
    for at in range(address, address + size, PAGE_SIZE):
        memory.write(at, bytes(min(PAGE_SIZE, address + size - at)))
