"""The memory of a guest in guest mode: behind shadow page tables, or behind nested ones.

Both say what physical CR0, CR3, CR4 and EFER are, and answer the exits that a missing translation makes. With shadow
tables the guest's control registers are the virtual CPU's, and physical paging is always on, in real mode too. With
nested tables the guest has the physical registers, and walks its own tables.

The engine keeps what it translated of guest code. Stores of the guest's own to it the engine sees; so every write of
the VMM to such pages is a watched one.
"""

from typing import Final, Protocol

from bt.decode import MAX_LENGTH
from vmm.arch import vmcb as block
from vmm.arch.exceptions import GuestFault, PageFault, Vector
from vmm.arch.layout import MASK32, PAGE_SHIFT, Slot
from vmm.arch.registers import Cr0, Cr4, Efer, Seg
from vmm.arch.vmcb import ExitCode, Vmcb
from vmm.cpu.nested import NestedTables
from vmm.cpu.shadow import Fill, ShadowTables
from vmm.cpu.vcpu import STALE_ALL
from vmm.engines.code_writes import CodeWrites, EveryPage
from vmm.engines.device_pages import Tables
from vmm.engines.machine import Machine
from vmm.engines.native_state import NativeState
from vmm.errors import Unmodelled
from vmm.hw import state as hw
from vmm.hw.cpu import PhysicalCpu
from vmm.hw.guest_mode import EFER_SVME, EXIT

_W: Final = int(PageFault.W)
_U: Final = int(PageFault.U)
_I: Final = int(PageFault.I)
_CR0: Final = Slot.CR0 >> 2
_CR4: Final = Slot.CR4 >> 2
_SHADOW_CR0: Final = int(Cr0.ET | Cr0.NE | Cr0.WP | Cr0.PG)
_GUEST_CR0: Final = int(Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS)
_SHADOW_CR4: Final = int(Cr4.PAE | Cr4.OSXMMEXCPT)
_OSFXSR: Final = int(Cr4.OSFXSR)
_CS_BASE: Final = hw.D_SEGS + Seg.CS * hw.SEG_WORDS + hw.SEG_BASE
_NXE: Final = int(Efer.NXE)


class GuestPaging(Protocol):
    """How the guest's memory is translated. `exit_vector` is that of the exits that `fill` answers, `state` the way of
    the guest's registers into the processor, `nested_root` what N_CR3 shall be."""

    @property
    def exit_vector(self) -> int: ...
    @property
    def state(self) -> NativeState: ...
    @property
    def tables(self) -> Tables: ...
    @property
    def nested_root(self) -> int | None: ...

    @property
    def roots(self) -> tuple[int, ...]:
        """Physical addresses of the PAE roots that there are."""
        ...

    def fill(self) -> Fill:
        """Make the access that left possible. Raises: GuestFault: the guest's own page fault."""
        ...

    def access(self) -> tuple[int, bool]:
        """The access that left: its address in `tables`, and whether it is a write."""
        ...

    def locate(self, address: int, write: bool) -> int:
        """The guest-physical address of an address in `tables`."""
        ...

    def refresh(self) -> None:
        """Let the tables forget what the virtual CPU's TLB shall. The caller flushes the TLB."""
        ...


