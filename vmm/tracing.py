"""Trace events out of an engine: the observer behind `--trace`.

Values: what an instruction read and changed, as registers before and after; ports with their data.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from bt.cache import Block
from bt.decode import Decoder, Insn
from bt.emit import Site
from vmm.arch.layout import MASK32, PAGE_MASK, SCRATCH_WORDS, Slot
from vmm.arch.registers import Reg, Seg
from vmm.cpu.vcpu import Vcpu
from vmm.trace import TraceEvent

_PORT_NAMES: Final = frozenset(("in", "insb", "insw", "insd", "out", "outsb", "outsw", "outsd"))
_REWRITTEN_SHOWN: Final = 3
_SOFTWARE_INTERRUPTS: Final = frozenset(("int", "int1", "int3", "into"))


class Tracer:
    """Turns what the engine tells into events for `emit`. `now` gives virtual time in ns."""

    def __init__(
        self, vcpu: Vcpu, now: Callable[[], int], kinds: frozenset[str], emit: Callable[[TraceEvent], None]
    ) -> None:
        self._vcpu, self._now, self._kinds, self._emit = vcpu, now, kinds, emit
        self._decoder = Decoder()
        self._before: dict[str, int] = {}
        self._mode = ""
        self._told = False
        self._began: tuple[int, int, int] | None = None

    # --- Observer --------------------------------------------------------------------------------------

    def block(self, block: Block, insns: list[Insn]) -> None:
        """A block was translated."""
        if "block" in self._kinds:
            made = block.translation
            values = {"instructions": len(insns), "bytes": made.source_size, "cache_bytes": len(made.code)}
            self._send("block", block.eip, str(insns[0]), f"cache {block.address:08x}", values)

    def exit(self, kind: str, eip: int, insn: Insn | None, values: dict[str, int]) -> None:
        """Guest code left the cache."""
        if "exit" in self._kinds:
            self._send("exit", eip, "" if insn is None else str(insn), kind, values)

    def probe(self, site: Site, block: Block) -> None:
        """A sensitive instruction in the cache: remember the registers before it, report what it changed."""
        if not site.target:
            self._before = self._registers()
            self._told = False
        elif "critical" in self._kinds and not self._told:  # else the VMM has carried it out
            self._send("critical", site.insn.eip, str(site.insn), self._rewritten(site.insn, block), self._changes())

    def before_callout(self, insn: Insn) -> None:
        """The VMM is about to carry an instruction out."""
        self._before = self._registers()
        self._began = self._here()

    def after_callout(self, insn: Insn) -> None:
        """It did: a port access, a software interrupt, or another sensitive instruction."""
        name = insn.name
        if name in _PORT_NAMES:
            if "io" in self._kinds:
                self._send("io", insn.eip, str(insn), "callout", self._port_values(insn))
        elif "critical" in self._kinds:
            self._send("critical", insn.eip, str(insn), "callout", self._changes())
            self._told = True
        if name in _SOFTWARE_INTERRUPTS and "exception" in self._kinds:
            to = f"{self._vcpu.selector(Seg.CS):04x}:{self._vcpu.eip:08x}"
            self._send("exception", insn.eip, str(insn), "", {"handler": to})
        self._began = None

    def event(self, kind: str, vector: int, error_code: int | None) -> None:
        """An interrupt or exception is about to be delivered."""
        self._began = None
        if kind in self._kinds:
            values = {"vector": vector} | ({} if error_code is None else {"error_code": error_code})
            self._send(kind, self._vcpu.eip, "", "", values)

    def mode(self, name: str) -> None:
        """The processor's mode changed."""
        if "mode" in self._kinds and name != self._mode:
            self._send("mode", self._vcpu.eip, "", "", {"from": self._mode or "reset", "to": name})
        self._mode = name

    # --- inside ----------------------------------------------------------------------------------------

    def _here(self) -> tuple[int, int, int]:
        """CS, its base and the ring."""
        return self._vcpu.selector(Seg.CS), self._vcpu.base(Seg.CS), self._vcpu.cpl

    def _send(self, kind: str, eip: int, insn: str, rewritten: str, values: dict[str, Any]) -> None:
        """Emit an event; a callout's belongs to where it began, whatever it has done to CS since."""
        cs, base, ring = self._began or self._here()
        self._emit(TraceEvent(kind, self._now(), cs, eip, base + eip & MASK32, ring, insn, rewritten, values))

    def _registers(self) -> dict[str, int]:
        vcpu = self._vcpu
        registers = {reg.name.lower(): vcpu.reg32(reg) for reg in Reg}
        system = {"cr0": vcpu.cr0, "cr3": vcpu.cr3, "cr4": vcpu.cr4, "gdtr": vcpu.gdtr[0], "idtr": vcpu.idtr[0]}
        segments = {seg.name.lower(): vcpu.selector(seg) for seg in Seg}
        return registers | segments | system | {"eflags": vcpu.eflags}

    def _changes(self) -> dict[str, list[int]]:
        after = self._registers()
        return {name: [value, after[name]] for name, value in self._before.items() if after[name] != value}

    def _port_values(self, insn: Insn) -> dict[str, int]:
        port = insn.tail[0] if insn.opcode in (0xE4, 0xE5, 0xE6, 0xE7) else self._before["edx"] & 0xFFFF
        size = insn.operand_size if insn.opcode & 1 else 1
        name = insn.name
        if name in ("in", "out"):
            return {"port": port, "value": self._vcpu.reg(Reg.EAX, size)}
        count = self._before["ecx"] - self._vcpu.reg32(Reg.ECX) if insn.repeat else 1
        return {"port": port, "items": count, "width": size}

    def _rewritten(self, insn: Insn, block: Block) -> str:
        """The first instructions that stand in the cache for one of the guest's."""
        span = next(((start, end) for made, start, end in block.translation.rewritten if made is insn), None)
        if span is None:
            return "the same bytes"
        code = block.translation.code[span[0] : span[1]]
        shown = [_named(str(made)) for made in self._decoder.decode(code, block.entry + span[0], insn.code32)]
        more = f" (+{len(shown) - _REWRITTEN_SHOWN})" if len(shown) > _REWRITTEN_SHOWN else ""
        return "; ".join(shown[:_REWRITTEN_SHOWN]) + more


def _named(text: str) -> str:
    """An instruction of ours with the words of the vCPU page by their names: Capstone shows 16 bits of the address."""
    return _CS_ADDRESS.sub(lambda match: f"cs:[{_WORDS.get(int(match[1], 16) & PAGE_MASK, match[1])}]", text)


_CS_ADDRESS: Final = re.compile(r"cs:\[(0x[0-9a-f]+|\d)\]")
_WORDS: Final = {int(slot): slot.name for slot in Slot} | {
    Slot.SCRATCH + 4 * number: f"SCRATCH{number}" for number in range(SCRATCH_WORDS)
}
