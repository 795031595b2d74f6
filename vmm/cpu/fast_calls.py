"""SYSENTER and SYSEXIT: ring 3 to ring 0 and back without a descriptor in sight.

Both load CS and SS with fixed flat descriptors; only the selectors come from a register, IA32_SYSENTER_CS, and nobody
checks that the tables agree. No stack is written. DS, ES, FS and GS stay as they are.

Source: Intel SDM Vol. 2B, "SYSENTER - Fast System Call", "SYSEXIT - Fast Return from Fast System Call".
"""

from functools import lru_cache
from typing import Final

from vmm.arch.exceptions import gp
from vmm.arch.layout import MASK32
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.cpu.vcpu import (
    DESC_B,
    DESC_DPL,
    DESC_G,
    DESC_P,
    DESC_S,
    DESC_TYPE_CODE_RE_A,
    DESC_TYPE_DATA_RW_A,
    SegmentRegister,
    Vcpu,
)

_CS: Final = int(Seg.CS)
_SS: Final = int(Seg.SS)
_ESP: Final = int(Reg.ESP)
_ECX: Final = int(Reg.ECX)
_EDX: Final = int(Reg.EDX)
_CLEARED: Final = int(Eflags.VM | Eflags.RF)
_SELECTOR: Final = 0xFFFC
_RPL_3: Final = 3
_TO_STACK: Final = 8  # from a code selector to the stack selector that belongs to it
_TO_USER: Final = 16  # from the code selector of ring 0 to that of ring 3
_FLAT: Final = DESC_P | DESC_S | DESC_B | DESC_G
_CODE: Final = _FLAT | DESC_TYPE_CODE_RE_A
_STACK: Final = _FLAT | DESC_TYPE_DATA_RW_A

_segment = lru_cache(maxsize=16)(SegmentRegister)
"""The same four segments are loaded at every system call."""


def sysenter(vcpu: Vcpu) -> None:
    """SYSENTER: to ring 0, at the place and on the stack that the MSRs name. TF stays, so a debugger steps into it.

    Raises: GuestFault #GP(0) in real mode and when IA32_SYSENTER_CS holds a null selector.
    """
    selector = vcpu.sysenter_cs & _SELECTOR
    if not selector or not vcpu.is_protected:
        raise gp()
    vcpu.field_flags &= ~_CLEARED
    vcpu.interrupts_enabled = False
    vcpu.set_segment(_CS, _segment(selector, 0, MASK32, _CODE))
    vcpu.set_segment(_SS, _segment(selector + _TO_STACK & 0xFFFF, 0, MASK32, _STACK))
    vcpu.cpl = 0
    vcpu.set_reg32(_ESP, vcpu.sysenter_esp)
    vcpu.eip = vcpu.sysenter_eip


def sysexit(vcpu: Vcpu) -> None:
    """SYSEXIT: to ring 3, at EDX, on the stack at ECX. EFLAGS stays as it is.

    Raises: GuestFault #GP(0) at CPL > 0, in real mode and when IA32_SYSENTER_CS holds a null selector.
    """
    selector = vcpu.sysenter_cs & _SELECTOR
    if vcpu.cpl or not selector or not vcpu.is_protected:
        raise gp()
    code = selector + _TO_USER & 0xFFFF
    vcpu.set_segment(_CS, _segment(code | _RPL_3, 0, MASK32, _CODE | DESC_DPL))
    vcpu.set_segment(_SS, _segment(code + _TO_STACK & 0xFFFF | _RPL_3, 0, MASK32, _STACK | DESC_DPL))
    vcpu.cpl = 3
    vcpu.set_reg32(_ESP, vcpu.reg32(_ECX))
    vcpu.eip = vcpu.reg32(_EDX)
