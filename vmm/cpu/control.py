"""Control, debug and table registers, the interrupt flag, and the privilege checks of the rest.

Source: Intel SDM Vol. 2A/2B, "MOV - Move to/from Control Registers", "MOV - Move to/from Debug Registers", "LMSW",
"CLTS", "LGDT/LIDT", "CLI", "STI", "PUSHF/PUSHFD", "POPF/POPFD", "HLT"; Vol. 1, "I/O Privilege Level",
"I/O Permission Bit Map"; Vol. 3A, "Control Registers", "PDPTE Registers", "Debug Registers".
Not modelled: VME, PVI, MCE (the CPUID shows none of them, so their CR4 bits are reserved).
"""

from collections.abc import Callable, Mapping
from typing import Final

from vmm.arch.descriptors import TSS32, TSS32_IO_MAP, tss_layout
from vmm.arch.exceptions import GuestFault, Vector, gp, ud
from vmm.arch.layout import MASK32, Slot
from vmm.arch.registers import ARITHMETIC, Cr0, Cr4, Eflags
from vmm.cpu.segments import require_cpl0
from vmm.cpu.vcpu import STALE_ALL, STALE_LOCAL, Vcpu

_PE: Final = int(Cr0.PE)
_ET: Final = int(Cr0.ET)
_TS: Final = int(Cr0.TS)
_PG: Final = int(Cr0.PG)
_NW: Final = int(Cr0.NW)
_CD: Final = int(Cr0.CD)
_CR0_BITS: Final = int(
    Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS | Cr0.NE | Cr0.WP | Cr0.AM | Cr0.NW | Cr0.CD | Cr0.PG
)  # the rest stays as it is whatever is written, ET stays one
_CR0_PAGING: Final = int(Cr0.PG | Cr0.WP)
_CR0_LOADS_PDPTES: Final = int(Cr0.PG | Cr0.CD | Cr0.NW)  # a change of these or of _CR4_PAGING, under PAE paging
_LMSW_BITS: Final = int(Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS)
CR4_BITS: Final = int(
    Cr4.TSD | Cr4.DE | Cr4.PSE | Cr4.PAE | Cr4.PGE | Cr4.PCE | Cr4.OSFXSR | Cr4.OSXMMEXCPT
)  # all others are reserved
_CR4_PAGING: Final = int(Cr4.PSE | Cr4.PAE | Cr4.PGE)
_CR4_FORMAT: Final = int(Cr4.PSE | Cr4.PAE)  # what the entries mean; PGE is a matter of the TLB
_PAE: Final = int(Cr4.PAE)
_DE: Final = int(Cr4.DE)

_IF: Final = int(Eflags.IF)
_RF: Final = int(Eflags.RF)
_NOT_PUSHED: Final = int(Eflags.VM | Eflags.RF)
_POPPED: Final = ARITHMETIC | int(Eflags.TF | Eflags.DF | Eflags.NT | Eflags.AC | Eflags.ID)
_POPPED_CPL0: Final = _POPPED | _IF | int(Eflags.IOPL)
_LOW_WORD: Final = 0xFFFF

_DR6: Final = 6
_DR7: Final = 7
_DR6_WRITABLE: Final = 0xE00F
_DR6_ONES: Final = 0xFFFF_0FF0
_DR6_BD: Final = 1 << 13
_DR7_GD: Final = 1 << 13
_DR7_WRITABLE: Final = 0xFFFF_23FF
_DR7_ONE: Final = 1 << 10


_CONTROL_REGISTERS: Final = {0: int(Slot.CR0) >> 2, 2: int(Slot.CR2) >> 2, 3: int(Slot.CR3) >> 2, 4: int(Slot.CR4) >> 2}
"""Where in the vCPU page they are, in words."""


# --- control registers --------------------------------------------------------------------------------------


def mov_from_cr(vcpu: Vcpu, cr: int) -> int:
    """MOV r32, CRn. Raises: GuestFault #UD for CR1 and CR5-CR7, #GP(0) at CPL > 0."""
    at = _CONTROL_REGISTERS.get(cr)
    if at is None:
        raise ud()
    require_cpl0(vcpu)
    return vcpu.page[at]


