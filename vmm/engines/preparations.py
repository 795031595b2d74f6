"""What the VMM does for instructions that run in the cache by themselves: PREPARE exits (`bt.fpu_state`, `bt.simd`).

It also takes the address of the last x87 instruction from the engine, which has that of its translation, before
anybody looks at it or the translation goes.
"""

from bt.cache import Block
from bt.decode import Insn
from bt.emit import Site
from bt.looks import ALIGNMENT, DATA
from bt.simd import BEHIND_STATE, LOOK_AT_ACCESSES, LOOK_AT_ADDRESS, STATE
from vmm.arch.layout import MASK32
from vmm.cpu import breakpoints, fpu
from vmm.cpu.access_checks import is_empty, runs
from vmm.cpu.alignment import check_alignment
from vmm.cpu.vcpu import Vcpu
from vmm.engines.code import TranslatedCode


class Preparations:
    """Those of one virtual CPU. `struck`: bits in DR6 of the breakpoints that the latest one looked at strikes."""

    def __init__(self, vcpu: Vcpu, code: TranslatedCode) -> None:
        self._vcpu, self._code = vcpu, code
        self.struck = 0
        code.before_clearing.append(self.settle)

    def prepare(self, site: Site) -> bool:
        """See to an instruction; True: it changes what code may run behind it, and has to run alone.

        Raises: GuestFault: its fault. EIP is at it.
        """
        vcpu, insn, what = self._vcpu, site.insn, site.target
        self.struck = 0
        vcpu.eip = insn.eip
        if what == STATE:
            self.settle()
            fpu.PREPARATIONS[insn.name](vcpu, insn)
        elif what == BEHIND_STATE:
            fpu.add_pointers(vcpu, insn)
        elif what == LOOK_AT_ADDRESS:
            fpu.require_sse(vcpu)
            fpu.check_alignment(vcpu, insn)
        elif what == LOOK_AT_ACCESSES:
            return self._look_at_accesses(insn)
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
