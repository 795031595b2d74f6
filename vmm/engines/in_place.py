"""The memory of a guest whose code runs where it lies: shadow tables, and what has to follow the guest's stores.

A page is mapped executable once the guest fetches from it, and then at all its addresses: the engine sees stores to
such pages, and drops what it has compiled of them. Stores to all other pages stay fast. What the VMM itself writes it
has to tell the engine: `GuestMemory.watched` holds the executed pages.

The pages of the guest's descriptor tables are read-only; a store to one runs alone, and then the shadow of the tables
is made anew. Where a table shares its pages with variables, that would be done for each of them; so after some stores
the tables are *open*: the pages are the guest's, the shadow is empty, and the first load out of it closes them again.
"""

from typing import Final

from bt.decode import MAX_LENGTH, Decoder, Insn
from vmm.arch.exceptions import GuestFault
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from vmm.arch.paging import Pte
from vmm.arch.registers import Seg
from vmm.cpu.descriptor_shadow import DescriptorShadow, Lowering
from vmm.cpu.hole import DEFAULT_HOLE, IN_PLACE_VIEW
from vmm.cpu.shadow import Fill, ShadowTables
from vmm.cpu.vcpu import DESC_B, STALE_ALL
from vmm.engines.code_writes import CodeWrites
from vmm.engines.machine import Machine
from vmm.hw.cpu import PhysicalCpu

_CS: Final = int(Seg.CS)
_U: Final = int(Pte.U)
_USER_RING: Final = 3
_STORES_MAX: Final = 16
"""Stores to pages of descriptor tables that are looked at one by one, until the guest loads GDTR or LDTR again."""