def mov_to_cr(vcpu: Vcpu, cr: int, value: int) -> None:
    """MOV CRn, r32. Raises: GuestFault #UD for CR1 and CR5-CR7, #GP(0) at CPL > 0 and for what CRn does not take."""
    write = _WRITE_CR.get(cr)
    if write is None:
        raise ud()
    require_cpl0(vcpu)
    write(vcpu, value)


def load_cr3(vcpu: Vcpu, value: int) -> None:
    """What MOV CR3 and a task switch do: the page-directory-pointer-table entries under PAE paging come with it.

    All bits of CR3 are kept; those that mean nothing are ignored. Also a load of the value that is there already makes
    the TLB forget. Raises: GuestFault #GP(0) for entries with reserved bits; nothing has changed then.
    """
    if vcpu.cr4 & _PAE and vcpu.cr0 & _PG:
        vcpu.pdptes[:] = vcpu.memory.read_pdptes(value)
    vcpu.cr3 = value
    vcpu.make_stale(STALE_LOCAL)


def _write_cr0(vcpu: Vcpu, value: int) -> None:
    """Reserved bits are ignored (SDM Vol. 3A: "attempts to set them have no impact"), ET is one."""
    new = value & _CR0_BITS | _ET
    if (new & _PG and not new & _PE) or (new & _NW and not new & _CD):
        raise gp()
    changed = new ^ vcpu.cr0
    if changed & _CR0_LOADS_PDPTES and new & _PG and vcpu.cr4 & _PAE:
        vcpu.pdptes[:] = vcpu.memory.read_pdptes(vcpu.cr3)
        vcpu.make_stale(STALE_LOCAL)
    if changed & _CR0_PAGING:
        vcpu.make_stale(STALE_ALL)
    vcpu.cr0 = new


def _write_cr4(vcpu: Vcpu, value: int) -> None:
    if value & ~CR4_BITS:
        raise gp()
    changed = value ^ vcpu.cr4
    if changed & _CR4_PAGING:
        if value & _PAE and vcpu.cr0 & _PG:
            vcpu.pdptes[:] = vcpu.memory.read_pdptes(vcpu.cr3)
        vcpu.make_stale(STALE_ALL if changed & _CR4_FORMAT else STALE_LOCAL)
    vcpu.cr4 = value


def _write_cr2(vcpu: Vcpu, value: int) -> None:
    vcpu.cr2 = value


_WRITE_CR: Final[Mapping[int, Callable[[Vcpu, int], None]]] = {
    0: _write_cr0,
    2: _write_cr2,
    3: load_cr3,
    4: _write_cr4,
}


def lmsw(vcpu: Vcpu, value: int) -> None:
    """LMSW: PE MP EM TS out of a word; PE can be set, not cleared. Raises: GuestFault #GP(0) at CPL > 0."""
    require_cpl0(vcpu)
    kept = vcpu.cr0
    vcpu.cr0 = kept & ~(_LMSW_BITS & ~_PE) | value & _LMSW_BITS


def clts(vcpu: Vcpu) -> None:
    """CLTS. Raises: GuestFault #GP(0) at CPL > 0."""
    require_cpl0(vcpu)
    vcpu.cr0 &= ~_TS


# --- debug registers ----------------------------------------------------------------------------------------


def _debug_register(vcpu: Vcpu, dr: int) -> int:
    """The register meant, DR4 and DR5 resolved. Raises: GuestFault #GP(0), #UD, or #DB when DR7.GD guards them."""
    require_cpl0(vcpu)
    if dr in (4, 5):
        if vcpu.cr4 & _DE:
            raise ud()
        dr += 2
    if vcpu.dr[_DR7] & _DR7_GD:
        vcpu.show_debug(_DR6_BD)
        raise GuestFault(Vector.DB)
    return dr


def mov_from_dr(vcpu: Vcpu, dr: int) -> int:
    """MOV r32, DRn. Raises: GuestFault #GP(0) at CPL > 0, #UD for DR4 and DR5 under CR4.DE, #DB under DR7.GD."""
    return vcpu.dr[_debug_register(vcpu, dr)]


def mov_to_dr(vcpu: Vcpu, dr: int, value: int) -> None:
    """MOV DRn, r32; reserved bits of DR6 and DR7 keep their fixed values. Raises: as `mov_from_dr`."""
    dr = _debug_register(vcpu, dr)
    if dr == _DR6:
        value = value & _DR6_WRITABLE | _DR6_ONES
    elif dr == _DR7:
        value = value & _DR7_WRITABLE | _DR7_ONE
    vcpu.dr[dr] = value & MASK32
    vcpu.segments_changed = True  # to the engine: what code may run is another matter now


