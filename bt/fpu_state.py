"""Instructions that store or load the state of x87 and SSE: the VMM sees to what the processor below does not know.

It keeps the address of the last x87 instruction, which is one in the cache, and no opcode; its MXCSR shows no error; it
loads no pointers, and reserved bits of MXCSR without a fault. So each of these leaves the cache first. Most stores are
the VMM's altogether; to FXSAVE it adds pointers. Loads run here by themselves once it has looked at what they load.

Source: Intel SDM Vol. 1, "x87 FPU Instruction and Operand (Data) Pointers", "x87 State Image"; Vol. 2A-2B, "FSTENV",
"FSAVE", "FXSAVE", "FXRSTOR", "LDMXCSR", "STMXCSR".
"""

from collections.abc import Mapping
from typing import Final

from bt.decode import Insn
from bt.emit import Emitter, SiteKind
from bt.simd import BEHIND_STATE, STATE

_FWAIT: Final = b"\x9b"
_FNINIT: Final = b"\xdb\xe3"

_STORES: Final[Mapping[str, bytes]] = {"fnstenv": b"", "fnsave": _FNINIT}
"""What is left of a store when the VMM has stored."""
_OTHERS: Final[Mapping[str, bytes]] = {
    "fldenv": _FWAIT,
    "frstor": _FWAIT,
    "fxrstor": b"",
    "fxsave": b"",
}
"""What comes before the others: a wait for a pending error."""
STATES: Final = frozenset((*_STORES, *_OTHERS))


def fpu_state(emit: Emitter, insn: Insn) -> None:
    """A look of the VMM's, then the rest of the instruction."""
    emit.raw(_OTHERS.get(insn.name, b""))
    emit.site(SiteKind.PREPARE, STATE)
    emit.raw(_STORES.get(insn.name, insn.raw))
    if insn.name == "fxsave":
        emit.site(SiteKind.PREPARE, BEHIND_STATE)
