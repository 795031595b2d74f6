"""IN, OUT, INS and OUTS: what an instruction can reach outside its processor.

A whole REP INS or OUTS is one call: page by page, with the registers exact at every fault.
"""

from collections.abc import Callable
from typing import Final, Protocol

from bt.decode import Insn
from vmm.arch.layout import MASK32, PAGE_MASK, PAGE_SIZE
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.cpu import control, limits
from vmm.cpu.access_checks import Place
from vmm.cpu.breakpoints import has_breakpoints, struck, struck_by_port
from vmm.cpu.operands import require_aligned
from vmm.cpu.vcpu import Vcpu

_DF: Final = int(Eflags.DF)
_EAX: Final = int(Reg.EAX)
_EDX: Final = int(Reg.EDX)


class Platform(Protocol):
    """What an instruction can reach outside its processor."""

    def port_read(self, port: int, width: int) -> int: ...
    def port_write(self, port: int, width: int, value: int) -> None: ...
    def port_read_block(self, port: int, width: int, count: int) -> bytes: ...
    def port_write_block(self, port: int, width: int, data: bytes) -> None: ...
    def tsc(self) -> int: ...
    def tsc_offset(self) -> int | None: ...


def _port(vcpu: Vcpu, insn: Insn) -> int:
    port = insn.immediate_port
    return vcpu.reg(_EDX, 2) if port is None else port


def in_(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """IN AL | AX | EAX (SDM Vol. 2A, "IN - Input from Port")."""
    port, width = _port(vcpu, insn), insn.port_width
    control.check_io(vcpu, port, width)
    vcpu.set_reg(_EAX, width, platform.port_read(port, width))
    vcpu.pending_debug |= struck_by_port(vcpu, port, width)


def out(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """OUT (SDM Vol. 2B, "OUT - Output to Port")."""
    port, width = _port(vcpu, insn), insn.port_width
    control.check_io(vcpu, port, width)
    platform.port_write(port, width, vcpu.reg(_EAX, width))
    vcpu.pending_debug |= struck_by_port(vcpu, port, width)


def _string_io(vcpu: Vcpu, insn: Insn, index: int, transfer: Callable[[int, int], None]) -> None:
    """The frame of INS and OUTS: a whole REP at once, page by page, with exact registers at a fault.

    `transfer(linear address, count of items)` moves items at ascending addresses inside one page, or one item anywhere.
    """
    width = insn.port_width
    size = insn.address_size
    mask = (1 << 8 * size) - 1
    is_input = index == Reg.EDI
    override = Seg.ES if is_input else insn.segment_override
    seg = int(Seg.DS) if override is None else override
    backward = bool(vcpu.eflags & _DF)
    left = vcpu.reg32(Reg.ECX) & mask if insn.repeat else 1
    while left:
        offset = vcpu.reg32(index) & mask
        limits.check(vcpu, seg, offset, width, is_input)
        la = vcpu.base(seg) + offset & MASK32
        require_aligned(vcpu, la, width, is_input, width)
        allowed = limits.room(vcpu, seg, offset, is_input)
        room = min(PAGE_SIZE - (la & PAGE_MASK), mask + 1 - offset, allowed) // width
        count = 1 if backward or room == 0 or has_breakpoints(vcpu) else min(left, room)
        hit = struck(vcpu, [Place(seg, offset, width, is_input)])
        transfer(la, count)
        vcpu.set_reg(index, size, offset + (-width if backward else width * count))
        left -= count
        if insn.repeat:
            vcpu.set_reg(Reg.ECX, size, left)
        if hit := hit | struck_by_port(vcpu, vcpu.reg(_EDX, 2), width):
            vcpu.pending_debug |= hit
            if left:
                vcpu.eip = insn.eip
            return


def ins(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """INSB INSW INSD, REP too: the port is read only when memory takes the data (SDM Vol. 2A, "INS/INSB/INSW/INSD")."""
    port, width, user = vcpu.reg(Reg.EDX, 2), insn.port_width, vcpu.cpl == 3
    control.check_io(vcpu, port, width)

    def transfer(la: int, count: int) -> None:
        vcpu.memory.check_write(la, width * count, user)
        vcpu.memory.write_bytes(la, platform.port_read_block(port, width, count), user)

    _string_io(vcpu, insn, Reg.EDI, transfer)


def outs(vcpu: Vcpu, insn: Insn, platform: Platform) -> None:
    """OUTSB OUTSW OUTSD, REP too (SDM Vol. 2B, "OUTS/OUTSB/OUTSW/OUTSD")."""
    port, width, user = vcpu.reg(Reg.EDX, 2), insn.port_width, vcpu.cpl == 3
    control.check_io(vcpu, port, width)

    def transfer(la: int, count: int) -> None:
        platform.port_write_block(port, width, vcpu.memory.read_bytes(la, width * count, user))

    _string_io(vcpu, insn, Reg.ESI, transfer)
