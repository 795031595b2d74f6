"""How often each form ran: an observer of the translate engine.

With `COUNTING` every sensitive instruction either leaves the cache or has a TRACE site behind it, so each execution is
seen once. What faults has not been executed.
"""

from collections import Counter
from typing import Final

from bt.cache import Block
from bt.decode import Insn
from bt.emit import Site
from bt.translate import Options
from vmm.census.forms import Form, form_of

COUNTING: Final = Options(inline=False, probe_critical=True)
_BEHIND: Final = 1
"""`target` of the TRACE site behind an instruction."""


class ExecutionCounter:
    """Counts in `executed`. A string instruction with REP is one execution, however often it repeats."""

    def __init__(self) -> None:
        self.executed: Counter[Form] = Counter()
        self._forms: dict[int, tuple[Insn, Form | None]] = {}

    def probe(self, site: Site, block: Block) -> None:
        """Execution passes a TRACE site."""
        if site.target == _BEHIND:
            self._count(site.insn)

    def after_callout(self, insn: Insn) -> None:
        """The VMM carried an instruction out."""
        self._count(insn)

    def _count(self, insn: Insn) -> None:
        """By object: a site keeps its instruction, and to ask for its form again costs more than the exit."""
        known = self._forms.get(id(insn))
        if known is None:
            known = self._forms[id(insn)] = (insn, form_of(insn))
        if known[1] is not None:
            self.executed[known[1]] += 1

    def block(self, block: Block, insns: list[Insn]) -> None:
        """Nothing to count."""

    def exit(self, kind: str, eip: int, insn: Insn | None, values: dict[str, int]) -> None:
        """Nothing to count."""

    def before_callout(self, insn: Insn) -> None:
        """Nothing to count: it may fault."""

    def event(self, kind: str, vector: int, error_code: int | None) -> None:
        """Nothing to count."""

    def mode(self, name: str) -> None:
        """Nothing to count."""