class ShadowMemory:
    """Shadow page tables in place of the guest's own."""

    exit_vector = EXIT + ExitCode.EXCEPTION_0 + Vector.PF
    nested_root = None

    def __init__(self, machine: Machine, phys: PhysicalCpu, vmcb: Vmcb) -> None:
        self._vcpu, self._mmu, self._phys, self._vmcb = machine.vcpu, machine.mmu, phys, vmcb
        self.tables = ShadowTables(machine.physical, machine.memory, machine.mmu, None)
        self.state: NativeState = ShadowedState(machine, phys, self.tables)
        self._forget_code = machine.memory.on_watched_write = CodeWrites(machine.memory, phys)
        machine.memory.on_map_change = lambda: machine.vcpu.make_stale(STALE_ALL)

    @property
    def roots(self) -> tuple[int, ...]:
        return self.tables.spaces.roots

    def fill(self) -> Fill:
        la, code = self._vmcb.get(block.EXIT_INFO_2) & MASK32, self._phys.state.d[hw.D_ERROR_CODE]
        if not code & _I:
            result = self.tables.fill(la, bool(code & _W), bool(code & _U))
            return self._store_to_code(la) if result is Fill.WATCHED else result
        result = self.tables.fetch(la, bool(code & _U))
        if result is Fill.DEVICE:
            raise Unmodelled(f"code in device memory, at linear address {la:#x}")
        self._phys.flush_tlb()
        return result

    def _store_to_code(self, la: int) -> Fill:
        """A store, where the guest forbids fetches, to a page that runs elsewhere or ran before.

        The engine does not look for code in its way there. So nothing may run from the page any more; where the store
        itself does, its instruction has to run alone.
        """
        user = bool(self._phys.state.d[hw.D_ERROR_CODE] & _U)
        page = self._mmu.translate(la, True, user) >> PAGE_SHIFT
        self._forget_code(page)
        if page in self._running_pages(user):
            return Fill.WATCHED
        self.tables.retire(page)
        self._phys.flush_tlb()
        return self.tables.fill(la, True, user)

    def _running_pages(self, user: bool) -> set[int]:
        """The guest-physical pages that the instruction at EIP can lie on."""
        state, found = self._phys.state, set()
        start = state.q[hw.Q_EIP] + state.d[_CS_BASE]
        for at in (start, start + MAX_LENGTH - 1):
            try:
                found.add(self._mmu.translate(at & MASK32, False, user, fetch=True) >> PAGE_SHIFT)
            except GuestFault:
                continue  # the instruction ends before
        return found

    def access(self) -> tuple[int, bool]:
        return self._vmcb.get(block.EXIT_INFO_2) & MASK32, bool(self._phys.state.d[hw.D_ERROR_CODE] & _W)

    def locate(self, address: int, write: bool) -> int:
        return self._mmu.translate(address, write, bool(self._phys.state.d[hw.D_ERROR_CODE] & _U))

    def refresh(self) -> None:
        self.tables.forget(self._vcpu.stale, self._vcpu.stale_pages)


class ShadowedState(NativeState):
    """The guest's CR0, CR3, CR4 and EFER are the virtual CPU's: all instructions that write them leave."""

    def __init__(self, machine: Machine, phys: PhysicalCpu, shadow: ShadowTables) -> None:
        super().__init__(machine.vcpu, machine.mmu, phys)
        self._shadow = shadow

    def pull_control(self) -> None:
        """Nothing of them is in the processor."""

    def push_control(self) -> None:
        """Paging with PAE and NX, on the current shadow root; A20 is in the tables."""
        vcpu, state = self._vcpu, self._phys.state
        q, page = state.q, vcpu.page
        q[hw.Q_CR] = _SHADOW_CR0 | page[_CR0] & _GUEST_CR0
        q[hw.Q_CR + 3] = self._shadow.root(real=False)
        q[hw.Q_CR + 4] = _SHADOW_CR4 | page[_CR4] & _OSFXSR
        q[hw.Q_EFER] = EFER_SVME | _NXE
        state.d[hw.D_A20_MASK] = MASK32


class NestedMemory:
    """Nested page tables under the guest's own."""

    exit_vector = EXIT + ExitCode.NESTED_PAGE_FAULT

    def __init__(self, machine: Machine, phys: PhysicalCpu, vmcb: Vmcb) -> None:
        self._vcpu, self._phys, self._vmcb = machine.vcpu, phys, vmcb
        self.tables = NestedTables(machine.physical, machine.memory, machine.mmu)
        self.nested_root = self.tables.root
        self.state: NativeState = NestedState(machine.vcpu, machine.mmu, phys)
        machine.memory.watched = EveryPage()
        machine.memory.on_watched_write = CodeWrites(machine.memory, phys)
        machine.memory.on_map_change = lambda: machine.vcpu.make_stale(STALE_ALL)

    @property
    def roots(self) -> tuple[int, ...]:
        return (self.nested_root,)

    def fill(self) -> Fill:
        return self.tables.fill(*self.access())

    def access(self) -> tuple[int, bool]:
        return self._vmcb.get(block.EXIT_INFO_2), bool(self._phys.state.d[hw.D_ERROR_CODE] & _W)

    def locate(self, address: int, write: bool) -> int:
        return self.tables.bend(address)

    def refresh(self) -> None:
        if self._vcpu.stale & STALE_ALL:
            self.tables.drop_all()


class NestedState(NativeState):
    """The guest has the physical CR0, CR3, CR4 and, but for SVME, EFER; A20 is in the nested tables."""

    def pull_control(self) -> None:
        super().pull_control()
        self._vcpu.efer &= ~EFER_SVME

    def push_control(self) -> None:
        super().push_control()
        state = self._phys.state
        state.q[hw.Q_EFER] |= EFER_SVME
        state.d[hw.D_A20_MASK] = MASK32