class InPlaceMemory:
    """Shadow tables and descriptor tables of one virtual CPU whose guest runs in place."""

    def __init__(self, machine: Machine, phys: PhysicalCpu) -> None:
        self._phys, self._vcpu, self._mmu = phys, machine.vcpu, machine.mmu
        self._memory, self._hole, self._physical = machine.memory, machine.hole, machine.physical
        self.shadow = ShadowTables(machine.physical, machine.memory, machine.mmu, machine.hole, IN_PLACE_VIEW)
        self.descriptors = DescriptorShadow(machine.physical, machine.hole)
        self._decoder = Decoder()
        self._code_written = CodeWrites(machine.memory, phys)
        self.tables_are_open = False
        self._stores = 0
        self._tables_changed = True
        self._followed: tuple[object, ...] = ()
        self._memory.on_watched_write = self.written
        self._memory.on_map_change = self._map_changed

    # --- code -------------------------------------------------------------------------------------------

    def instruction(self) -> Insn | None:
        """The instruction at `vcpu.eip`, or None where its bytes make none."""
        vcpu = self._vcpu
        la = self.linear_eip
        code32 = bool(vcpu.flags_of(_CS) & DESC_B)
        source = self._code_at(la, min(MAX_LENGTH, PAGE_SIZE - (la & PAGE_MASK)))
        insn = self._decoder.one(source, vcpu.eip, code32)
        if insn is None and len(source) < MAX_LENGTH:
            source += self._code_at(la + len(source) & MASK32, MAX_LENGTH - len(source))
            insn = self._decoder.one(source, vcpu.eip, code32)
        return insn

    @property
    def linear_eip(self) -> int:
        """The linear address of `vcpu.eip`."""
        return self._vcpu.base(_CS) + self._vcpu.eip & MASK32

    def _code_at(self, la: int, count: int) -> bytes:
        """Bytes of one page, as the processor has fetched them: the guest's own tables may say something else now."""
        address = self.shadow.mapped(la)
        if address is None:
            return self._mmu.read_bytes(la, count, self._vcpu.cpl == _USER_RING)
        return bytes(self._physical.window(address, count))

    def is_ahead(self, la: int) -> bool:
        """Does an address lie behind the instruction at `vcpu.eip`, and in another page?"""
        start = self.linear_eip
        if start >> PAGE_SHIFT == la >> PAGE_SHIFT:
            return False
        try:
            insn = self.instruction()
        except GuestFault:
            return False
        return insn is not None and (la - start & MASK32) >= len(insn.raw)

    def memory_width(self) -> int:
        """Bytes that the instruction at `vcpu.eip` moves to or from memory."""
        insn = self.instruction()
        return 1 if insn is None else self._decoder.memory_width(insn)

    def fetch(self, la: int, user: bool) -> Fill:
        """Let code run at a linear address. Raises: GuestFault: the fetch may not be."""
        result = self.shadow.fetch(la, user)
        self._phys.flush_tlb()
        return result

    def written(self, page: int) -> None:
        """A page is about to change, not by a store of the guest's that the engine sees."""
        if page in self.shadow.executed:
            self._code_written(page)
        if page in self.shadow.read_only:
            self._tables_changed = True

    # --- stores to pages that are read-only -------------------------------------------------------------

    def may_leave_open(self, la: int, user: bool) -> bool:
        """A store to a read-only page, if it is one of descriptor tables that has been stored to often: let the guest
        have it, until it loads a descriptor. Raises: GuestFault: it may not write there at all.
        """
        page = self._mmu.translate(la, True, user) >> PAGE_SHIFT
        if page not in self.shadow.read_only:
            return False
        self._stores += 1
        if self._stores <= _STORES_MAX:
            return False
        self.tables_are_open = True
        for table in (self.descriptors.gdt, self.descriptors.ldt):
            table.distrust()
        self._watch_tables(set())
        return True

    def close_tables(self) -> None:
        """The guest has loaded a descriptor, or tried to: look at its tables, and watch them again."""
        self.tables_are_open = False
        self._tables_changed = True

    def open(self, la: int, user: bool) -> int:
        """Let the next instruction store to a page that the guest must not write unseen; returns the guest-physical
        page number, for `shut`. Raises: GuestFault: it may not write there at all.
        """
        gpa = self._mmu.translate(la, True, user)
        page = gpa >> PAGE_SHIFT
        region = self._memory.region_at(page)
        if region is not None and region.host is not None:
            self.written(page)
            frame = region.host + (gpa & ~PAGE_MASK) - region.base
            self.shadow.map_once(la, frame, True)
            self._phys.flush_tlb()
        return page

    def shut(self, la: int, page: int) -> None:
        """The instruction is done, or will not be."""
        self.shadow.unmap(la)
        self.written(page)
        self._phys.flush_tlb()

    # --- descriptor tables ------------------------------------------------------------------------------

    def follow_tables(self, lowering: Lowering) -> None:
        """Bring the shadow GDT and LDT into step with the guest's, if it uses them in its mode."""
        vcpu, descriptors = self._vcpu, self.descriptors
        uses = vcpu.is_protected
        now = (uses, vcpu.gdtr, vcpu.ldtr, lowering)
        if now == self._followed and (self.tables_are_open or not self._tables_changed):
            return
        if now != self._followed:
            self._stores = 0
        self._followed, self._tables_changed, self.tables_are_open = now, False, False
        if uses:
            descriptors.gdt.follow(self._mmu, *vcpu.gdtr, lowering)
        else:
            descriptors.gdt.leave()
        if uses and vcpu.ldtr.is_present:
            descriptors.ldt.follow(self._mmu, vcpu.ldtr.base, min(vcpu.ldtr.limit, 0xFFFF), lowering)
        else:
            descriptors.ldt.leave()
        self._watch_tables(descriptors.pages)

    def _watch_tables(self, pages: set[int]) -> None:
        watched, read_only = self._memory.watched, self.shadow.read_only
        gone, new = read_only - pages, pages - read_only
        read_only.difference_update(gone)
        read_only.update(new)
        watched.difference_update(page for page in gone if page not in self.shadow.executed)
        watched.update(new)
        for page in new:
            self.shadow.protect(page)
        if new:
            self._phys.flush_tlb()

    def set_accessed(self, la: int) -> bool:
        """The processor would set an accessed bit at a linear address in the hole: set it in the guest's table.

        False: it is no such store. Raises: GuestFault #PF.
        """
        found = self.descriptors.unaccessed(la)
        if found is None:
            return False
        self._vcpu.memory.write(found[0], 1, found[1], False)
        self._tables_changed = True
        return True

    # --- forgetting -------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Forget what the guest has told its TLB to forget, and go to the address space of its registers."""
        vcpu = self._vcpu
        stale, vcpu.stale = vcpu.stale, 0
        self.shadow.forget(stale, vcpu.stale_pages)
        vcpu.stale_pages.clear()
        self._tables_changed = True
        self._phys.flush_tlb()

    def show_kernel_to_user(self, shown: bool) -> None:
        """From now on all pages are open to CPL 3, as a kernel needs it that runs there, or the user's alone."""
        self.shadow.extra = _U if shown else 0
        self.shadow.drop_all()
        self._phys.flush_tlb()

    def begin(self) -> None:
        """As if no guest had run: the hole is in its first place."""
        if self._hole.base != DEFAULT_HOLE:
            self._hole.base = DEFAULT_HOLE
            self.shadow.rebuild_roots()
        self.empty()

    def empty(self) -> None:
        """Forget everything that was made from the guest's memory and translations."""
        self._memory.watched.clear()
        self.shadow.executed.clear()
        self.shadow.read_only.clear()
        self._vcpu.make_stale(STALE_ALL)
        self.refresh()
        self._phys.forget_all_code()

    def move_hole(self, la: int) -> None:
        """The guest uses the hole's window for itself: take another one."""
        self._hole.move_from(la)
        self.shadow.rebuild_roots()
        self.empty()

    def _map_changed(self) -> None:
        """What lies at which page is another matter now."""
        self.empty()