# --- descriptor-table registers -----------------------------------------------------------------------------


def lgdt(vcpu: Vcpu, base: int, limit: int, size: int) -> None:
    """LGDT; a 16-bit operand takes 24 bits of the base. Raises: GuestFault #GP(0) at CPL > 0.

    The check comes before the operand is read: call `require_cpl0` first when it lies in memory.
    """
    require_cpl0(vcpu)
    vcpu.gdtr = (_table_base(base, size), limit)


def lidt(vcpu: Vcpu, base: int, limit: int, size: int) -> None:
    """LIDT; as `lgdt`."""
    require_cpl0(vcpu)
    vcpu.idtr = (_table_base(base, size), limit)


def _table_base(base: int, size: int) -> int:
    return base & (0xFF_FFFF if size == 2 else MASK32)


# --- the interrupt flag and EFLAGS --------------------------------------------------------------------------


def _require_iopl(vcpu: Vcpu) -> None:
    """#GP(0) when CPL > IOPL; in V86 CPL is 3, in real mode 0."""
    if vcpu.cpl > vcpu.iopl:
        raise gp()


def cli(vcpu: Vcpu) -> None:
    """CLI. Raises: GuestFault #GP(0) when CPL > IOPL."""
    _require_iopl(vcpu)
    vcpu.interrupts_enabled = False


def sti(vcpu: Vcpu) -> None:
    """STI; when it changes IF, interrupts stay out for one more instruction. Raises: GuestFault #GP(0)."""
    _require_iopl(vcpu)
    if not vcpu.interrupts_enabled:
        vcpu.interrupts_enabled = True
        vcpu.interrupt_shadow = True


def pushf_image(vcpu: Vcpu, size: int) -> int:
    """What PUSHF (`size` 2) or PUSHFD (4) pushes: VM and RF read as zero.

    Raises: GuestFault #GP(0) in V86 with IOPL < 3.
    """
    if vcpu.is_v86:
        _require_iopl(vcpu)
    image = vcpu.eflags & ~_NOT_PUSHED
    return image & _LOW_WORD if size == 2 else image


def popf(vcpu: Vcpu, value: int, size: int) -> None:
    """POPF (`size` 2) or POPFD (4) with the popped value.

    CPL 0 changes IF and IOPL, CPL <= IOPL only IF; VM never changes, RF ends clear.
    Raises: GuestFault #GP(0) in V86 with IOPL < 3.
    """
    if vcpu.is_v86:
        _require_iopl(vcpu)
    if vcpu.cpl == 0:
        writable = _POPPED_CPL0
    else:
        writable = _POPPED | _IF if vcpu.cpl <= vcpu.iopl else _POPPED
    if size == 2:
        writable &= _LOW_WORD
    vcpu.eflags = vcpu.eflags & ~(writable | _RF) | value & writable


# --- privileged instructions with nothing else to check -----------------------------------------------------


def hlt(vcpu: Vcpu) -> None:
    """HLT; the caller advances EIP. Raises: GuestFault #GP(0) at CPL > 0."""
    require_cpl0(vcpu)
    vcpu.halted = True


def check_io(vcpu: Vcpu, port: int, width: int) -> None:
    """The permission check of IN, OUT, INS and OUTS on `width` ports.

    Raises: GuestFault #GP(0) when CPL > IOPL or in V86, and the TSS has no clear bits for these ports; #PF.
    """
    if not vcpu.is_protected or (vcpu.cpl <= vcpu.iopl and not vcpu.is_v86):
        return
    tr = vcpu.tr
    if tss_layout(tr.flags) is not TSS32 or not tr.is_present or tr.limit < TSS32.size - 1:
        raise gp()
    at = vcpu.memory.read(tr.base + TSS32_IO_MAP & MASK32, 2, False) + (port >> 3)
    if at + 1 > tr.limit:  # two bytes are read always: hence the all-ones byte behind the map
        raise gp()
    bits = vcpu.memory.read(tr.base + at & MASK32, 2, False) >> (port & 7)
    if bits & ((1 << width) - 1):
        raise gp()
