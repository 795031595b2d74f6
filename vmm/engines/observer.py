"""What an engine tells somebody who watches. With nobody watching nothing is called and no code changes."""

from typing import Protocol

from bt.cache import Block
from bt.decode import Insn
from bt.emit import Site
from vmm.arch.registers import Seg
from vmm.cpu.vcpu import DESC_B, Vcpu


class Observer(Protocol):
    """The watcher's side; called in the engine's hook, at the virtual CPU's state of that moment."""

    def block(self, block: Block, insns: list[Insn]) -> None:
        """A block was translated, from these instructions."""
        ...

    def exit(self, kind: str, eip: int, insn: Insn | None, values: dict[str, int]) -> None:
        """Guest code left the cache."""
        ...

    def probe(self, site: Site, block: Block) -> None:
        """Execution passes a TRACE site, before (`target` 0) or behind (1) a sensitive instruction in the cache."""
        ...

    def before_callout(self, insn: Insn) -> None:
        """The VMM is about to carry an instruction out."""
        ...

    def after_callout(self, insn: Insn) -> None:
        """It did, without a fault."""
        ...

    def event(self, kind: str, vector: int, error_code: int | None) -> None:
        """`irq` or `exception`: about to be delivered at the current CS:EIP."""
        ...

    def mode(self, name: str) -> None:
        """The processor's mode changed."""
        ...


def mode_name(vcpu: Vcpu) -> str:
    """The mode of a virtual CPU as people say it."""
    if vcpu.is_real or vcpu.is_v86:
        return "real" if vcpu.is_real else "V86"
    return f"protected {32 if vcpu.flags_of(Seg.CS) & DESC_B else 16}-bit, CPL {vcpu.cpl}"
