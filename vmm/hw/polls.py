"""Without the engine's polls: a load or store no longer asks whether somebody wants the engine to stop.

Unicorn puts a call of a helper behind every access to memory that it translates. It serves `uc_emu_stop` from other
threads and from memory hooks, which nobody uses here, and it stops in the middle of an instruction, which repeats it.
It takes a third to a half of the time of most code. The start of each block asks as well, and that stays: it is where
the block hook stops the engine.

All four functions that translate an access end in a jump to `check_exit_request` through the library's procedure
linkage table, so one pointer decides. Source: System V ABI, AMD64 supplement, "Procedure Linkage Table".
"""

import ctypes
import mmap
from functools import cache
from typing import Any, Final

from unicorn.unicorn_py3.unicorn import uclib

_RET: Final = b"\xc3"
_PT_DYNAMIC: Final = 2
_DT_PLTRELSZ: Final = 2
_DT_PLTGOT: Final = 3
_RELA_SIZE: Final = 24
_RESERVED: Final = 3  # words at the start of the table that belong to the dynamic linker
_E_PHOFF: Final = 32
_E_PHENTSIZE: Final = 54
_E_PHNUM: Final = 56
_P_VADDR: Final = 16
_WORD: Final = 8


class _DlInfo(ctypes.Structure):
    """`Dl_info` of dladdr(3)."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


@cache
def remove() -> bool:
    """Let engines in this process translate without polls from now on.

    False if this build of the library polls in another way; then all works as well, and slower.
    """
    poll = getattr(uclib, "check_exit_request_x86_64", None)
    if poll is None:
        return False
    address = ctypes.cast(poll, ctypes.c_void_p).value or 0
    slots = _linkage_table(address)
    if address not in slots[:]:
        return False
    slot = ctypes.addressof(slots) + _WORD * slots[:].index(address)
    page = slot & -mmap.PAGESIZE
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE):
        return False
    ctypes.c_uint64.from_address(slot).value = ctypes.addressof(ctypes.c_char.from_buffer(_nothing()))
    return True


@cache
def _nothing() -> mmap.mmap:
    """A host function that returns at once; it lives as long as the process."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_RET)
    return memory


def _linkage_table(address: int) -> Any:
    """The pointers through which the library that has `address` calls exported functions: resolved, for ctypes asks
    the dynamic linker to do that when it loads a library."""
    info = _DlInfo()
    ctypes.CDLL(None).dladdr(ctypes.c_void_p(address), ctypes.byref(info))
    base = info.base
    headers = base + ctypes.c_uint64.from_address(base + _E_PHOFF).value
    size = ctypes.c_uint16.from_address(base + _E_PHENTSIZE).value
    tags: dict[int, int] = {}
    for number in range(ctypes.c_uint16.from_address(base + _E_PHNUM).value):
        header = headers + number * size
        if ctypes.c_uint32.from_address(header).value == _PT_DYNAMIC:
            at = base + ctypes.c_uint64.from_address(header + _P_VADDR).value
            while tag := ctypes.c_uint64.from_address(at).value:
                tags[tag] = ctypes.c_uint64.from_address(at + _WORD).value
                at += 2 * _WORD
    table = tags.get(_DT_PLTGOT, 0)
    count = tags.get(_DT_PLTRELSZ, 0) // _RELA_SIZE
    start = table if table >= base else base + table  # glibc relocates the entry, other linkers do not
    return (ctypes.c_uint64 * count).from_address(start + _RESERVED * _WORD)
