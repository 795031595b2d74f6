"""The alignment check: CR0.AM and EFLAGS.AC at CPL 3.

Source: Intel SDM Vol. 3A, "Interrupt 17 - Alignment Check Exception (#AC)", table "Alignment Requirements by Data
Type". Operands of 16 bytes and more have their own rule, which is #GP.
"""

from typing import Final

from bt.decode import Insn
from vmm.arch.layout import MASK32
from vmm.cpu.access_checks import places
from vmm.cpu.operands import require_aligned
from vmm.cpu.vcpu import Vcpu

_BY_SIZE: Final = {6: 4, 10: 8, 14: 2, 16: 1, 28: 4, 94: 2, 108: 4, 512: 1}
"""Of operands whose size is not their alignment: pointers and pseudo-descriptors, extended precision, x87 images."""
_PAIRS: Final = frozenset((0x62, 0xC4, 0xC5, 0x0FB2, 0x0FB4, 0x0FB5))
"""BOUND and LES, LDS, LSS, LFS, LGS: each part is aligned as it is by itself."""


def check_alignment(vcpu: Vcpu, insn: Insn) -> None:
    """Raises: GuestFault #AC(0): an access of a user's instruction is not aligned; the page fault that comes first."""
    for place in places(vcpu, insn):
        la = vcpu.base(place.seg) + place.offset & MASK32
        alignment = insn.operand_size if insn.opcode in _PAIRS else _BY_SIZE.get(place.size, place.size)
        require_aligned(vcpu, la, place.size, place.write, alignment)
