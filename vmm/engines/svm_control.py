"""What leaves a guest in guest mode: the control area of its VMCB, and the mask for what the engine cannot intercept.

PUSHF, POPF, CLI, STI, IRET, segment loads, LGDT, LIDT, and the instructions that look at descriptors or store table
registers run natively: the guest's kernel is at CPL 0, and what it sees is its own.

The engine has no intercepts for ports, RDTSCP, SYSENTER and SYSEXIT, and task switches; the mask (`vmm.hw.traps`)
stands for them. A task switch loads CR3, and with no valid TSS it ends the process: so all ways into one leave, far JMP
and CALL, and IRET with NT. So do far RET, and IRET outside CPL 0: the engine does not check them as a processor does.

Source: AMD64 Architecture Programmer's Manual, Vol. 2, "Intercept Operation".
"""

from typing import Final

from vmm.arch import vmcb as block
from vmm.arch.exceptions import Vector
from vmm.arch.vmcb import Intercept, Vmcb
from vmm.hw.host_fpu import TRAPS
from vmm.hw.traps import Trap

_INTERCEPTS: Final = int(
    Intercept.CPUID
    | Intercept.HLT
    | Intercept.RDTSC
    | Intercept.RDTSCP
    | Intercept.RDPMC
    | Intercept.MSR
    | Intercept.INT_N  # the engine delivers nothing
    | Intercept.TASK_SWITCH
    | Intercept.SHUTDOWN
    | Intercept.VMRUN  # from here on: a guest without AMD-V
    | Intercept.VMMCALL
    | Intercept.VMLOAD
    | Intercept.VMSAVE
    | Intercept.STGI
    | Intercept.CLGI
    | Intercept.SKINIT
    | Intercept.INVLPGA
)
_CR0, _CR3, _CR4 = (1 << number for number in (0, 3, 4))
_ALL_DEBUG_REGISTERS: Final = 0xFF
_NESTED_ENABLE: Final = 1 << 0

ALWAYS: Final = TRAPS | int(
    Trap.IO
    | Trap.TSC
    | Trap.FAST_CALL
    | Trap.AMD_CALL
    | Trap.TASK_REGISTER
    | Trap.PUSHF_V86
    | Trap.FAR
    | Trap.FAR_RETURN
    | Trap.ODD_IRET
)
"""Traps for every guest. LLDT, LTR and PUSHF in V86 do natively what a processor does not."""
WINDOW: Final = int(Trap.WINDOW | Trap.IRET)
"""What can set IF, besides far transfers. The VINTR intercept leaves again and again here."""
STEP: Final = WINDOW | int(Trap.INTERRUPT_FLAG | Trap.PUSHF)
"""What also shows or changes TF."""


def fill_control_area(vmcb: Vmcb, nested_root: int | None) -> None:
    """Say what leaves; with nested tables the guest's paging is its own affair.

    CR0 and CR4 writes leave always: the processor below would take bits that the guest's does not have.
    """
    shadowed = nested_root is None
    vmcb.put(block.INTERCEPTS, _INTERCEPTS | (int(Intercept.INVLPG) if shadowed else 0))
    vmcb.put(block.CR_READS, _CR0 | _CR3 | _CR4 if shadowed else 0)
    vmcb.put(block.CR_WRITES, _CR0 | _CR3 | _CR4 if shadowed else _CR0 | _CR4)
    vmcb.put(block.DR_READS, _ALL_DEBUG_REGISTERS)
    vmcb.put(block.DR_WRITES, _ALL_DEBUG_REGISTERS)
    vmcb.put(block.EXCEPTIONS, 1 << Vector.PF if shadowed else 0)
    vmcb.put(block.NESTED_CONTROL, 0 if shadowed else _NESTED_ENABLE)
    vmcb.put(block.NESTED_CR3, nested_root or 0)
