"""Bochs as an engine: the virtual CPU's state goes there by a VMCB, and comes back when the guest has left.

Bochs does all that a processor does: fetches, segment and page checks, delivery, task switches, single steps, hardware
interrupts. Guest code leaves for what belongs to the machine around it, and this is emulated as on the other engines:
ports (behind the check of their permission), HLT, CPUID, MSRs and counters.

Source: AMD64 Architecture Programmer's Manual, Vol. 2, "Secure Virtual Machine".
"""

from typing import Any, Final

from bt.decode import MAX_LENGTH, Decoder
from vmm.arch import vmcb as block
from vmm.arch.exceptions import GuestFault, Vector, ud
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SIZE
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.arch.vmcb import ExitCode, Intercept, VirtualInterrupt, Vmcb
from vmm.cpu import callouts
from vmm.cpu.callouts import Plan
from vmm.cpu.vcpu import DESC_B, NULL_SEGMENT, SegmentRegister
from vmm.differential import bochs_fpu, layout
from vmm.differential.board import PortBoard
from vmm.differential.bochs_link import MAILBOX_SIZE, Bochs, Silence
from vmm.engines.delivery import Delivery, place_of
from vmm.engines.engine import Leave
from vmm.engines.machine import Machine
from vmm.engines.observer import Observer
from vmm.engines.stats import EngineStats
from vmm.errors import Unmodelled, VmmError
from vmm.hw.guest_mode import EFER_SVME

_INTERCEPTS: Final = int(
    Intercept.INTR
    | Intercept.CPUID
    | Intercept.HLT
    | Intercept.RDTSC
    | Intercept.RDPMC
    | Intercept.MSR
    | Intercept.IOIO
    | Intercept.SHUTDOWN
    | Intercept.VMRUN  # from here on: a guest without AMD-V
    | Intercept.VMMCALL
    | Intercept.VMLOAD
    | Intercept.VMSAVE
    | Intercept.STGI
    | Intercept.CLGI
    | Intercept.SKINIT
    | Intercept.INVLPGA
    | Intercept.RDTSCP
)
_EMULATED: Final = frozenset(
    (ExitCode.CPUID, ExitCode.HLT, ExitCode.RDTSC, ExitCode.RDPMC, ExitCode.MSR, ExitCode.IOIO)
)
_UNDEFINED: Final = frozenset(
    (
        *(ExitCode.VMRUN, ExitCode.VMMCALL, ExitCode.VMLOAD, ExitCode.VMSAVE, ExitCode.STGI, ExitCode.CLGI),
        *(ExitCode.SKINIT, ExitCode.INVLPGA, ExitCode.RDTSCP),
    )
)
_PORTS_AND_MSRS: Final = 0x9_4000, 0x9_8000
"""Where the hypervisor has its bitmaps: all ones, so that every MSR and every port leaves."""
_ASID: Final = 1
_NO_EXIT: Final = (1 << 64) - 2
"""What the hypervisor finds as the exit code, and leaves there when a triple fault has reset its machine."""
_FLUSH: Final = 1
_IRQ_FLAGS: Final = int(VirtualInterrupt.V_INTR_MASKING | VirtualInterrupt.V_IGN_TPR)
_V_IRQ: Final = int(VirtualInterrupt.V_IRQ)

# The second page of the mailbox.
_EXTRA: Final = PAGE_SIZE
_DR, _TICKS, _SECTORS, _CR2, _FX = _EXTRA + 32, _EXTRA + 48, _EXTRA + 52, _EXTRA + 56, _EXTRA + 0x200
_SECTOR_SIZE: Final = 512
_TICKS_MAX: Final = 20_000
"""Instructions, or iterations of a REP, after which the guest is preempted."""
_EXITS_MAX: Final = 1000
"""Of a program: after so many it is endless."""
_DR6, _DR7 = 6, 7
_DR6_BS: Final = 1 << 14
_TF: Final = int(Eflags.TF)
_RF: Final = int(Eflags.RF)
_CS: Final = int(Seg.CS)
_ATTRIBUTES: Final = 0x00D0_FF00
"""Of dword 1 of a descriptor: all but the L bit."""
_NULL: Final = 0xFFFC


