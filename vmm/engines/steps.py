"""Steps: one guest instruction in a world of its own.

A step is a block of one instruction that ends in an exit. It serves where the instruction needs something done round
it: a store into its own page of code, an access to memory that is not RAM, the shadow of STI and MOV SS,
single-stepping (TF).

A device is reached without a second instruction emulator: a frame of ours lies under the access for the one
instruction, holding what the device gave, and what the instruction leaves there is given to the device.
"""

from dataclasses import dataclass
from typing import Final

from bt.cache import Block
from bt.decode import Insn
from bt.tables import repeats
from vmm.arch.layout import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from vmm.arch.registers import Eflags, Reg
from vmm.engines.code import TranslatedCode
from vmm.engines.machine import Machine
from vmm.hw.cpu import PhysicalCpu
from vmm.memory import MemoryRegion

_ZF: Final = int(Eflags.ZF)
_REPE: Final = 0xF3
_REPEATS: Final = (0xF2, 0xF3)
_OPERANDS_MAX: Final = 2
"""Memory operands of one instruction; one that crosses pages may need more, and then they share a frame."""

_PAGES_MAX: Final = 8
"""A REP over memory that nothing answers is one step for so many pages; then it is looked at anew. One iteration needs
four at the most."""


@dataclass(slots=True)
class DevicePage:
    """A frame of ours under a page that RAM does not answer, for one instruction.

    With a `region` it stands for one access of `width` bytes to a device at `gpa`; without, for ROM or nothing.
    """

    la: int
    frame: int
    region: MemoryRegion | None = None
    gpa: int = 0
    width: int = 0
    written: bool = False


@dataclass(slots=True)
class Step:
    """One instruction under way: what to undo and to deliver when it is done.

    `trap`: the single-step trap follows. `repeated` is the instruction as the guest has it when it runs one iteration
    at a time, without its REP prefix.
    """

    pages: list[DevicePage]
    trap: bool = False
    repeated: Insn | None = None


class Stepper:
    """Prepares steps and cleans up behind them."""

    def __init__(self, machine: Machine, phys: PhysicalCpu, code: TranslatedCode) -> None:
        self._phys, self._code = phys, code
        self._vcpu, self._mmu, self._memory = machine.vcpu, machine.mmu, machine.memory
        self._physical = machine.physical
        self._spare_frames = [machine.physical.allocate(PAGE_SIZE) for _ in range(_OPERANDS_MAX)]

    def map_device(self, la: int, write: bool, pages: list[DevicePage]) -> DevicePage:
        """Put a frame of ours under an access that no RAM answers, holding what a read would give."""
        gpa = self._mmu.translate(la, write, self._vcpu.cpl == 3)
        region = self._memory.region_at(gpa >> PAGE_SHIFT)
        page = DevicePage(la, self._spare_frames[len(pages) % _OPERANDS_MAX])
        frame = self._physical.window(page.frame, PAGE_SIZE)
        if region is None or region.host is not None:
            frame[:] = self._memory.read(gpa & ~PAGE_MASK, PAGE_SIZE)
        else:
            page.region, page.gpa, page.written = region, gpa, write
            page.width = min(self._code.memory_width(), PAGE_SIZE - (la & PAGE_MASK))
            if not write:
                at = la & PAGE_MASK
                frame[at : at + page.width] = self._memory.read(gpa, page.width)
        self._code.shadow.map_once(la, page.frame, write or page.region is None)
        self._phys.flush_tlb()
        return page

    def widen(self, step: Step, la: int, write: bool) -> None:
        """The instruction of a step has another operand outside RAM, or writes what it has read. A page that went,
        because the table that it was in is made from an entry in which a bit was set, comes back."""
        for page in step.pages:
            if page.la & ~PAGE_MASK == la & ~PAGE_MASK:
                page.written = page.written or write
                self._code.shadow.map_once(la, page.frame, page.written or page.region is None)
                self._phys.flush_tlb()
                return
        step.pages.append(self.map_device(la, write, step.pages))

    def is_wide(self, step: Step) -> bool:
        """Has a REP come so far that it should begin again from where it is?"""
        return len(step.pages) >= _PAGES_MAX

    def block(self, one_iteration: bool) -> tuple[Block, Insn | None]:
        """The step's block at `vcpu.eip`, and the instruction if its REP was taken off. Raises: GuestFault: the
        fetch."""
        block = self._code.step(self._vcpu.eip)
        sites = block.translation.sites
        if not one_iteration or not sites:  # RET and indirect branches have none
            return block, None
        insn = sites[-1].insn
        if not repeats(insn) or not self._vcpu.reg(Reg.ECX, insn.address_size):
            return block, None
        source = bytes(byte for byte in insn.prefixes if byte not in _REPEATS) + insn.raw[len(insn.prefixes) :]
        return self._code.step(insn.eip, source), insn

    def write_back(self, step: Step) -> None:
        """Take the pages away and let devices have what was written to them."""
        self.unmap(step.pages)
        for page in step.pages:
            if page.region is not None and page.written:
                at = page.frame + (page.la & PAGE_MASK)
                self._memory.write(page.gpa, bytes(self._physical.view[at : at + page.width]))

    def count_iteration(self, insn: Insn) -> None:
        """REP by hand: count ECX down and go round, unless it is 0 or REPE, REPNE end it."""
        vcpu, size = self._vcpu, insn.address_size
        left = vcpu.reg(Reg.ECX, size) - 1
        vcpu.set_reg(Reg.ECX, size, left)
        compares = insn.name.startswith(("cmps", "scas"))
        matched = bool(vcpu.fold_flags() & _ZF) == (insn.repeat == _REPE)
        goes_on = left & ((1 << 8 * size) - 1) != 0 and (not compares or matched)
        vcpu.eip = insn.eip if goes_on else insn.falls_to

    def unmap(self, pages: list[DevicePage]) -> None:
        """Take pages away again."""
        for page in pages:
            self._code.shadow.unmap(page.la)
        if pages:
            self._phys.flush_tlb()
