"""What the laboratory shows: tables, and what is to be seen in them. The only importer of rich here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vmm.lab.attacks.rig import Result
from vmm.lab.control import UNPROTECTED
from vmm.lab.deviations import DEVIATIONS
from vmm.lab.efficiency import Efficiency
from vmm.lab.equivalence import Equivalence
from vmm.lab.rings import Step
from vmm.lab.rows import Row

_PLACES: Final = (("real", 0), ("v86", 3), ("protected", 0), ("protected", 3))
_HEADINGS: Final = ("real", "V86", "ring 0", "ring 3")

CRITICAL: Final = (
    "The x86 can be virtualised by waiting for traps only if each instruction that shows or changes privileged state "
    "traps in user mode. These do not. On the bare machine they are right because the guest is privileged. Trap and "
    "emulate is wrong wherever it never gets to see them: the guest reads the physical processor's state, or its own "
    "ring. Binary translation has replaced them before they run. With hardware assistance the guest is in ring 0 of "
    "a processor state of its own, and they need neither a trap nor a rewrite."
)
SMSW: Final = (
    "A guest in real mode asks whether it is in protected mode. A deprivileged guest always is, physically: "
    "real mode runs in V86. SMSW does not trap there, so the answer is the physical processor's unless the instruction "
    "was replaced, or the guest has a CR0 of its own."
)
REDPILL: Final = (
    "Each pill is one unprivileged instruction in a user program. It sees through an engine when it shows "
    "something else than the operating system has set up. What is silent cannot be corrected by an engine that waits "
    "for traps."
)
RINGS: Final = (
    "The guest always believes in ring 3, ring 0, ring 3. Where the kernel really runs differs: in ring 1 if it is "
    "deprivileged; and a translated program is not even where it thinks, for its code is in the cache. Costs are "
    "of one call, in nanoseconds, without the marks. A step that the processor does alone costs little; one that the "
    "VMM has to deliver costs an exit."
)
EFFICIENCY: Final = (
    "Efficiency: harmless instructions run without the VMM. The same programs execute the same instructions under "
    "every engine; counted is how often they left. A user program that calculates never does. What a technique costs "
    "shows where a kernel works: each instruction that traps, each system call that the VMM has to deliver."
)
CONTROL: Final = (
    "Resource control: no program gets at what it was not given. Each attack makes its attempts in a machine of its "
    "own; a cell says how many of them ended as the manual prescribes. Afterwards the VMM is looked at: its memory, "
    "its page tables, its descriptors. 'mad' are attempts that touched the VMM's window in the guest's linear space "
    "and saw it, or changed state of the guest's own there: docs/limits.md."
)

EQUIVALENCE: Final = (
    "Equivalence: a program does what it does on the bare machine. Random programs in every mode, with faults, "
    "interrupts, descriptor tables, page tables and code that changes itself, run on each engine and on the bare "
    "processor; registers, flags, memory, faults and port traffic are compared. Explained are programs where the "
    "processor below breaks the manual, or a limit shows that docs/limits.md names; vmm differential tells which."
)


def show_equivalence(console: Console, compared: Sequence[Equivalence]) -> None:
    """A line for each engine."""
    numbers = ("programs", "the same", "explained", "different")
    table = _table("engine", *numbers, right=numbers)
    for each in compared:
        row = (each.engine, f"{each.programs:,}", f"{each.same:,}", f"{each.explained:,}", f"{each.different:,}")
        table.add_row(*row, style="bold red" if each.different else "")
    console.print("Equivalence: random programs, against the bare processor", style="bold")
    console.print(table)
    _explain(console, EQUIVALENCE)
    console.print()


def show_efficiency(console: Console, measured: Sequence[Efficiency]) -> None:
    """A line for each workload: instructions, and for each engine how often it left and the share that did not."""
    engines = list(dict.fromkeys(each.engine for each in measured))
    table = _table("workload", "instructions", *engines, right=("instructions", *engines))
    for guest in dict.fromkeys(each.guest for each in measured):
        mine = [each for each in measured if each.guest == guest]
        cells = [f"{each.left:,} {each.share:8.2%}" for each in mine]
        table.add_row(guest, f"{mine[0].instructions:,}", *cells)
    console.print("Efficiency: exits, and the share of instructions that ran without the VMM", style="bold")
    console.print(table)
    _explain(console, EFFICIENCY)
    console.print()


def show_control(console: Console, results: Sequence[Result], failures: Sequence[str]) -> None:
    """A line for each attack, a column for each engine; then what should not have been."""
    engines = list(dict.fromkeys(result.engine for result in results))
    cells: dict[str, dict[str, Result]] = {}
    for result in results:
        cells.setdefault(result.attack, {})[result.engine] = result
    table = _table("attack", "attempts", *engines, right=("attempts", *engines))
    for attack, by_engine in cells.items():
        attempts = max(result.attempts for result in by_engine.values())
        table.add_row(escape(attack), f"{attempts:,}", *(_outcome(by_engine[engine]) for engine in engines))
    console.print("Resource control: attempts that ended as the manual prescribes", style="bold")
    console.print(table)
    for result in results:
        if not result.is_right and result.engine in UNPROTECTED:
            what = "; ".join(filter(None, (result.first_wrong, *result.damage)))
            console.print(escape(f"{result.engine}, {result.attack}: {what}"), soft_wrap=True, highlight=False)
    for engine in engines:
        if engine in UNPROTECTED:
            console.print(escape(f"{engine} promises no control: {UNPROTECTED[engine]}"), soft_wrap=True)
    _explain(console, CONTROL)
    for line in failures:
        console.print(escape(f"not as it has to be: {line}"), style="bold red", soft_wrap=True)


def _outcome(result: Result) -> str:
    if result.damage:
        return "[bold red]damage[/]"
    shown = f"{result.as_prescribed:,}"
    if result.wrong:
        return f"[bold red]{shown}[/]"
    return f"{shown}, mad {result.hurt_itself:,}" if result.hurt_itself else shown


def show_critical(console: Console, rows: Sequence[Row], surprises: Sequence[str]) -> None:
    """A line for each form, a column for each setting, a letter for each engine; then every wrong cell."""
    engines = list(dict.fromkeys(row.engine for row in rows))
    cells: dict[tuple[str, str], dict[tuple[str, int], str]] = {}
    for row in rows:
        places = cells.setdefault((row.instruction, row.form), {})
        places[row.mode, row.ring] = places.get((row.mode, row.ring), "") + _letter(row)
    table = _table("instruction", *_HEADINGS)
    for (instruction, form), places in cells.items():
        table.add_row(f"{instruction} {form}", *(_coloured(places.get(place, "")) for place in _PLACES))
    console.print(escape(f"Letters: {', '.join(engines)}. - right, by itself; t right, trapped; W wrong"), style="bold")
    console.print(table)
    _show_wrong(console, rows)
    _explain(console, CRITICAL)
    for line in surprises:
        console.print(escape(f"not as expected: {line}"), style="bold red", soft_wrap=True)


def _letter(row: Row) -> str:
    return "W" if not row.right else "t" if row.trapped else "-"


def _coloured(letters: str) -> str:
    return "".join(f"[bold red]{letter}[/]" if letter == "W" else letter for letter in letters)


def _show_wrong(console: Console, rows: Iterable[Row]) -> None:
    """The wrong cells, by engine and reason."""
    for row in rows:
        if not row.right:
            reason = DEVIATIONS.get(row.engine, {}).get(row.key, "no reason is known")
            where = f"{row.engine}, {row.mode}, ring {row.ring}: {row.instruction} {row.form}"
            console.print(escape(f"{where} shows {row.got}, not {row.expected}: {reason}"), soft_wrap=True)


def show_rows(console: Console, rows: Sequence[Row], verdicts: Mapping[bool, str], text: str) -> None:
    """A table for each engine, one line for each row; `verdicts` says what right (True) and wrong are called."""
    for engine in dict.fromkeys(row.engine for row in rows):
        table = _table("instruction", "expected", "got", "exits", "", gap=1)
        for row in rows:
            if row.engine == engine:
                name = f"{row.instruction} {row.form}"
                shown = (name, str(row.expected), str(row.got), str(row.trapped), verdicts[row.right])
                table.add_row(*map(escape, shown), style="" if row.right else "bold red")
        console.print(engine, style="bold")
        console.print(table)
    _explain(console, text)


def show_rings(console: Console, steps: Sequence[Step]) -> None:
    """A table for each call, one line for each step."""
    for call in dict.fromkeys((step.engine, step.call) for step in steps):
        table = _table("step", "CPL", "CS:EIP", "SS:ESP", "physical CPL, CS:EIP", "ns")
        for step in steps:
            if (step.engine, step.call) == call:
                table.add_row(*_step(step))
        console.print(": ".join(call), style="bold")
        console.print(table)
    _explain(console, RINGS)


def _step(step: Step) -> tuple[str, ...]:
    place = step.place
    return (
        step.step,
        str(place.cpl),
        f"{place.cs:04X}:{place.eip:08X}",
        f"{place.ss:04X}:{place.esp:08X}",
        f"{place.physical_cpl}, {place.physical_cs:04X}:{place.physical_eip:08X}",
        f"{step.ns:,}",
    )


def _table(*headings: str, gap: int = 2, right: Sequence[str] = ("ns",)) -> Table:
    table = Table(box=None, padding=(0, gap, 0, 0), header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True, justify="right" if heading in right else "left")
    return table


def _explain(console: Console, text: str) -> None:
    console.print()
    console.print(text, highlight=False)
