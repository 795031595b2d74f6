"""Steps: one guest instruction in a world of its own.

A step is a block of one instruction that ends in an exit. It serves where the instruction needs something done round
it: a store into its own page of code, an access to memory that is not RAM, the shadow of STI and MOV SS,
single-stepping (TF).
"""

from dataclasses import dataclass
from typing import Final

from bt.cache import Block
from bt.decode import Insn
from bt.tables import repeats
from vmm.arch.registers import Eflags, Reg
from vmm.cpu.vcpu import Vcpu
from vmm.engines.code import TranslatedCode
from vmm.engines.device_pages import DevicePage

_ZF: Final = int(Eflags.ZF)
_REPE: Final = 0xF3
_REPEATS: Final = (0xF2, 0xF3)


@dataclass(slots=True)
class Step:
    """One instruction under way: what to undo and to deliver when it is done.

    `trap`: the single-step trap follows. `debug`: so does a #DB for these bits of DR6. `hidden_errors`: x87 errors that
    wait, and that it does not see. `repeated` is the instruction as the guest has it when it runs one iteration at a
    time, without its REP prefix.
    """

    pages: list[DevicePage]
    trap: bool = False
    repeated: Insn | None = None
    hidden_errors: int = 0
    debug: int = 0


class Stepper:
    """Prepares the blocks of steps, and counts the iterations of what runs one at a time."""

    def __init__(self, vcpu: Vcpu, code: TranslatedCode) -> None:
        self._vcpu, self._code = vcpu, code

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

    def count_iteration(self, insn: Insn) -> None:
        """REP by hand: count ECX down and go round, unless it is 0 or REPE, REPNE end it."""
        vcpu, size = self._vcpu, insn.address_size
        left = vcpu.reg(Reg.ECX, size) - 1
        vcpu.set_reg(Reg.ECX, size, left)
        compares = insn.name.startswith(("cmps", "scas"))
        matched = bool(vcpu.fold_flags() & _ZF) == (insn.repeat == _REPE)
        goes_on = left & ((1 << 8 * size) - 1) != 0 and (not compares or matched)
        vcpu.eip = insn.eip if goes_on else insn.falls_to
