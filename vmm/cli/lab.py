"""`vmm lab`: experiments that show what each technique of virtualization makes of the same guest.

`vmm run` comes by this module, too: what only the laboratory needs is imported where it is used.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Experiments: the same small guest on every engine.", no_args_is_help=True, add_completion=False)
Json = Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="As JSON; - in the place of the table.")]
_STDOUT = "-"


@app.callback()
def _group() -> None:
    """Experiments: the same small guest on every engine that there is; docs/lab.md."""


@app.command()
def critical(target: Json = None) -> None:
    """Each critical instruction in each form, mode and ring: what it shows, and what the manual says.

    Exit status: 0 if all is as expected, 1 if not.
    """
    _check(target)
    from vmm.lab.critical import cases, surprises
    from vmm.lab.report import show_critical
    from vmm.lab.rows import on_every_engine

    rows = on_every_engine(list(cases()))
    found = surprises(rows)
    _report(target, "rows", rows, lambda console: show_critical(console, rows, found))
    raise typer.Exit(1 if found else 0)


@app.command()
def smsw(target: Json = None) -> None:
    """A guest in real mode asks by SMSW whether it is in protected mode."""
    _check(target)
    from vmm.lab.experiments import as_bits, smsw_cases
    from vmm.lab.report import SMSW, show_rows
    from vmm.lab.rows import on_every_engine

    rows = as_bits(on_every_engine(list(smsw_cases())))
    verdicts = {True: "", False: "wrong"}
    _report(target, "rows", rows, lambda console: show_rows(console, rows, verdicts, SMSW))


@app.command()
def redpill(target: Json = None) -> None:
    """User programs that try to tell a virtual machine from a real one."""
    _check(target)
    from vmm.lab.experiments import pills
    from vmm.lab.report import REDPILL, show_rows
    from vmm.lab.rows import on_every_engine

    rows = on_every_engine(pills())
    verdicts = {True: "", False: "tells"}
    _report(target, "rows", rows, lambda console: show_rows(console, rows, verdicts, REDPILL))


@app.command()
def rings(target: Json = None) -> None:
    """A system call through the rings, step by step."""
    _check(target)
    from vmm.lab.report import show_rings
    from vmm.lab.rings import on_every_engine

    steps = on_every_engine()
    _report(target, "steps", steps, lambda console: show_rings(console, steps))


@app.command("popek-goldberg")
def popek_goldberg(target: Json = None) -> None:
    """What a VMM owes its guest, measured: efficiency, resource control, equivalence.

    Exit status: 0 if each engine that promises all three kept its promise, 1 if not.
    """
    _check(target)
    from rich.console import Console

    from vmm.lab import control, efficiency, equivalence
    from vmm.lab.report import show_control, show_efficiency, show_equivalence

    measured = efficiency.on_every_engine()
    compared = equivalence.on_every_engine()
    results = [result for one in control.on_every_engine() for result in one]
    failures = control.failures(results) + equivalence.failures(compared)
    _write(target, {"efficiency": measured, "control": results, "equivalence": compared})
    if target != _STDOUT:
        show_efficiency(Console(), measured)
        show_equivalence(Console(), compared)
        show_control(Console(), results, failures)
    raise typer.Exit(1 if failures else 0)


def _check(target: str | None) -> None:
    """Refuse a bad `--json` before anything runs. Raises: ConfigError."""
    from vmm.cli.values import output_file

    if target != _STDOUT:
        output_file(target, "--json")


def _report(target: str | None, name: str, items: Sequence[Any], show: "Callable[[Console], None]") -> None:
    _write(target, {name: items})
    if target != _STDOUT:
        from rich.console import Console

        show(Console())


def _write(target: str | None, lists: Mapping[str, Sequence[Any]]) -> None:
    """As JSON to where it was asked for, if it was."""
    text = json.dumps({name: [item.to_json() for item in items] for name, items in lists.items()}, indent=1) + "\n"
    if target == _STDOUT:
        sys.stdout.write(text)
    elif target is not None:
        from vmm.cli.frontends import open_text

        with open_text(Path(target), "--json") as file:
            file.write(text)
