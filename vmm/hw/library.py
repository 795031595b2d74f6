"""The engine's library as it was loaded: where it keeps pointers to its own functions, and how to change them.

The library calls its exported functions through pointers: direct calls through those of the procedure linkage table,
functions whose address it takes through those of the global offset table. Source: System V ABI, AMD64 supplement,
"Global Offset Table" and "Procedure Linkage Table".
"""

import ctypes
import mmap
from functools import cache
from typing import Final

from unicorn.unicorn_py3.unicorn import uclib

_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_PF_W: Final = 2
_DT_PLTRELSZ: Final = 2
_DT_PLTGOT: Final = 3
_RELA_SIZE: Final = 24
_RESERVED: Final = 3  # words at the start of the linkage table that belong to the dynamic linker
_E_PHOFF: Final = 32
_E_PHENTSIZE: Final = 54
_E_PHNUM: Final = 56
_P_FLAGS: Final = 4
_P_VADDR: Final = 16
_P_MEMSZ: Final = 40
_WORD: Final = 8


class _DlInfo(ctypes.Structure):
    """`Dl_info` of dladdr(3)."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def address_of(name: str) -> int:
    """Address of an exported function, 0 if this build of the library has none of that name."""
    function = getattr(uclib, name, None)
    return (ctypes.cast(function, ctypes.c_void_p).value or 0) if function is not None else 0


def direct_calls(function: int) -> list[int]:
    """Addresses of the pointers through which the library calls a function by name.

    They are resolved: ctypes asks the dynamic linker to do that when it loads a library.
    """
    start, end = _image().linkage
    words = (ctypes.c_uint64 * ((end - start) // _WORD)).from_address(start)
    return [start + _WORD * number for number, value in enumerate(words) if value == function]


def taken_addresses(function: int) -> list[int]:
    """Addresses of the pointers that the library uses as values: in its tables, and where code takes the address."""
    start, end = _image().linkage
    return [at for at in _index().get(function, []) if not start <= at < end]


def word_at(at: int) -> int:
    """Eight bytes of the library's data."""
    return ctypes.c_uint64.from_address(at).value


def text_at(at: int) -> str:
    """The zero-terminated text that a pointer in the library's data points at; empty if it points elsewhere."""
    start, end = _image().extent
    text = word_at(at)
    return (ctypes.c_char_p(text).value or b"").decode("latin-1") if start <= text < end else ""


def write_word(at: int, value: int) -> bool:
    """Change eight bytes of the library's data; False if the host does not let us."""
    page = at & -mmap.PAGESIZE
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE):
        return False
    ctypes.c_uint64.from_address(at).value = value
    return True


class _Image:
    """Where the parts of the loaded library are."""

    def __init__(self) -> None:
        info = _DlInfo()
        ctypes.CDLL(None).dladdr(ctypes.cast(uclib.uc_open, ctypes.c_void_p), ctypes.byref(info))
        self._base = info.base
        self.data: list[tuple[int, bytes]] = []  # (address, bytes) of what is written when it is loaded
        self.linkage = (0, 0)
        self.extent = (self._base, self._base)
        headers = self._base + ctypes.c_uint64.from_address(self._base + _E_PHOFF).value
        size = ctypes.c_uint16.from_address(self._base + _E_PHENTSIZE).value
        for number in range(ctypes.c_uint16.from_address(self._base + _E_PHNUM).value):
            self._take(headers + number * size)

    def _take(self, header: int) -> None:
        kind = ctypes.c_uint32.from_address(header).value
        start = self._base + ctypes.c_uint64.from_address(header + _P_VADDR).value
        if kind == _PT_DYNAMIC:
            self.linkage = self._linkage_table(start)
        elif kind == _PT_LOAD:
            size = ctypes.c_uint64.from_address(header + _P_MEMSZ).value
            self.extent = (self._base, max(self.extent[1], start + size))
            if not ctypes.c_uint32.from_address(header + _P_FLAGS).value & _PF_W:
                return
            self.data.append((start, ctypes.string_at(start, size)))

    def _linkage_table(self, dynamic: int) -> tuple[int, int]:
        """(start, end) of the procedure linkage table's pointers."""
        tags: dict[int, int] = {}
        while tag := ctypes.c_uint64.from_address(dynamic).value:
            tags[tag] = ctypes.c_uint64.from_address(dynamic + _WORD).value
            dynamic += 2 * _WORD
        table = tags.get(_DT_PLTGOT, 0)
        count = tags.get(_DT_PLTRELSZ, 0) // _RELA_SIZE
        start = table if table >= self._base else self._base + table  # glibc relocates the entry, other linkers do not
        return start + _RESERVED * _WORD, start + (_RESERVED + count) * _WORD


@cache
def _image() -> _Image:
    return _Image()


@cache
def _index() -> dict[int, list[int]]:
    """Addresses of the words in the library's data that point into it, by what they hold. It takes 30 ms."""
    start, end = _image().extent
    found: dict[int, list[int]] = {}
    for at, held in _image().data:
        words = memoryview(held)[: len(held) // _WORD * _WORD].cast("Q")
        for number, value in enumerate(words):
            if start <= value < end:
                found.setdefault(value, []).append(at + _WORD * number)
    return found
