"""What an engine counted. Everything here is for people; nothing of it decides anything."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class EngineStats:
    """Counters of one run: `callouts` by mnemonic, `exits` by kind, `interrupts` and `exceptions` by vector.

    `host_code`, by mnemonic: what host code has carried out in the VMM's place."""

    blocks: int = 0
    instructions: int = 0
    translate_seconds: float = 0.0
    callouts: Counter[str] = field(default_factory=Counter)
    host_code: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    interrupts: Counter[int] = field(default_factory=Counter)
    exceptions: Counter[int] = field(default_factory=Counter)
    inline_sites: Counter[str] = field(default_factory=Counter)
    callout_sites: Counter[str] = field(default_factory=Counter)

    @property
    def left(self) -> int:
        """All ways in which guest code left to the VMM."""
        return sum(each.total() for each in (self.callouts, self.exits, self.exceptions, self.interrupts))
