"""The virtual CPU: what the guest believes about its processor.

Registers live where the physical CPU can use them at once (the state overlay) or, where a deprivileged guest must not
touch the real ones, in the vCPU page. This class gives all of them their guest meaning; emulation speaks only to it.

Three places hold EFLAGS: the arithmetic bits and DF are lazy in the overlay, IF and IOPL/NT/AC/ID are in the vCPU
page, TF, RF and VM are fields here. `eflags` puts them together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Final, Protocol

from vmm.arch.layout import MASK32, PAGE_MASK, Slot
from vmm.arch.registers import ARITHMETIC, Cr0, Eflags, Reg, Seg
from vmm.cpu.apic import ProcessorApic
from vmm.hw import state as hw
from vmm.hw.state import CpuState

_IF: Final = int(Eflags.IF)
_DF: Final = int(Eflags.DF)
_ONE: Final = int(Eflags.ONE)
_PAGE_FLAGS: Final = int(Eflags.IOPL | Eflags.NT | Eflags.AC | Eflags.ID)
_FIELD_FLAGS: Final = int(Eflags.TF | Eflags.RF | Eflags.VM)
_PE: Final = int(Cr0.PE)
_PG: Final = int(Cr0.PG)
_VM: Final = int(Eflags.VM)

# Words of the vCPU page.
_CPUID_KNOWN_AT: Final = int(Slot.CPUID_KNOWN) >> 2
_CR0_AT: Final = int(Slot.CR0) >> 2
_FLAGS_AT: Final = int(Slot.FLAGS) >> 2
_GDT_BASE_AT: Final = int(Slot.GDT_BASE) >> 2
_GDT_LIMIT_AT: Final = int(Slot.GDT_LIMIT) >> 2
_IDT_BASE_AT: Final = int(Slot.IDT_BASE) >> 2
_IDT_LIMIT_AT: Final = int(Slot.IDT_LIMIT) >> 2
_IF_AT: Final = int(Slot.IF) >> 2
_LDTR_AT: Final = int(Slot.LDTR) >> 2
_PENDING_AT: Final = int(Slot.PENDING) >> 2
_TR_AT: Final = int(Slot.TR) >> 2
_TR_BASE_AT: Final = int(Slot.TR_BASE) >> 2
_TR_FLAGS_AT: Final = int(Slot.TR_FLAGS) >> 2

_SEGMENT_AT: Final = tuple(hw.D_SEGS + seg * hw.SEG_WORDS for seg in range(6))
_BASE: Final = hw.SEG_BASE
_LIMITS_AT: Final = tuple(at + hw.SEG_LIMIT for at in _SEGMENT_AT)
_BASE_HIGH: Final = hw.SEG_BASE + 1
_LIMIT: Final = hw.SEG_LIMIT
_HIDDEN: Final = hw.SEG_FLAGS
_CODE_AND_STACK: Final = slice(4 * _SEGMENT_AT[Seg.CS], 4 * (_SEGMENT_AT[Seg.SS] + hw.SEG_WORDS))  # neighbours
_IS_DATA: Final = tuple(seg not in (Seg.CS, Seg.SS) for seg in range(6))
_DATA_HIDDEN: Final = tuple((seg, _SEGMENT_AT[seg] + hw.SEG_FLAGS) for seg in range(6) if _IS_DATA[seg])
_USER_DPL: Final = 3

# Descriptor dword 1, as the hidden part of a segment register keeps it.
DESC_TYPE_DATA_RW_A: Final = 3 << 8
DESC_TYPE_CODE_RE_A: Final = 11 << 8
DESC_TYPE_BUSY: Final = 2 << 8
"""In the type of a TSS."""
DESC_S: Final = 1 << 12
DESC_DPL: Final = 3 << 13
DESC_DPL_SHIFT: Final = 13
DESC_P: Final = 1 << 15
LOADED_NATIVELY: Final = 1 << 21
"""The L bit, which a data segment outside 64-bit mode has no use for: see `shadow_gdt.py`."""
DESC_B: Final = 1 << 22
DESC_G: Final = 1 << 23
REAL_MODE_DATA: Final = DESC_P | DESC_S | DESC_TYPE_DATA_RW_A
REAL_MODE_CODE: Final = DESC_P | DESC_S | DESC_TYPE_CODE_RE_A


class Stale(IntFlag):
    """Which translations the guest has told its TLB to forget (SDM Vol. 3A, "Invalidation of TLBs and
    Paging-Structure Caches"). `Vcpu.stale` holds the union as an int."""

    NONE = 0
    PAGE = 1 << 0  # those of `Vcpu.stale_pages`: INVLPG
    LOCAL = 1 << 1  # all that are not as the guest's tables now say: MOV CR3, CR4.PGE, a task switch
    ALL = (
        1 << 2
    )  # all, for entries mean something else now: CR0.PG, CR0.WP, CR4.PSE, PAE, EFER.NXE, A20, the memory map


STALE_PAGE: Final = int(Stale.PAGE)
STALE_LOCAL: Final = int(Stale.LOCAL)
STALE_ALL: Final = int(Stale.ALL)
_STALE_PAGES_MAX: Final = 32
_FPU_CONTROL_RESET: Final = 0x0040
_MXCSR_RESET: Final = 0x1F80
_DR6: Final = 6
_DR6_BREAKPOINTS: Final = 0xF  # B0 to B3
_DR7_ENABLES: Final = 0xFF  # L0 G0 to L3 G3


@dataclass(slots=True, frozen=True)
class SegmentRegister:
    """A segment register with its hidden part, as the guest loaded it.

    `selector` 16 bits, `base` 32 bits, `limit` 32 bits in bytes (granularity applied), `flags` descriptor dword 1
    with its base bits ignored (type 11:8, S 12, DPL 14:13, P 15, AVL 20, D/B 22, G 23).
    """

    selector: int
    base: int
    limit: int
    flags: int

    @property
    def dpl(self) -> int:
        """Descriptor privilege level, 0-3."""
        return self.flags >> DESC_DPL_SHIFT & 3

    @property
    def is_present(self) -> bool:
        """P bit: also false for a register that holds a null selector."""
        return bool(self.flags & DESC_P)


NULL_SEGMENT: Final = SegmentRegister(0, 0, 0, 0)


class LinearMemory(Protocol):
    """Guest-linear memory as the guest's own accesses see it: A20, paging, faults. Little-endian.

    `user` tells whether the access counts as CPL 3 for paging; system accesses (descriptor tables, TSS, stacks of inner
    rings) pass False. Raises GuestFault #PF with error code and cr2. Accesses may cross pages; nothing is written
    unless all of it can be.
    """

    def read(self, la: int, size: int, user: bool) -> int: ...
    def write(self, la: int, size: int, value: int, user: bool) -> None: ...
    def read_bytes(self, la: int, count: int, user: bool) -> bytes: ...
    def write_bytes(self, la: int, data: bytes, user: bool) -> None: ...
    def check_read(self, la: int, count: int, user: bool) -> None: ...
    def check_write(self, la: int, count: int, user: bool) -> None: ...
    def read_pdptes(self, cr3: int) -> list[int]: ...


def _page_register(slot: Slot) -> Any:
    """A property for a 32-bit register that lives in the vCPU page."""
    index = int(slot) >> 2

    def get(vcpu: "Vcpu") -> int:
        return vcpu.page[index]

    def put(vcpu: "Vcpu", value: int) -> None:
        vcpu.page[index] = value & MASK32

    return property(get, put)


class Vcpu:
    """One virtual processor of a VM.

    `eip` and `cpl` are the guest's, valid whenever the guest is not running in the cache. `fold_flags` is bound by the
    physical CPU while it runs this vCPU: it returns the arithmetic flags and DF out of the lazy form. `power_on` is the
    engine's state after its own reset: it has the FPU's and what is not architectural.
    """

    def __init__(self, page: memoryview, memory: LinearMemory, power_on: bytes | None = None) -> None:
        self.page = page.cast("B").cast("I")
        self.memory = memory
        self.apic: ProcessorApic | None = None
        self._power_on = bytes(hw.STATE_SIZE) if power_on is None else power_on
        self.state = CpuState.blank()
        self.fold_flags: Callable[[], int] = self._fold_plain
        self.eip = 0
        self.cpl = 0
        self.field_flags = 0  # TF, RF, VM
        self.segments_changed = True  # the engine must bring the physical CPU's segments into step
        self._segment_flags = [0] * 6  # see segment_flags
        self.ldtr = NULL_SEGMENT
        self.tr = NULL_SEGMENT
        self.dr = [0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400]
        self.msrs: dict[int, int] = {}
        self.halted = False
        self.interrupt_shadow = False  # STI, MOV SS or POP SS was the last instruction
        self.nmi_pending = self.nmi_blocked = False  # an NMI waits; one is being handled, until the next IRET
        self.efer = 0  # EFER, as far as there is one: NXE
        self.pdptes = [0, 0, 0, 0]  # as the last load of CR3 under PAE paging found them, 64 bits each
        self.stale = 0  # Stale bits: what the engine's shadow must forget before the guest goes on
        self.stale_pages: list[int] = []  # with Stale.PAGE: linear addresses, 4-KByte aligned
        self.x87_error = False  # FERR# is asserted: with CR0.NE clear an instruction has met an x87 error
        self.pending_debug = 0  # DR6 bits of a #DB trap due before the next instruction
        self.reset()

    # --- reset -----------------------------------------------------------------------------------------

    def reset(self) -> None:
        """The state after RESET (SDM Vol. 3A, "Processor State After Reset")."""
        self.state.buffer[:] = self._power_on
        self.state.buffer[hw.FPU_CONTROL : hw.FPU_CONTROL + 2] = _FPU_CONTROL_RESET.to_bytes(2, "little")
        self.state.buffer[hw.MXCSR : hw.MXCSR + 4] = _MXCSR_RESET.to_bytes(4, "little")
        for reg in Reg:
            self.set_reg32(reg, 0)
        for index in range(len(self.page)):
            self.page[index] = 0
        self.field_flags = 0
        self.cpl = 0
        self.eip = 0xFFF0
        self.halted = False
        self.interrupt_shadow = False
        self.nmi_pending = self.nmi_blocked = False
        self.efer = 0
        self.sysenter_cs = self.sysenter_esp = self.sysenter_eip = 0
        self.pdptes[:] = [0, 0, 0, 0]
        self.make_stale(STALE_ALL)
        self.pending_debug = 0
        self.x87_error = False
        self.msrs.clear()
        self.dr[:] = [0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400]
        self.eflags = _ONE
        self.cr0 = int(Cr0.ET | Cr0.CD | Cr0.NW)
        for seg in Seg:
            self.set_segment(seg, SegmentRegister(0, 0, 0xFFFF, REAL_MODE_DATA))
        self.set_segment(Seg.CS, SegmentRegister(0xF000, 0xFFFF_0000, 0xFFFF, REAL_MODE_CODE))
        self.ldtr = SegmentRegister(0, 0, 0xFFFF, DESC_P | 2 << 8)
        self.tr = SegmentRegister(0, 0, 0xFFFF, DESC_P | 11 << 8)
        self.idtr = (0, 0xFFFF)
        self.gdtr = (0, 0xFFFF)
        self.set_reg32(Reg.EDX, CPU_SIGNATURE)

    def move_into(self, state: CpuState, fold_flags: Callable[[], int]) -> None:
        """From now on the registers live in another state, a physical CPU's; `fold_flags` is how that tells the
        arithmetic flags and DF."""
        state.buffer[:] = self.state.buffer
        self.state = state
        self.fold_flags = fold_flags

    # --- modes -----------------------------------------------------------------------------------------

    @property
    def is_protected(self) -> bool:
        """CR0.PE is set; true in V86 too."""
        return bool(self.page[_CR0_AT] & _PE)

    @property
    def is_paging(self) -> bool:
        """CR0.PG is set."""
        return bool(self.page[_CR0_AT] & _PG)

    @property
    def is_v86(self) -> bool:
        """EFLAGS.VM is set."""
        return bool(self.field_flags & _VM)

    @property
    def is_real(self) -> bool:
        """Real-address mode."""
        return not self.page[_CR0_AT] & _PE

    # --- general registers -----------------------------------------------------------------------------

    def reg32(self, reg: int) -> int:
        """A 32-bit general register."""
        return self.state.q[reg] & MASK32

    def set_reg32(self, reg: int, value: int) -> None:
        """Write a 32-bit general register; `value` is truncated."""
        self.state.q[reg] = value & MASK32

    def reg(self, reg: int, size: int) -> int:
        """A general register of `size` bytes; for size 1, 4-7 are AH CH DH BH as the encoding has it."""
        if size == 1:
            return self.state.q[reg & 3] >> (8 if reg & 4 else 0) & 0xFF
        return self.state.q[reg] & ((1 << 8 * size) - 1)

    def set_reg(self, reg: int, size: int, value: int) -> None:
        """Write a general register of `size` bytes; the rest of it is unchanged."""
        if size == 1:
            shift = 8 if reg & 4 else 0
            old = self.state.q[reg & 3]
            self.state.q[reg & 3] = old & ~(0xFF << shift) & MASK32 | (value & 0xFF) << shift
        elif size == 2:
            self.state.q[reg] = self.state.q[reg] & 0xFFFF_0000 | value & 0xFFFF
        else:
            self.state.q[reg] = value & MASK32

    # --- flags -----------------------------------------------------------------------------------------

    @property
    def eflags(self) -> int:
        """EFLAGS as the guest would push it with every bit shown (VM and RF too)."""
        page = self.page
        return self.fold_flags() & (ARITHMETIC | _DF) | page[_IF_AT] | page[_FLAGS_AT] | self.field_flags | _ONE

    @eflags.setter
    def eflags(self, value: int) -> None:
        self.page[_IF_AT] = value & _IF
        self.page[_FLAGS_AT] = value & _PAGE_FLAGS
        self.field_flags = value & _FIELD_FLAGS
        self.set_arithmetic(value)

    def set_arithmetic(self, value: int) -> None:
        """Set CF PF AF ZF SF OF and DF from an EFLAGS image."""
        d = self.state.d
        d[hw.D_CC_OP] = hw.CC_OP_EFLAGS
        self.state.q[hw.Q_CC_SRC] = value & ARITHMETIC
        d[hw.D_DF] = MASK32 if value & _DF else 1

    def _fold_plain(self) -> int:
        return self.state.q[hw.Q_CC_SRC] & ARITHMETIC | (_DF if self.state.d[hw.D_DF] == MASK32 else 0)

    @property
    def interrupts_enabled(self) -> bool:
        """EFLAGS.IF, without the STI and MOV SS shadow."""
        return bool(self.page[_IF_AT])

    @interrupts_enabled.setter
    def interrupts_enabled(self, value: bool) -> None:
        self.page[_IF_AT] = _IF if value else 0

    @property
    def is_interrupt_pending(self) -> bool:
        """The INTR pin."""
        return bool(self.page[_PENDING_AT])

    def set_interrupt_pending(self, level: bool) -> None:
        """The INTR pin: cached code looks at it when it sets IF."""
        self.page[_PENDING_AT] = int(level)

    def raise_nmi(self) -> None:
        """An edge on the NMI pin: one more waits at the most (SDM Vol. 3A, "Handling Multiple NMIs")."""
        self.nmi_pending = True

    @property
    def is_nmi_due(self) -> bool:
        """Whether an NMI waits and none is being handled."""
        return self.nmi_pending and not self.nmi_blocked

    def take_nmi(self) -> None:
        """The one that waits is delivered, and blocks others. Until the next IRET that is an affair of the engine's."""
        self.nmi_pending, self.nmi_blocked, self.segments_changed = False, True, True

    def unblock_nmis(self) -> None:
        """IRET."""
        self.nmi_blocked, self.segments_changed = False, True

    @property
    def iopl(self) -> int:
        """I/O privilege level, 0-3."""
        return self.page[_FLAGS_AT] >> 12 & 3

    # --- segments --------------------------------------------------------------------------------------

    @property
    def segment_flags(self) -> list[int]:
        """Descriptor dword 1 of each register as the guest loaded it, DPL not raised."""
        d = self.state.d
        for seg, at in _DATA_HIDDEN:
            hidden = d[at]
            if not hidden or hidden & LOADED_NATIVELY:
                self._take_native_load(seg, hidden)
        return self._segment_flags

    def _take_native_load(self, seg: int, hidden: int) -> None:
        """Cached code may have loaded a data segment register since we last looked: see `shadow_gdt.py`."""
        if not hidden:  # a null selector
            self._segment_flags[seg] = 0
        elif hidden & LOADED_NATIVELY:
            flags = hidden & ~LOADED_NATIVELY
            self._segment_flags[seg] = flags if flags >> DESC_DPL_SHIFT & 3 == _USER_DPL else flags & ~DESC_DPL
            self.state.d[_SEGMENT_AT[seg] + _HIDDEN] = flags

    def flags_of(self, seg: int) -> int:
        """Descriptor dword 1 of one register as the guest loaded it."""
        if _IS_DATA[seg]:
            self._take_native_load(seg, self.state.d[_SEGMENT_AT[seg] + _HIDDEN])
        return self._segment_flags[seg]

    def segment(self, seg: int) -> SegmentRegister:
        """A segment register as the guest loaded it."""
        d, at = self.state.d, _SEGMENT_AT[seg]
        return SegmentRegister(d[at] & 0xFFFF, d[at + _BASE], d[at + _LIMIT], self.flags_of(seg))

    @property
    def code_and_stack(self) -> bytes:
        """The hidden CS and SS of the physical CPU, for `set_code_and_stack`."""
        return bytes(self.state.buffer[_CODE_AND_STACK])

    def set_code_and_stack(self, hidden: bytes, flags: tuple[int, int], cpl: int) -> None:
        """CS, SS and CPL as they were once before: `hidden` as the physical CPU had the two, `flags` as the guest
        loaded them. The engine has no part in it left to do."""
        self.state.buffer[_CODE_AND_STACK] = hidden
        self._segment_flags[Seg.CS], self._segment_flags[Seg.SS] = flags
        self.cpl = cpl

    def set_segment(self, seg: int, value: SegmentRegister) -> None:
        """Load a segment register with its hidden part. No check, no CPL change: the caller has done that."""
        d, at = self.state.d, _SEGMENT_AT[seg]
        if (
            self.flags_of(seg) != value.flags
            or d[at + _BASE] != value.base
            or d[at] != value.selector
            or d[at + _LIMIT] != value.limit
        ):
            self.segments_changed = True
        d[at] = value.selector
        d[at + _BASE] = value.base
        d[at + _BASE_HIGH] = 0
        d[at + _LIMIT] = value.limit
        self._segment_flags[seg] = value.flags
        if not d[at + _HIDDEN]:
            d[at + _HIDDEN] = value.flags

    def load_attributes(self, seg: int, flags: int) -> None:
        """Descriptor dword 1 of a segment register that the guest has loaded by itself; the rest of it is there."""
        self._segment_flags[seg] = flags

    def selector(self, seg: int) -> int:
        """The visible part, 16 bits."""
        return self.state.d[_SEGMENT_AT[seg]] & 0xFFFF

    def base(self, seg: int) -> int:
        """The hidden base, 32 bits."""
        return self.state.d[_SEGMENT_AT[seg] + _BASE]

    def limit(self, seg: int) -> int:
        """The hidden limit in bytes, 32 bits."""
        return self.state.d[_SEGMENT_AT[seg] + _LIMIT]

    @property
    def limits(self) -> tuple[int, ...]:
        """The hidden limits of all six, in bytes, 32 bits each."""
        d = self.state.d
        return tuple([d[at] for at in _LIMITS_AT])

    # --- system registers ------------------------------------------------------------------------------

    cr0 = _page_register(Slot.CR0)
    cr2 = _page_register(Slot.CR2)
    cr3 = _page_register(Slot.CR3)
    cr4 = _page_register(Slot.CR4)
    sysenter_cs = _page_register(Slot.SYSENTER_CS)
    sysenter_esp = _page_register(Slot.SYSENTER_ESP)
    sysenter_eip = _page_register(Slot.SYSENTER_EIP)

    @property
    def gdtr(self) -> tuple[int, int]:
        """(base 32 bits, limit 16 bits)."""
        return self.page[_GDT_BASE_AT], self.page[_GDT_LIMIT_AT]

    @gdtr.setter
    def gdtr(self, value: tuple[int, int]) -> None:
        self.page[_GDT_BASE_AT], self.page[_GDT_LIMIT_AT] = value
        self.segments_changed = True

    @property
    def idtr(self) -> tuple[int, int]:
        """(base 32 bits, limit 16 bits)."""
        return self.page[_IDT_BASE_AT], self.page[_IDT_LIMIT_AT]

    @idtr.setter
    def idtr(self, value: tuple[int, int]) -> None:
        self.page[_IDT_BASE_AT], self.page[_IDT_LIMIT_AT] = value

    @property
    def ldtr(self) -> SegmentRegister:
        """The local descriptor table register with its hidden part."""
        return self._ldtr

    @ldtr.setter
    def ldtr(self, value: SegmentRegister) -> None:
        self._ldtr = value
        self.page[_LDTR_AT] = value.selector

    @property
    def tr(self) -> SegmentRegister:
        """The task register with its hidden part."""
        return self._tr

    @tr.setter
    def tr(self, value: SegmentRegister) -> None:
        self._tr = value
        self.page[_TR_AT], self.page[_TR_BASE_AT], self.page[_TR_FLAGS_AT] = value.selector, value.base, value.flags

    # --- debug registers -------------------------------------------------------------------------------

    @property
    def execution_breakpoints(self) -> tuple[tuple[int, int], ...]:
        """(linear address, its DR6 bit) of each breakpoint that DR7 enables for execution: L or G, R/W 00, LEN 00.

        Another LEN is undefined for execution (SDM Vol. 3B, "Debug Control Register (DR7)"): such a one never strikes.
        """
        dr7 = self.dr[7]
        if not dr7 & _DR7_ENABLES:
            return ()
        return tuple((self.dr[n], 1 << n) for n in range(4) if dr7 >> 2 * n & 3 and not dr7 >> 16 + 4 * n & 0xF)

    def show_debug(self, conditions: int) -> None:
        """A #DB shows its conditions in DR6: B0 to B3 are those of this one, the other bits stay until software clears
        them. INT1 shows none.

        Source: SDM Vol. 3B, "Debug Status Register (DR6)": certain debug exceptions may clear bits 0-3.
        """
        self.dr[_DR6] = self.dr[_DR6] & ~_DR6_BREAKPOINTS | conditions

    def show_pending_debug(self) -> None:
        """The conditions that wait are shown by the #DB that comes now."""
        self.show_debug(self.pending_debug)
        self.pending_debug = 0

    # --- translations ----------------------------------------------------------------------------------

    def make_stale(self, what: int) -> None:
        """The guest's TLB forgets: STALE_LOCAL or STALE_ALL."""
        self.stale |= what
        if what & STALE_ALL:
            self.stale = STALE_ALL
            self.stale_pages.clear()

    def make_page_stale(self, la: int) -> None:
        """The guest's TLB forgets the page of a linear address, global or not, of whatever size.

        More than 32 of them before the guest goes on make all translations doubtful.
        """
        if self.stale & STALE_ALL:
            return
        self.stale |= STALE_PAGE
        self.stale_pages.append(la & ~PAGE_MASK)
        if len(self.stale_pages) > _STALE_PAGES_MAX:
            self.make_stale(STALE_ALL)

    # --- state -----------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Everything architectural, JSON-able; the FPU's part is in the engine's layout."""
        return {
            "regs": [self.reg32(reg) for reg in Reg],
            "eip": self.eip,
            "eflags": self.eflags,
            "cpl": self.cpl,
            "segments": [_saved(self.segment(seg)) for seg in Seg],
            "ldtr": _saved(self.ldtr),
            "tr": _saved(self.tr),
            "gdtr": list(self.gdtr),
            "idtr": list(self.idtr),
            "cr": [self.cr0, self.cr2, self.cr3, self.cr4],
            "dr": list(self.dr),
            "msrs": [[number, value] for number, value in self.msrs.items()],
            "efer": self.efer,
            "sysenter": [self.sysenter_cs, self.sysenter_esp, self.sysenter_eip],
            "pdptes": list(self.pdptes),
            "halted": self.halted,
            "interrupt_shadow": self.interrupt_shadow,
            "x87_error": self.x87_error,
            "nmi": [self.nmi_pending, self.nmi_blocked],
            "fpu": [bytes(self.state.buffer[start:end]).hex() for start, end in hw.FPU_RANGES],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what `save` gave."""
        for reg, value in zip(Reg, saved["regs"], strict=True):
            self.set_reg32(reg, value)
        self.eip, self.cpl, self.eflags = saved["eip"], saved["cpl"], saved["eflags"]
        for seg, fields in zip(Seg, saved["segments"], strict=True):
            self.set_segment(seg, SegmentRegister(*fields))
        self.ldtr, self.tr = SegmentRegister(*saved["ldtr"]), SegmentRegister(*saved["tr"])
        self.gdtr, self.idtr = tuple(saved["gdtr"]), tuple(saved["idtr"])
        self.cr0, self.cr2, self.cr3, self.cr4 = saved["cr"]
        self.dr[:] = saved["dr"]
        self.msrs = {number: value for number, value in saved["msrs"]}
        self.efer = saved["efer"]
        self.sysenter_cs, self.sysenter_esp, self.sysenter_eip = saved["sysenter"]
        self.pdptes[:] = saved["pdptes"]
        self.halted, self.interrupt_shadow = saved["halted"], saved["interrupt_shadow"]
        self.x87_error = saved.get("x87_error", False)
        self.nmi_pending, self.nmi_blocked = saved.get("nmi", (False, False))
        for (start, end), data in zip(hw.FPU_RANGES, saved["fpu"], strict=True):
            self.state.buffer[start:end] = bytes.fromhex(data)
        self.page[_CPUID_KNOWN_AT] = 0
        self.make_stale(STALE_ALL)

    @property
    def stack_size(self) -> int:
        """Width of the stack pointer in bytes: 4 when SS.B is set, else 2."""
        return 4 if self._segment_flags[Seg.SS] & DESC_B else 2


def _saved(segment: SegmentRegister) -> list[int]:
    return [segment.selector, segment.base, segment.limit, segment.flags]


CPU_SIGNATURE: Final = 0x0000_06C3
"""CPUID.1 EAX: family 6, model 12, stepping 3. Intel never sold a model 12, so no system expects performance counters
or other model-specific registers of it; it is newer than the ones whose SYSENTER does not work."""
