"""Address types, and the layout of the page through which cached code and the VMM talk.

The vCPU page holds the guest-visible state that the physical CPU cannot hold for a deprivileged guest. Cached
code reads and writes it through `cs:`; the VMM through a memoryview. Everything is a 32-bit little-endian word.
"""

from enum import IntEnum
from typing import Final, NewType

GuestLinear = NewType("GuestLinear", int)
GuestPhysical = NewType("GuestPhysical", int)
HostPhysical = NewType("HostPhysical", int)
CacheAddress = NewType("CacheAddress", int)

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_MASK: Final = PAGE_SIZE - 1
MASK32: Final = 0xFFFF_FFFF


class Slot(IntEnum):
    """Byte offsets in the vCPU page."""

    IF = 0x00  # Eflags.IF or 0
    FLAGS = 0x04  # IOPL, NT, AC, ID: the rest of EFLAGS that is not in the physical register
    PENDING = 0x08  # not 0: an interrupt waits for IF, so STI and POPF must leave the cache
    CR0 = 0x10
    CR2 = 0x14
    CR3 = 0x18
    CR4 = 0x1C
    GDT_LIMIT = 0x20
    GDT_BASE = 0x24
    IDT_LIMIT = 0x28
    IDT_BASE = 0x2C
    LDTR = 0x30  # selector
    TR = 0x34  # selector
    SCRATCH = 0x40  # eight words that only live inside one inline sequence
    BASED = 0x60  # not 0: DS, ES or SS has a base, so that an offset is no linear address
    CS = 0x64  # selector of ring 0's CS if it comes from the GDT, else a value that no selector has
    CS_LOW = 0x68  # the descriptor that this CS register was loaded from
    CS_HIGH = 0x6C
    SHORTAGE = 0x70  # six words, by segment register: how much its limit is short of FFFFh, 0 if it is not
    LIMIT = 0x88  # six words, by segment register: its limit in bytes
    TR_BASE = 0xA0
    TR_FLAGS = 0xA4  # dword 1 of its descriptor
    SYSENTER_CS = 0xA8  # the three MSRs
    SYSENTER_ESP = 0xAC
    SYSENTER_EIP = 0xB0
    TSC = 0xB4  # not 0: RDTSC below counts what the guest's counter does, and any ring may read it
    CPUID_KNOWN = 0xB8  # by number of an answer of CPUID, a bit: is it there?
    CPUID = 0x100  # the answers, four words each: EAX EBX ECX EDX, as `CPUID_BASIC` says


SCRATCH_WORDS: Final = 8
CPUID_BASIC: Final = 0x16
CPUID_EXTENDED: Final = 7
"""The highest basic leaf, and the highest extended one less 80000000h. Answers are numbered: those of the basic leaves,
then of the extended ones, 32 at the most. All other leaves have the answer of the highest basic one."""
