"""Breakpoints on data and on ports in the debug registers.

They are traps: the access is made, and #DB follows its instruction. Breakpoints on execution are in `vcpu`.

Source: Intel SDM Vol. 3B, "Debug Control Register (DR7)", "Breakpoint Field Recognition", "Data Memory and I/O
Breakpoint Exception Conditions".
"""

from collections.abc import Iterable, Iterator
from typing import Final

from vmm.arch.layout import MASK32
from vmm.arch.registers import Cr4
from vmm.cpu.access_checks import Place
from vmm.cpu.vcpu import Vcpu

_DR7: Final = 7
_ENABLES: Final = 0xFF
_DE: Final = int(Cr4.DE)
_WRITES, _PORTS, _READS_AND_WRITES = 1, 2, 3
_LENGTHS: Final = (1, 2, 1, 4)
"""By LEN; 10b is undefined on this processor."""


def _enabled(vcpu: Vcpu) -> Iterator[tuple[int, int, int, int]]:
    """(bit in DR6, R/W, first address or port, length) of each that DR7 enables, locally or globally.

    The length also says which low bits of the address do not count.
    """
    dr7 = vcpu.dr[_DR7]
    for n in range(4):
        if dr7 >> 2 * n & 3:
            length = _LENGTHS[dr7 >> 18 + 4 * n & 3]
            yield 1 << n, dr7 >> 16 + 4 * n & 3, vcpu.dr[n] & ~(length - 1), length


def has_breakpoints(vcpu: Vcpu) -> bool:
    """Is any breakpoint enabled?"""
    return bool(vcpu.dr[_DR7] & _ENABLES)


def watches_data(vcpu: Vcpu) -> bool:
    """Is a breakpoint on data enabled?"""
    return has_breakpoints(vcpu) and any(kind in (_WRITES, _READS_AND_WRITES) for _, kind, _, _ in _enabled(vcpu))


def struck(vcpu: Vcpu, places: Iterable[Place]) -> int:
    """The bits in DR6 of those that accesses strike."""
    found = 0
    if not has_breakpoints(vcpu):
        return found
    for place in places:
        la = vcpu.base(place.seg) + place.offset & MASK32
        for bit, kind, first, length in _enabled(vcpu):
            minds = kind == _READS_AND_WRITES or (kind == _WRITES and place.write)
            if minds and la < first + length and first < la + place.size:
                found |= bit
    return found


def struck_by_port(vcpu: Vcpu, port: int, width: int) -> int:
    """The bits in DR6 of those that an access to `width` ports strikes; there are none without CR4.DE."""
    if not has_breakpoints(vcpu) or not vcpu.cr4 & _DE:
        return 0
    return sum(
        bit
        for bit, kind, first, length in _enabled(vcpu)
        if kind == _PORTS and port < first + length and first < port + width
    )