class _Blocks:
    """Stands for a physical CPU that counts blocks: Bochs counts instructions."""

    def set_block_limit(self, limit: int) -> None:
        """Nothing: there is one limit."""


class BochsEngine:
    """The engine of one virtual CPU, for `vmm.differential.rig`. See `vmm.engines.engine.Engine`."""

    def __init__(self, machine: Machine) -> None:
        """Raises: ConfigError: no Bochs."""
        assert isinstance(machine.board, PortBoard)
        self._vcpu, self._board, self._mmu = machine.vcpu, machine.board, machine.mmu
        self._ram = machine.physical.window(0, layout.RAM)
        self.phys: Any = _Blocks()
        self.stats = EngineStats()
        self.observer: Observer | None = None
        self.preempted_after = 0
        self._delivery = Delivery(machine.vcpu, machine.board, self.stats)
        self._decoder = Decoder()
        self._mailbox = bytearray(MAILBOX_SIZE)
        self._vmcb = Vmcb(memoryview(self._mailbox)[:PAGE_SIZE])
        self._event = 0  # EVENTINJ of the next entry
        self._there = b""  # memory, as Bochs has it
        self._is_offered = False  # an interrupt, at the latest entry
        self._leave: Leave | None = None
        self._exits_left = _EXITS_MAX
        self._is_stuck = False  # the guest is so endless that Bochs has been started anew
        self._bochs = Bochs()

    def close(self) -> None:
        """End Bochs."""
        self._bochs.close()

    @property
    def shutdown_detail(self) -> str:
        """Bochs does not say."""
        return ""

    @property
    def roots(self) -> tuple[int, ...]:
        """None: the guest runs on tables of its own."""
        return ()

    def report(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def request_leave(self) -> None:
        """From a callout: leave after the current instruction."""
        self._leave = Leave.REQUESTED

    def audit(self) -> None:
        """Nothing to check."""

    # --- running ---------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Nothing is left of an earlier guest."""
        self._event, self._is_stuck, self._exits_left = 0, False, _EXITS_MAX

    def run(self) -> Leave:
        """Run until the guest has had its time, HLT or shutdown."""
        self._leave = None
        while self._exits_left and not self._is_stuck:
            self._exits_left -= 1
            try:
                self._enter()
            except Silence:
                self._is_stuck = True
                break
            self._on_exit(self._vmcb.get(block.EXIT_CODE))
            if self._leave is not None:
                return self._leave
        return Leave.PREEMPTED

    def _enter(self) -> None:
        """To Bochs and back."""
        self._push()
        ram = bytes(self._ram)
        changed = ram != self._there
        sectors = layout.RAM // _SECTOR_SIZE if changed else 0
        self._mailbox[_SECTORS : _SECTORS + 4] = sectors.to_bytes(4, "little")
        try:
            self._mailbox[:] = self._bochs.run(bytes(self._mailbox), ram if changed else None)
            self._there = self._bochs.memory(0, layout.RAM)
        except VmmError:
            self._bochs.close()
            self._bochs, self._there = Bochs(), b""
            raise
        if self._there != ram:
            self._ram[:] = self._there
        if self._vmcb.get(block.EXIT_CODE) != _NO_EXIT:
            self._pull()

    def _on_exit(self, code: int) -> None:
        self.stats.exits[f"{code:#x}"] += 1
        if code in (ExitCode.SHUTDOWN, _NO_EXIT):
            self._leave = Leave.SHUTDOWN
        elif code == ExitCode.INTR:
            self._leave = Leave.PREEMPTED
        elif code in _EMULATED:
            self._emulate()
        elif code in _UNDEFINED:
            self._inject(ud())
        else:
            raise Unmodelled(f"exit {code:#x} in Bochs", (place_of(self._vcpu),))

    def _emulate(self) -> None:
        """Carry the instruction at EIP out, or have its fault delivered."""
        vcpu = self._vcpu
        is_traced = vcpu.eflags & _TF
        try:
            plan = self._plan()
            self._delivery.carry_out(plan)
        except GuestFault as fault:
            self._inject(fault)
            return
        if is_traced and not callouts.hides_trap(plan.name, vcpu):
            vcpu.show_debug(_DR6_BS)
            self._event = block.exception(Vector.DB, None)
            vcpu.halted = False
        if vcpu.halted and not (vcpu.is_interrupt_pending and vcpu.interrupts_enabled):
            self._leave = self._leave or Leave.HALTED
        vcpu.halted = self._leave is Leave.HALTED

    def _inject(self, fault: GuestFault) -> None:
        """At the next entry. RF is set in the image of the flags, as a fault's."""
        if fault.vector == Vector.PF and fault.cr2 is not None:
            self._vcpu.cr2 = fault.cr2
        self._vcpu.field_flags |= _RF
        self._event = block.exception(fault.vector, fault.error_code)

    def _plan(self) -> Plan:
        """How to carry out the instruction at EIP, which the processor has fetched. Raises: GuestFault #UD."""
        vcpu = self._vcpu
        la = vcpu.base(_CS) + vcpu.eip & MASK32
        user = vcpu.cpl == 3
        first = min(MAX_LENGTH, PAGE_SIZE - (la & PAGE_MASK))
        raw = vcpu.memory.read_bytes(la, first, user)
        code32 = bool(vcpu.flags_of(_CS) & DESC_B) and vcpu.is_protected and not vcpu.is_v86
        insn = self._decoder.one(raw, vcpu.eip, code32)
        if insn is None and first < MAX_LENGTH:
            raw += vcpu.memory.read_bytes(la + first & MASK32, MAX_LENGTH - first, user)
            insn = self._decoder.one(raw, vcpu.eip, code32)
        if insn is None:
            raise ud()
        return callouts.plan(insn)

    # --- state -----------------------------------------------------------------------------------------

    def _push(self) -> None:
        """Out of the virtual CPU into the mailbox."""
        vcpu, vmcb = self._vcpu, self._vmcb
        self._mailbox[:PAGE_SIZE] = bytes(PAGE_SIZE)
        vmcb.put(block.INTERCEPTS, _INTERCEPTS)
        msrs, ports = _PORTS_AND_MSRS
        event, self._event = self._event, 0
        if not event and vcpu.is_interrupt_pending and vcpu.interrupts_enabled and not vcpu.interrupt_shadow:
            event = block.external_interrupt(self._board.acknowledge_interrupt())
        pending = vcpu.is_interrupt_pending and not event  # Bochs would take both at once, IF or not
        self._is_offered = pending
        for field, value in (
            (block.MSRPM_BASE, msrs),
            (block.IOPM_BASE, ports - 0x2000),
            (block.ASID, _ASID),
            (block.EXIT_CODE, _NO_EXIT),
            (block.TLB_CONTROL, _FLUSH),
            (block.VIRTUAL_INTERRUPT, _IRQ_FLAGS | (_V_IRQ if pending else 0)),
            (block.VIRTUAL_VECTOR, self._board.waiting_vector),
            (block.INTERRUPT_SHADOW, int(vcpu.interrupt_shadow)),
            (block.EVENT_INJECTION, event),
            (block.CPL, vcpu.cpl),
            (block.EFER, vcpu.efer | EFER_SVME),
            (block.CR0, vcpu.cr0),
            (block.CR3, vcpu.cr3),
            (block.CR4, vcpu.cr4),
            (block.DR6, vcpu.dr[_DR6]),
            (block.DR7, vcpu.dr[_DR7]),
            (block.RFLAGS, vcpu.eflags),
            (block.RIP, vcpu.eip),
            (block.RAX, vcpu.reg32(Reg.EAX)),
            (block.RSP, vcpu.reg32(Reg.ESP)),
            (block.SYSENTER_CS, vcpu.sysenter_cs),
            (block.SYSENTER_ESP, vcpu.sysenter_esp),
            (block.SYSENTER_EIP, vcpu.sysenter_eip),
        ):
            vmcb.put(field, value)
        for seg in Seg:
            vmcb.put_segment(seg, block.Segment(*_fields(vcpu.segment(seg))))
        for number, (base, limit) in ((block.GDTR, vcpu.gdtr), (block.IDTR, vcpu.idtr)):
            vmcb.put_segment(number, block.Segment(0, base, limit, 0))
        vmcb.put_segment(block.LDTR, block.Segment(*_fields(vcpu.ldtr)))
        vmcb.put_segment(block.TR, block.Segment(*_fields(vcpu.tr)))
        for reg in Reg:
            self._put(_EXTRA + 4 * reg, vcpu.reg32(reg))
        for number in range(4):
            self._put(_DR + 4 * number, vcpu.dr[number])
        self._put(_TICKS, _TICKS_MAX)
        self._put(_CR2, vcpu.cr2)
        self._mailbox[_FX : _FX + bochs_fpu.SIZE] = bochs_fpu.to_image(vcpu.state.buffer)

    def _put(self, at: int, value: int) -> None:
        self._mailbox[at : at + 4] = value.to_bytes(4, "little")

    def _get(self, at: int) -> int:
        return int.from_bytes(self._mailbox[at : at + 4], "little")

    def _pull(self) -> None:
        """Out of the mailbox into the virtual CPU."""
        vcpu, vmcb = self._vcpu, self._vmcb
        if self._is_offered and not vmcb.get(block.VIRTUAL_INTERRUPT) & _V_IRQ:
            self._board.acknowledge_interrupt()
        vcpu.interrupt_shadow = bool(vmcb.get(block.INTERRUPT_SHADOW) & 1)
        vcpu.cpl = vmcb.get(block.CPL)
        vcpu.efer = vmcb.get(block.EFER) & ~EFER_SVME
        vcpu.cr0, vcpu.cr3, vcpu.cr4 = (vmcb.get(field) for field in (block.CR0, block.CR3, block.CR4))
        vcpu.cr2 = self._get(_CR2)
        vcpu.dr[_DR6], vcpu.dr[_DR7] = vmcb.get(block.DR6), vmcb.get(block.DR7)
        vcpu.eflags = vmcb.get(block.RFLAGS)
        vcpu.eip = vmcb.get(block.RIP) & MASK32
        for reg in Reg:
            vcpu.set_reg32(reg, self._get(_EXTRA + 4 * reg))
        vcpu.set_reg32(Reg.EAX, vmcb.get(block.RAX))
        vcpu.set_reg32(Reg.ESP, vmcb.get(block.RSP))
        vcpu.sysenter_cs, vcpu.sysenter_esp, vcpu.sysenter_eip = (
            vmcb.get(field) & MASK32 for field in (block.SYSENTER_CS, block.SYSENTER_ESP, block.SYSENTER_EIP)
        )
        for seg in Seg:
            vcpu.set_segment(seg, _register(vmcb.segment(seg)))
        gdtr, idtr = vmcb.segment(block.GDTR), vmcb.segment(block.IDTR)
        vcpu.gdtr, vcpu.idtr = (gdtr.base, gdtr.limit), (idtr.base, idtr.limit)
        ldtr = vmcb.segment(block.LDTR)
        vcpu.ldtr = (
            _register(ldtr) if ldtr.selector & _NULL else SegmentRegister(ldtr.selector, *_fields(NULL_SEGMENT)[1:])
        )
        vcpu.tr = _register(vmcb.segment(block.TR))
        for number in range(4):
            vcpu.dr[number] = self._get(_DR + 4 * number)
        bochs_fpu.from_image(bytes(self._mailbox[_FX : _FX + bochs_fpu.SIZE]), vcpu.state.buffer)


def _fields(register: SegmentRegister) -> tuple[int, int, int, int]:
    return register.selector, register.base, register.limit, register.flags


def _register(segment: block.Segment) -> SegmentRegister:
    return SegmentRegister(segment.selector, segment.base & MASK32, segment.limit, segment.flags & _ATTRIBUTES)
