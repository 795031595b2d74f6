"""The census as JSON and as a table. The only importer of rich here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vmm.census.forms import AT_USER, Form, Kind
from vmm.census.scan import Findings, gaps_in_words
from vmm.census.source import Source

if TYPE_CHECKING:
    from rich.console import Console

SHOWN: Final = 2  # addresses of a form, in the table
GAPS_SHOWN: Final = 8
UNKNOWN_SHOWN: Final = 12
UD_OPERANDS: Final = ("ud0", "ud1")
_STYLES: Final[Mapping[Kind, str]] = {
    Kind.CRITICAL: "bold magenta", Kind.PRIVILEGED: "cyan", Kind.IOPL: "green", Kind.OTHER: "dim",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Census:
    """A file, what was found in it, and, if it was run, how often each form was executed."""

    source: Source
    found: Findings
    executed: Mapping[Form, int] | None = None

    def forms(self) -> list[Form]:
        """Every form that is in the file or ran, in the order of reports."""
        return sorted({**self.found.places, **(self.executed or {})}, key=lambda form: form.order)

    def to_json(self) -> dict[str, Any]:
        """docs/census.md has the schema."""
        source, found = self.source, self.found
        return {
            "file": source.name,
            "format": source.format,
            "scanned": [
                {"name": r.name, "address": r.address, "size": len(r.code), "bits": 32 if r.code32 else 16}
                for r in source.regions
            ],
            "skipped": list(source.skipped),
            "instructions": found.instructions,
            "sensitive": found.sensitive,
            "rows": [self._row(form) for form in self.forms()],
            "undecodable": [{"address": address, "size": size} for address, size in found.gaps],
            "unknown": dict(_by_count(found.unknown)),
            "caveats": self.caveats(),
        }

    def _row(self, form: Form) -> dict[str, Any]:
        addresses = self.found.places.get(form, [])
        row = {
            "instruction": form.instruction,
            "form": form.operands,
            "class": str(form.kind),
            "in_user_mode": AT_USER[form.kind],
            "count": len(addresses),
            "share": self.share(len(addresses)),
            "addresses": addresses,
        }
        return row if self.executed is None else {**row, "executed": self.executed.get(form, 0)}

    def share(self, count: int) -> float:
        """Of all instructions in the file."""
        return count / self.found.instructions if self.found.instructions else 0.0

    def caveats(self) -> list[str]:
        """What the counts do not say, in sentences."""
        found, said = self.found, list(self.source.caveats)
        if found.gaps:
            size, places = sum(size for _, size in found.gaps), ", ".join(gaps_in_words(found.gaps[:GAPS_SHOWN]))
            more = f" and {len(found.gaps) - GAPS_SHOWN} more" if len(found.gaps) > GAPS_SHOWN else ""
            said.append(
                f"{size} bytes could not be decoded, and the sweep went on at the next byte: behind these places it "
                f"may have been out of step: {places}{more}."
            )
        if short := sum(found.unknown[name] for name in UD_OPERANDS):
            said.append(f"{short} UD0 and UD1 are taken to have a ModR/M byte, as the SDM says; not all decoders do.")
        if found.unknown:
            counted = [f"{name} {count}" for name, count in _by_count(found.unknown)]
            more = f" and {len(counted) - UNKNOWN_SHOWN} more" if len(counted) > UNKNOWN_SHOWN else ""
            said.append(
                f"{found.unknown.total()} instructions do not exist on the virtual processor and are no rows here: "
                f"{', '.join(counted[:UNKNOWN_SHOWN])}{more}."
            )
        if self.executed is not None:
            said.append("Executed counts are of all code that ran, firmware and programs included.")
        return said


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Most frequent first, ties by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def show(console: "Console", census: Census) -> None:
    """Print the table and what it does not say."""
    from rich.markup import escape
    from rich.table import Table

    source, found = census.source, census.found
    total = f"{found.sensitive:,} of {found.instructions:,} instructions ({census.share(found.sensitive):.2%})"
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for heading in ("instruction", "count", "share", *_ran(census, "executed"), "addresses"):
        table.add_column(heading, justify="left" if heading in ("instruction", "addresses") else "right", no_wrap=True)
    kind = None
    for form in census.forms():
        if form.kind is not kind:
            kind = form.kind
            table.add_row(f"{kind}: {AT_USER[kind]}", style=f"{_STYLES[kind]} reverse")
        table.add_row(*_cells(census, form), style=_STYLES[kind])
    console.print(escape(f"{source.name}: {total} are sensitive. In user mode:"), style="bold", soft_wrap=True)
    console.print(table)
    scanned = ", ".join(region.name for region in source.regions)
    console.print(escape(f"Scanned: {scanned}. Not scanned: {', '.join(source.skipped) or 'nothing'}."), soft_wrap=True)
    for caveat in census.caveats():
        console.print(escape(caveat), soft_wrap=True, highlight=False)


def _ran(census: Census, text: str) -> list[str]:
    """A cell of the column that is there when the file was run."""
    return [] if census.executed is None else [text]


def _cells(census: Census, form: Form) -> list[str]:
    places = census.found.places.get(form, [])
    shown = [f"{place:08x}" for place in places[:SHOWN]] + [".."] * (len(places) > SHOWN)
    return [
        f"  {form.instruction} {form.operands}".rstrip(),
        f"{len(places):,}",
        f"{census.share(len(places)):.4%}",
        *_ran(census, f"{(census.executed or {}).get(form, 0):,}"),
        " ".join(shown),
    ]
