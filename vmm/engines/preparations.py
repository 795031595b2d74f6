"""What the VMM does for instructions that run in the cache by themselves: PREPARE exits (`bt.fpu_state`, `bt.simd`).

It also takes the address of the last x87 instruction from the engine, which has that of its translation, before
anybody looks at it or the translation goes.
"""

from typing import Final

from bt.cache import Block
from bt.decode import Insn
from bt.emit import Site
from bt.looks import ALIGNMENT, DATA
from bt.simd import BEHIND_ARITHMETIC, BEHIND_STATE, LOOK_AT_ACCESSES, LOOK_AT_ADDRESS, STATE
from vmm.arch.exceptions import GuestFault, Vector, ud
from vmm.arch.layout import MASK32
from vmm.arch.registers import Cr4
from vmm.cpu import breakpoints, fpu
from vmm.cpu.access_checks import is_empty, runs
from vmm.cpu.alignment import check_alignment
from vmm.cpu.vcpu import Vcpu
from vmm.engines.code import TranslatedCode
from vmm.hw import state as hw

_MXCSR: Final = hw.MXCSR >> 2
_OSXMMEXCPT: Final = int(Cr4.OSXMMEXCPT)
_GENERAL: Final = slice(0, 8 * 8)
"""The general registers in the state."""
_XMM: Final = slice(*hw.FPU_RANGES[1])
_X87: Final = slice(hw.FPU_TOP, hw.FPU_OPCODE)
"""With the MMX registers."""


class Preparations:
    """Those of one virtual CPU. `struck`: bits in DR6 of the breakpoints that the latest one looked at strikes."""

    def __init__(self, vcpu: Vcpu, code: TranslatedCode) -> None:
        self._vcpu, self._code = vcpu, code
        self.struck = 0
        self._before: tuple[bytes, bytes, bytes, int] = (b"", b"", b"", 0)
        code.before_clearing.append(self.settle)

    def prepare(self, site: Site) -> bool:
        """See to an instruction; True: it changes what code may run behind it, and has to run alone.

        Raises: GuestFault: its fault. EIP is at it.
        """
        vcpu, insn, what = self._vcpu, site.insn, site.target
        self.struck = 0
        vcpu.eip = insn.eip
        if what == STATE:
            before = vcpu.state.d[_MXCSR]
            self.settle()
            fpu.PREPARATIONS[insn.name](vcpu, insn)
            return fpu.lets_errors_through(vcpu.state.d[_MXCSR]) != fpu.lets_errors_through(before)
        if what == BEHIND_STATE:
            fpu.add_pointers(vcpu, insn)
        elif what == LOOK_AT_ADDRESS:
            fpu.require_sse(vcpu)
            fpu.check_alignment(vcpu, insn)
        elif what == LOOK_AT_ACCESSES:
            return self._look_at_accesses(insn)
        elif what == BEHIND_ARITHMETIC:
            self._look_for_errors()
        else:
            self._remember()
        return False

    def _look_at_accesses(self, insn: Insn) -> bool:
        """An instruction with accesses, in a context where they matter. One that strikes a breakpoint runs alone."""
        vcpu, looks = self._vcpu, self._code.space.context.looks
        if is_empty(vcpu, insn):
            return False
        if looks & ALIGNMENT:
            check_alignment(vcpu, insn)
        if looks & DATA:
            self.struck = breakpoints.struck(vcpu, runs(vcpu, insn))
        return self.struck != 0

    # --- errors of SSE ----------------------------------------------------------------------------------

    def _remember(self) -> None:
        vcpu = self._vcpu
        buffer = vcpu.state.buffer
        fpu.fold_errors(vcpu)
        self._before = bytes(buffer[_GENERAL]), bytes(buffer[_XMM]), bytes(buffer[_X87]), vcpu.fold_flags()

    def _look_for_errors(self) -> None:
        """An unmasked error: as if the instruction had not been carried out, but for the flags in MXCSR.

        Source: SDM Vol. 1, "Handling SIMD Floating-Point Exceptions in Software"; #UD without CR4.OSXMMEXCPT.
        """
        vcpu = self._vcpu
        errors, mxcsr = fpu.take_errors(vcpu), vcpu.state.d[_MXCSR]
        cause = fpu.unmasked(mxcsr, errors)
        vcpu.state.d[_MXCSR] = mxcsr | fpu.shown(errors, cause)
        if not cause:
            return
        buffer = vcpu.state.buffer
        buffer[_GENERAL], buffer[_XMM], buffer[_X87], flags = self._before
        vcpu.set_arithmetic(flags)
        raise GuestFault(Vector.XF) if vcpu.cr4 & _OSXMMEXCPT else ud()

    # --- pointers of the x87 FPU ------------------------------------------------------------------------

    def settle(self) -> None:
        """Let the guest's last x87 instruction be at its own address."""
        ip = fpu.foreign_ip(self._vcpu)
        if ip is None:
            return
        for cs_base in self._code.cs_bases():
            address = cs_base + ip & MASK32
            block = self._code.cache.block_at(address)
            if block is not None and block.page.space.cs_base == cs_base:
                self._settle_in(block, address)
                return

    def _settle_in(self, block: Block, address: int) -> None:
        eip = block.mark_at(address).eip
        insn = self._code.insn_at(block, eip)
        fpu.set_instruction(self._vcpu, eip, fpu.opcode_of(insn) if insn.has_modrm and insn.tail else 0)
