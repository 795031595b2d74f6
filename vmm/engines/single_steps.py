"""Instructions of a guest that runs in place which have to run alone, under the processor's single-step trap.

A step serves where the instruction needs something done round it: an access to memory that is not RAM, a store to a
page that must not change unseen, the shadow of STI or MOV SS while an interrupt waits. The trap flag in the processor
is then the VMM's; PUSHF, which would show it, has it taken out of what it pushed.
"""

from dataclasses import dataclass, field
from typing import Final

from bt.decode import Insn
from vmm.arch.layout import MASK32
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.engines.device_pages import DevicePage, DevicePages, locate_linear
from vmm.engines.in_place import InPlaceMemory
from vmm.engines.machine import Machine
from vmm.hw.cpu import PhysicalCpu

_TF: Final = int(Eflags.TF)
_USER_RING: Final = 3
_PUSHES_FLAGS: Final = frozenset(("pushf", "pushfd"))
_LOADS_FLAGS: Final = frozenset(("popf", "popfd", "iret", "iretd"))


@dataclass(slots=True)
class _Step:
    """One instruction under way: what to undo and to deliver when it is done.

    `traced`: the guest's own TF is set. `opened` are pages that it may write for once: (linear address, guest-physical
    page).
    """

    insn: Insn | None
    traced: bool
    pages: list[DevicePage] = field(default_factory=list)
    opened: list[tuple[int, int]] = field(default_factory=list)

    def has_name(self, names: frozenset[str]) -> bool:
        return self.insn is not None and self.insn.name in names


class SingleSteps:
    """The steps of one virtual CPU, one at a time."""

    def __init__(self, machine: Machine, phys: PhysicalCpu, memory: InPlaceMemory) -> None:
        self._vcpu, self._memory = machine.vcpu, memory
        self._devices = DevicePages(machine, phys, memory.shadow, locate_linear(machine), memory.memory_width)
        self._step: _Step | None = None

    @property
    def is_under_way(self) -> bool:
        """Is there an instruction that runs alone?"""
        return self._step is not None

    def loads_flags(self) -> bool:
        """Is it one that loads EFLAGS, so that TF in the register is the guest's behind it?"""
        return self._step is not None and self._step.has_name(_LOADS_FLAGS)

    def begin(self) -> _Step:
        """The step under way, or a new one for the instruction at `vcpu.eip`. Raises: GuestFault: its fetch."""
        if self._step is None:
            self._step = _Step(self._memory.instruction(), bool(self._vcpu.field_flags & _TF))
        return self._step

    def open_page(self, la: int, user: bool) -> None:
        """Let it store to a page that is read-only. Raises: GuestFault: it may not write there at all."""
        step = self.begin()
        step.opened.append((la, self._memory.open(la, user)))

    def reach_device(self, la: int, write: bool) -> bool:
        """Let it have an operand outside RAM; False: it has so many, as a REP, that it should begin again."""
        step = self.begin()
        if self._devices.is_wide(step.pages):
            return False
        self._devices.widen(step.pages, la, write)
        return True

    def finish(self) -> bool:
        """The trap has come: devices get what was written. Is the trap the guest's, too? So it is without a step."""
        step, self._step = self._step, None
        if step is None:
            return True
        self._shut(step)
        self._devices.write_back(step.pages)
        if step.has_name(_PUSHES_FLAGS) and not step.traced:
            self._hide_tf()
        return step.traced

    def drop(self) -> None:
        """The instruction will not run, or not in this way."""
        step, self._step = self._step, None
        if step is not None:
            self._shut(step)
            self._devices.unmap(step.pages)

    def _shut(self, step: _Step) -> None:
        for la, page in step.opened:
            self._memory.shut(la, page)

    def _hide_tf(self) -> None:
        """TF is in the low word of what PUSHF or PUSHFD has pushed."""
        vcpu = self._vcpu
        la = vcpu.base(Seg.SS) + vcpu.reg(Reg.ESP, vcpu.stack_size) & MASK32
        user = vcpu.cpl == _USER_RING
        vcpu.memory.write(la, 2, vcpu.memory.read(la, 2, user) & ~_TF, user)
