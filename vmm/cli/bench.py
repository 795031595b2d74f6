"""`vmm bench`: what things take, on each technique and elsewhere. Heavy imports wait until a suite is chosen."""

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from vmm.bench.rows import Results

app = typer.Typer(help="Benchmarks: docs/benchmarks.md.", no_args_is_help=True, add_completion=False)
Cases = Annotated[list[str] | None, typer.Argument(metavar="CASE...", help="Which ones; all without.")]
Engines = Annotated[str | None, typer.Option("--engines", metavar="NAME,..", help="Which engines of ours.")]
Against = Annotated[str | None, typer.Option("--against", metavar="qemu,bochs", help="Run the same images there, too.")]
Rounds = Annotated[int | None, typer.Option("--rounds", metavar="N", help="Measurements of each; 5 without.")]
Quick = Annotated[bool, typer.Option("--quick", help="Three rounds, and loops of a quarter of the time.")]
CpuTime = Annotated[
    bool, typer.Option("--cpu-time", help="The processor's time, for a machine that is busy otherwise.")
]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="As JSON; - in the place of the tables.")]
Chart = Annotated[str | None, typer.Option("--chart", metavar="FILE.png", help="As a chart; needs matplotlib.")]

_STDOUT: Final = "-"
_ROUNDS_MAX: Final = 1000
_QUICK_SHARE: Final = 0.25


@app.callback()
def _group() -> None:
    """Benchmarks: the same guests on each engine, and on QEMU and Bochs; docs/benchmarks.md."""


@app.command()
def nano(  # noqa: PLR0913 - one parameter per option
    cases: Cases = None, engines: Engines = None, against: Against = None, rounds: Rounds = None,
    quick: Quick = False, json: Json = None, chart: Chart = None,
) -> None:  # fmt: skip
    """Instruction by instruction: critical, privileged, and the seven events of Adams and Agesen."""
    _loops("nano", locals())


@app.command()
def compute(  # noqa: PLR0913 - one parameter per option
    cases: Cases = None, engines: Engines = None, against: Against = None, rounds: Rounds = None,
    quick: Quick = False, json: Json = None, chart: Chart = None,
) -> None:  # fmt: skip
    """Programs that calculate, in ring 0 and in ring 3."""
    _loops("compute", locals())


@app.command()
def peers(  # noqa: PLR0913 - one parameter per option
    cases: Cases = None, engines: Engines = None, against: Against = None, rounds: Rounds = None,
    quick: Quick = False, json: Json = None, chart: Chart = None,
) -> None:  # fmt: skip
    """Loops and programs on translation, the engine alone, QEMU and Bochs."""
    _loops("peers", locals())


@app.command()
def boot(  # noqa: PLR0913 - one parameter per option
    cases: Cases = None, engines: Engines = None, against: Against = None, rounds: Rounds = None,
    cpu_time: CpuTime = False, quick: Quick = False, json: Json = None, chart: Chart = None,
) -> None:  # fmt: skip
    """GRUB, Linux three ways, the work script, an idle guest."""
    words = locals()
    from vmm.bench import boot as suite
    from vmm.bench.report import against_translate

    wanted = _Wanted(words, suite.NAMES, suite.ENGINES, suite.ENGINES[:1], ())
    order = suite.Order(wanted.cases, wanted.engines, wanted.against, wanted.rounds, cpu_time)
    results, versions = suite.take(order, _progress)
    wanted.report("boot", results, versions, against_translate(results), exits=False)


def _loops(name: str, words: Mapping[str, Any]) -> None:
    from vmm.bench.peers import PEERS
    from vmm.bench.report import NANO_RATIOS, against_translate
    from vmm.bench.suites import ENGINES, SUITES, Order, take

    suite = SUITES[name]
    wanted = _Wanted(words, [case.name for case in suite.cases()], ENGINES, suite.engines, suite.against)
    share = _QUICK_SHARE if words["quick"] else 1.0
    order = Order(suite, wanted.cases, wanted.engines, wanted.against, wanted.rounds, share)
    results, versions = take(order, _progress)
    ratios = {**NANO_RATIOS, **against_translate(results, PEERS)} if suite.has_exits else against_translate(results)
    wanted.report(f"{name}: {suite.title}", results, versions, ratios, exits=suite.has_exits)


class _Wanted:
    """The words of the command line, checked. Raises: ConfigError."""

    def __init__(
        self, words: Mapping[str, Any], cases: Sequence[str], engines: Sequence[str], usual: Sequence[str],
        against: Sequence[str],
    ) -> None:  # fmt: skip
        from vmm.bench.measure import QUICK_ROUNDS, ROUNDS
        from vmm.bench.peers import PEERS
        from vmm.cli.values import output_file
        from vmm.errors import ConfigError

        self.cases = _chosen(words["cases"] or (), "CASE", cases)
        self.engines = _named(words["engines"], "--engines", engines, usual)
        self.against = _named(words["against"], "--against", tuple(PEERS), against)
        self.rounds: int = words["rounds"] or (QUICK_ROUNDS if words["quick"] else ROUNDS)
        if words["rounds"] is not None and not 1 <= words["rounds"] <= _ROUNDS_MAX:
            raise ConfigError(f"--rounds: expected a number from 1 to {_ROUNDS_MAX}, not {words['rounds']}")
        self._json: str | None = words["json"]
        if self._json != _STDOUT:
            output_file(self._json, "--json")
        self._chart = output_file(words["chart"], "--chart")
        self._drawing: Any = None
        if self._chart is not None:
            from vmm.bench.chart import load

            self._drawing = load()

    def report(self, title: str, results: "Results", versions: Mapping[str, str], ratios: Any, *, exits: bool) -> None:
        """Tables, JSON and chart, as wanted. Exit status 130 where the user has interrupted the suite."""
        from vmm.bench import report
        from vmm.bench.bars import judge
        from vmm.outcome import SIGNAL_BASE

        verdicts = judge(results)
        if self._json is not None:
            found = results.to_json([verdict.to_json() for verdict in verdicts], versions, self.rounds)
            _write(json.dumps(found, indent=1) + "\n", self._json)
        if self._chart is not None:
            from vmm.bench.chart import draw

            draw(self._drawing, title, results, self._chart)
        if self._json != _STDOUT:
            console = report.console()
            report.show_results(console, title, results, ratios, exits=exits)
            report.show_bars(console, verdicts)
            report.show_conditions(console, results, versions, self.rounds)
        if results.is_cut:
            raise typer.Exit(SIGNAL_BASE + signal.SIGINT)


def _named(text: str | None, option: str, known: Sequence[str], usual: Sequence[str]) -> tuple[str, ...]:
    """A list with commas. Raises: ConfigError: an unknown word."""
    return tuple(usual) if text is None else _chosen(text.split(","), option, known)


def _chosen(words: Sequence[str], option: str, known: Sequence[str]) -> tuple[str, ...]:
    from vmm.errors import ConfigError

    for word in words:
        if word not in known:
            raise ConfigError(f"{option}: expected any of {', '.join(known)}, not {word!r}")
    return tuple(dict.fromkeys(words))


def _write(text: str, target: str) -> None:
    if target == _STDOUT:
        sys.stdout.write(text)
        return
    from vmm.cli.frontends import open_text

    with open_text(Path(target), "--json") as file:
        file.write(text)


def _progress(what: str) -> None:
    """A line on stderr, overwritten by the next one; none where nobody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}\r", end="", file=sys.stderr, flush=True)
