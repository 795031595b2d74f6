"""SYSENTER and SYSEXIT in a hurry: what such a switch of rings does to the processor is worked out once.

`vmm.cpu.fast_calls` says what the two mean, and the engine's usual way brings the physical CPU into step with it. The
outcome depends on little: the mode, where the guest comes from, and one MSR; then two segment registers, `hflags` and
the block space are the same again. So the first time is remembered, and later ones only write that down.
"""

from typing import Any, Final, NamedTuple

from bt.cache import BlockSpace
from vmm.arch.layout import MASK32, Slot
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.cpu.vcpu import Vcpu
from vmm.engines.code import TranslatedCode
from vmm.hw import state as hw

_CS: Final = int(Seg.CS)
_SS: Final = int(Seg.SS)
_FS: Final = int(Seg.FS)
_GS: Final = int(Seg.GS)
_LAST_NULL: Final = 3
_ESP: Final = int(Reg.ESP)
_ECX: Final = int(Reg.ECX)
_EDX: Final = int(Reg.EDX)
_IOPL_AND_AC: Final = int(Eflags.IOPL | Eflags.AC)
_CR0: Final = Slot.CR0 >> 2
_CR4: Final = Slot.CR4 >> 2
_FLAGS: Final = Slot.FLAGS >> 2
_IF: Final = Slot.IF >> 2
_PENDING: Final = Slot.PENDING >> 2
_GDT_LIMIT: Final = Slot.GDT_LIMIT >> 2
_CODE_WORDS: Final = (Slot.CS >> 2, Slot.CS_LOW >> 2, Slot.CS_HIGH >> 2)
_BREAKPOINTS: Final = 0xFF
_DR7: Final = 7
_KNOWN_MAX: Final = 64

SYSTEM_CALLS: Final = frozenset(("sysenter", "sysexit"))
Key = tuple[Any, ...]


class Switch(NamedTuple):
    """What is so after a switch: the hidden CS and SS, and who needs to know of them."""

    segments: bytes
    flags: tuple[int, int]
    hflags: int
    code_words: tuple[int, ...]
    cpl: int
    space: BlockSpace
    scratch: memoryview
    in_force: tuple[int, ...] | None


class SystemCalls:
    """The switches that one engine knows."""

    def __init__(self, vcpu: Vcpu, code: TranslatedCode) -> None:
        self._vcpu, self._code = vcpu, code
        self._known: dict[Key, Switch] = {}

    def key(self, enters: bool) -> Key | None:
        """Everything on which the outcome of a SYSENTER or SYSEXIT depends; None where it is not worth knowing."""
        vcpu = self._vcpu
        page, hflags = vcpu.page, vcpu.state.d[hw.D_HFLAGS]
        if vcpu.field_flags or vcpu.dr[_DR7] & _BREAKPOINTS or vcpu.pending_debug or hflags & hw.HF_ADDSEG:
            return None
        if vcpu.stale or vcpu.segments_changed:
            return None
        if not enters and page[_PENDING] and page[_IF]:
            return None
        iopl = page[_FLAGS] & _IOPL_AND_AC
        mode = (enters, hflags, page[_CR0], page[_CR4], iopl, page[_GDT_LIMIT], vcpu.sysenter_cs)
        return (*mode, self._code.space, vcpu.selector(_FS) <= _LAST_NULL, vcpu.selector(_GS) <= _LAST_NULL)

    def repeat(self, key: Key) -> Switch | None:
        """Do a switch that is known; None if it is not, with nothing changed."""
        switch = self._known.get(key)
        if switch is None:
            return None
        vcpu, code, enters = self._vcpu, self._code, key[0]
        q, eip = vcpu.state.q, self._target(enters)
        entrance = code.cache.view.find(switch.space, eip)
        if entrance is None:
            return None
        vcpu.set_code_and_stack(switch.segments, switch.flags, switch.cpl)
        if enters:
            vcpu.page[_IF] = 0
            for at, word in zip(_CODE_WORDS, switch.code_words, strict=True):
                vcpu.page[at] = word
        vcpu.state.d[hw.D_HFLAGS] = switch.hflags
        q[_ESP] = vcpu.sysenter_esp if enters else q[_ECX] & MASK32
        vcpu.eip, vcpu.interrupt_shadow = eip, False
        q[hw.Q_EIP] = entrance.entry
        code.space, code.scratch = switch.space, switch.scratch
        return switch

    def _target(self, enters: bool) -> int:
        return self._vcpu.sysenter_eip if enters else self._vcpu.reg32(_EDX)

    def learn(self, key: Key, in_force: tuple[int, ...] | None) -> None:
        """Remember a switch that has just been done in the usual way, unless something came in between."""
        vcpu, code = self._vcpu, self._code
        cpl = 0 if key[0] else 3
        if vcpu.cpl != cpl or vcpu.eip != self._target(key[0]) or vcpu.state.d[hw.D_HFLAGS] & hw.HF_ADDSEG:
            return
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[key] = Switch(
            vcpu.code_and_stack, (vcpu.flags_of(_CS), vcpu.flags_of(_SS)),
            vcpu.state.d[hw.D_HFLAGS], tuple(vcpu.page[at] for at in _CODE_WORDS), cpl, code.space, code.scratch,
            in_force,
        )  # fmt: skip
