"""Segment registers and descriptor tables: loads, the checks behind them, and the instructions that ask.

A check ends in an `Entry`: a descriptor, where it was found, and under which selector. Checking changes nothing;
`mark_accessed` and `Vcpu.set_segment` do. So a caller can check all that an instruction needs and only then commit.

Real mode replaces only selector and base and keeps the hidden limit and attributes ("unreal" mode lives on that);
V86 sets all of them.

Source: Intel SDM Vol. 3A, "Protection"; Vol. 2A/2B, the instructions' "Operation" sections.
Not modelled: alignment checks (#AC) on descriptor-table accesses, which are supervisor accesses and never raise it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from vmm.arch.descriptors import (
    ACCESS_BYTE,
    ACCESSED,
    CALL_GATES,
    CODE,
    CONFORMING,
    DESCRIPTOR_SIZE,
    DPL_SHIFT,
    NOT_SYSTEM,
    PRESENT,
    SELECTOR_ERROR,
    SELECTOR_INDEX,
    SELECTOR_RPL,
    SELECTOR_TI,
    TSS_AVAILABLE,
    TSS_BUSY,
    TSS_IN_USE,
    TYPE_SHIFT,
    Descriptor,
    SystemType,
)
from vmm.arch.exceptions import GuestFault, Vector, gp, ud
from vmm.arch.layout import MASK32
from vmm.arch.registers import Seg
from vmm.cpu.vcpu import NULL_SEGMENT, REAL_MODE_DATA, SegmentRegister, Vcpu

_CPL3: Final = 3 << DPL_SHIFT
LIMIT_64K: Final = 0xFFFF
_CONFORMING_CODE: Final = NOT_SYSTEM | CODE | CONFORMING
_LAR_TYPES: Final = TSS_AVAILABLE | TSS_IN_USE | CALL_GATES | {int(SystemType.LDT), int(SystemType.TASK_GATE)}
_LSL_TYPES: Final = TSS_AVAILABLE | TSS_IN_USE | {int(SystemType.LDT)}
_OUTER_NULLED: Final = (int(Seg.ES), int(Seg.DS), int(Seg.FS), int(Seg.GS))


def selector_fault(vector: int, selector: int) -> GuestFault:
    """A fault whose error code names a selector (SDM Vol. 3A, "Error Code"): its RPL bits are not part of it."""
    return GuestFault(vector, selector & SELECTOR_ERROR)


def is_null(selector: int) -> bool:
    """Index and TI are zero; RPL does not count."""
    return not selector & SELECTOR_ERROR


@dataclass(frozen=True, slots=True)
class Entry:
    """A descriptor, the linear address it was read from, and the selector it was read for."""

    selector: int
    address: int
    descriptor: Descriptor

    def register(self, rpl: int) -> SegmentRegister:
        """The segment register it becomes: accessed, its selector with this RPL."""
        found = self.descriptor
        return SegmentRegister(self.selector & SELECTOR_ERROR | rpl, found.base, found.limit, found.flags | ACCESSED)


@lru_cache(maxsize=4096)
def _entry(selector: int, address: int, raw: bytes) -> Entry:
    """Remembered: guests use the same few descriptors again and again."""
    return Entry(selector, address, Descriptor.from_bytes(raw))


# --- descriptor tables --------------------------------------------------------------------------------------


def _locate(vcpu: Vcpu, selector: int) -> int | None:
    """The linear address of a selector's descriptor, None beyond the table's limit."""
    if selector & SELECTOR_TI:
        base, limit = vcpu.ldtr.base, vcpu.ldtr.limit
    else:
        base, limit = vcpu.gdtr
    index = selector & SELECTOR_INDEX
    return None if index + DESCRIPTOR_SIZE - 1 > limit else base + index & MASK32


def read_descriptor(vcpu: Vcpu, selector: int, vector: int = Vector.GP) -> tuple[bytes, int]:
    """The eight bytes that a selector names, and their linear address.

    Raises: GuestFault: `vector` (#GP, or #TS on the way into a task or an inner stack) with the selector beyond the
    table's limit; #PF. A null selector is not refused here: entry 0 of the GDT is read.
    """
    address = _locate(vcpu, selector)
    if address is None:
        raise selector_fault(vector, selector)
    return vcpu.memory.read_bytes(address, DESCRIPTOR_SIZE, False), address


def find(vcpu: Vcpu, selector: int, vector: int = Vector.GP) -> Entry:
    """The decoded descriptor of a non-null selector; `vector` is raised for a null one (error code 0) too."""
    if is_null(selector):
        raise GuestFault(vector, 0)
    raw, address = read_descriptor(vcpu, selector, vector)
    return _entry(selector, address, raw)


def mark_accessed(vcpu: Vcpu, entry: Entry) -> None:
    """Set the accessed bit in the guest's table when it is clear. Raises: GuestFault #PF."""
    if not entry.descriptor.is_accessed:
        access = (entry.descriptor.flags | ACCESSED) >> TYPE_SHIFT & 0xFF
        vcpu.memory.write(entry.address + ACCESS_BYTE & MASK32, 1, access, False)


# --- checks -------------------------------------------------------------------------------------------------


def data_entry(vcpu: Vcpu, selector: int, cpl: int, vector: int = Vector.GP) -> Entry:
    """Check a non-null selector for DS, ES, FS or GS at `cpl`. Raises `vector` or #NP with the selector."""
    entry = find(vcpu, selector, vector)
    found = entry.descriptor
    if not found.is_readable:
        raise selector_fault(vector, selector)
    if not found.is_conforming and found.dpl < max(cpl, selector & SELECTOR_RPL):
        raise selector_fault(vector, selector)
    if not found.is_present:
        raise selector_fault(Vector.NP, selector)
    return entry


def stack_entry(vcpu: Vcpu, selector: int, cpl: int, vector: int = Vector.GP) -> Entry:
    """Check a selector for SS at the new `cpl`. Raises `vector` (0 for null) or #SS with the selector."""
    entry = find(vcpu, selector, vector)
    found = entry.descriptor
    if selector & SELECTOR_RPL != cpl or found.dpl != cpl or not found.is_writable:
        raise selector_fault(vector, selector)
    if not found.is_present:
        raise selector_fault(Vector.SS, selector)
    return entry


def code_entry_at_rpl(vcpu: Vcpu, selector: int, vector: int = Vector.GP) -> Entry:
    """Check a code segment that will run at the selector's RPL: returns and task switches.

    Raises `vector` (0 for null) or #NP with the selector.
    """
    entry = find(vcpu, selector, vector)
    found = entry.descriptor
    rpl = selector & SELECTOR_RPL
    if not found.is_code or found.dpl > rpl or (found.dpl != rpl and not found.is_conforming):
        raise selector_fault(vector, selector)
    if not found.is_present:
        raise selector_fault(Vector.NP, selector)
    return entry


def return_code_entry(vcpu: Vcpu, selector: int) -> Entry:
    """Check the code segment that RETF or IRET goes back to: never an inner ring. Raises #GP or #NP."""
    if selector & SELECTOR_RPL < vcpu.cpl:
        find(vcpu, selector)  # null and beyond the limit come first, but with the same vector
        raise selector_fault(Vector.GP, selector)
    return code_entry_at_rpl(vcpu, selector)


# --- loads --------------------------------------------------------------------------------------------------


def real_mode_segment(vcpu: Vcpu, seg: int, selector: int) -> SegmentRegister:
    """What a load makes of a segment register in real mode (only the base moves) or in V86 (all is set).

    A register that holds a null selector of protected mode becomes 64 KiB of writable data.
    """
    base = selector << 4
    if vcpu.is_v86:
        return v86_segment(selector)
    old = vcpu.segment(seg)
    if not old.is_present:
        return SegmentRegister(selector, base, LIMIT_64K, REAL_MODE_DATA)
    return SegmentRegister(selector, base, old.limit, old.flags)


def v86_segment(selector: int) -> SegmentRegister:
    """A segment register in V86, CS too: writable data, DPL 3.

    Source: SDM Vol. 3C, "Checks on Guest Segment Registers": F3h is what every one of them holds in V86.
    """
    return SegmentRegister(selector, selector << 4, 0xFFFF, REAL_MODE_DATA | _CPL3)


def load_data_segment(vcpu: Vcpu, seg: int, selector: int) -> None:
    """Load ES, DS, FS or GS, as MOV, POP and LDS..LGS do. Raises: GuestFault #GP, #NP, #PF.

    Source: SDM Vol. 2B, "MOV - Move".
    """
    if not vcpu.is_protected or vcpu.is_v86:
        vcpu.set_segment(seg, real_mode_segment(vcpu, seg, selector))
    elif is_null(selector):
        vcpu.set_segment(seg, SegmentRegister(selector, 0, 0, 0))
    else:
        entry = data_entry(vcpu, selector, vcpu.cpl)
        mark_accessed(vcpu, entry)
        vcpu.set_segment(seg, entry.register(selector & SELECTOR_RPL))


def load_stack_segment(vcpu: Vcpu, selector: int) -> None:
    """Load SS, as MOV, POP and LSS do; the interrupt shadow of MOV and POP is the caller's.

    Raises: GuestFault #GP (0 for a null selector), #SS when not present, #PF.
    Source: SDM Vol. 2B, "MOV - Move".
    """
    if not vcpu.is_protected or vcpu.is_v86:
        vcpu.set_segment(Seg.SS, real_mode_segment(vcpu, Seg.SS, selector))
        return
    entry = stack_entry(vcpu, selector, vcpu.cpl)
    mark_accessed(vcpu, entry)
    vcpu.set_segment(Seg.SS, entry.register(vcpu.cpl))


def null_outer_segments(vcpu: Vcpu) -> None:
    """After a return to an outer ring: null the data segments that the new CPL could not have loaded.

    Source: SDM Vol. 2B, "RET - Return from Procedure": null selectors of any RPL become 0.
    """
    for seg in _OUTER_NULLED:
        flags = vcpu.flags_of(seg)
        is_conforming = flags & _CONFORMING_CODE == _CONFORMING_CODE
        if not flags & PRESENT or (flags >> DPL_SHIFT & 3 < vcpu.cpl and not is_conforming):
            vcpu.set_segment(seg, NULL_SEGMENT)


# --- privilege ----------------------------------------------------------------------------------------------


def require_protected(vcpu: Vcpu) -> None:
    """#UD in real mode and V86: LLDT LTR SLDT STR LAR LSL VERR VERW ARPL are not recognized there."""
    if not vcpu.is_protected or vcpu.is_v86:
        raise ud()


def require_cpl0(vcpu: Vcpu) -> None:
    """#GP(0) unless CPL is 0; real mode counts as 0, V86 as 3."""
    if vcpu.cpl:
        raise gp()


# --- LDTR and TR --------------------------------------------------------------------------------------------


def _system_entry(vcpu: Vcpu, selector: int, types: frozenset[int]) -> Entry:
    """A present system descriptor in the GDT. Raises #GP with the selector (0 for null), #NP."""
    if selector & SELECTOR_TI:
        raise selector_fault(Vector.GP, selector)
    entry = find(vcpu, selector)
    if entry.descriptor.system_type not in types:
        raise selector_fault(Vector.GP, selector)
    if not entry.descriptor.is_present:
        raise selector_fault(Vector.NP, selector)
    return entry


def system_register(entry: Entry) -> SegmentRegister:
    """LDTR or TR as loaded from a descriptor."""
    found = entry.descriptor
    return SegmentRegister(entry.selector, found.base, found.limit, found.flags)


def lldt(vcpu: Vcpu, selector: int) -> None:
    """LLDT: load the LDTR; a null selector leaves the guest without an LDT.

    Raises: GuestFault #UD, #GP(0) at CPL > 0, #GP(selector), #NP(selector), #PF.
    Source: SDM Vol. 2A, "LLDT - Load Local Descriptor Table Register".
    """
    require_protected(vcpu)
    require_cpl0(vcpu)
    if is_null(selector):
        vcpu.ldtr = SegmentRegister(selector, 0, 0, 0)
    else:
        vcpu.ldtr = system_register(_system_entry(vcpu, selector, frozenset({int(SystemType.LDT)})))


def ltr(vcpu: Vcpu, selector: int) -> None:
    """LTR: load the task register and mark its TSS busy, in memory and in TR.

    Raises: GuestFault #UD, #GP(0) at CPL > 0 and for null, #GP(selector), #NP(selector), #PF.
    Source: SDM Vol. 2A, "LTR - Load Task Register".
    """
    require_protected(vcpu)
    require_cpl0(vcpu)
    entry = available_tss(vcpu, selector)
    set_busy(vcpu, entry)
    vcpu.tr = busy_register(entry)


def available_tss(vcpu: Vcpu, selector: int) -> Entry:
    """A present TSS that is not busy. Raises #GP with the selector (0 for null), #NP."""
    return _system_entry(vcpu, selector, TSS_AVAILABLE)


def set_busy(vcpu: Vcpu, entry: Entry) -> None:
    """Set the busy bit of a TSS descriptor in the guest's GDT."""
    access = entry.descriptor.flags >> TYPE_SHIFT & 0xFF | TSS_BUSY
    vcpu.memory.write(entry.address + ACCESS_BYTE & MASK32, 1, access, False)


def busy_register(entry: Entry) -> SegmentRegister:
    """TR as loaded from a TSS descriptor: always busy."""
    register = system_register(entry)
    return SegmentRegister(register.selector, register.base, register.limit, register.flags | TSS_BUSY << TYPE_SHIFT)


# --- LAR LSL VERR VERW ARPL ---------------------------------------------------------------------------------


def _visible(vcpu: Vcpu, selector: int) -> Descriptor | None:
    """The descriptor behind a selector if there is one and CPL and RPL may see it."""
    require_protected(vcpu)
    if is_null(selector) or _locate(vcpu, selector) is None:
        return None
    found = find(vcpu, selector).descriptor
    if not found.is_conforming and found.dpl < max(vcpu.cpl, selector & SELECTOR_RPL):
        return None
    return found


def lar(vcpu: Vcpu, selector: int) -> int | None:
    """LAR: the access rights as a 32-bit value masked with 00F0FF00h (bits 19:16 are undefined), or None: ZF = 0.

    Raises: GuestFault #UD, #PF. Source: SDM Vol. 2A, "LAR - Load Access Rights Byte".
    """
    found = _visible(vcpu, selector)
    if found is None or (found.is_system and found.type not in _LAR_TYPES):
        return None
    return found.flags


def lsl(vcpu: Vcpu, selector: int) -> int | None:
    """LSL: the limit in bytes, 32 bits, or None: ZF = 0.

    Raises: GuestFault #UD, #PF. Source: SDM Vol. 2A, "LSL - Load Segment Limit".
    """
    found = _visible(vcpu, selector)
    if found is None or (found.is_system and found.type not in _LSL_TYPES):
        return None
    return found.limit


def verr(vcpu: Vcpu, selector: int) -> bool:
    """VERR: ZF. Raises: GuestFault #UD, #PF. Source: SDM Vol. 2B, "VERR/VERW"."""
    found = _visible(vcpu, selector)
    return found is not None and found.is_readable


def verw(vcpu: Vcpu, selector: int) -> bool:
    """VERW: ZF. Raises: GuestFault #UD, #PF. Source: SDM Vol. 2B, "VERR/VERW"."""
    found = _visible(vcpu, selector)
    return found is not None and found.is_writable


def arpl(dest: int, src: int) -> tuple[int, bool]:
    """ARPL: (new destination selector, ZF). Source: SDM Vol. 2A, "ARPL - Adjust RPL Field of Segment Selector"."""
    if dest & SELECTOR_RPL < src & SELECTOR_RPL:
        return dest & ~SELECTOR_RPL | src & SELECTOR_RPL, True
    return dest, False
