"""A chart of a suite's rows as PNG, drawn by matplotlib, which is an extra."""

from pathlib import Path
from typing import Any, Final

from vmm.bench.rows import Results
from vmm.errors import ConfigError

_INCHES_A_CASE: Final = 0.35
_INCHES: Final = 2.5
_WIDTH: Final = 10


def load() -> Any:
    """The drawing library. Raises: ConfigError: it is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")  # no window
        from matplotlib import pyplot
    except ImportError:
        raise ConfigError("--chart: matplotlib expected (pip install 'glassvisor[chart]')") from None
    return pyplot


def draw(pyplot: Any, title: str, results: Results, path: Path) -> None:
    """Bars of nanoseconds, to a logarithmic scale: a group for each case, a colour for each engine.

    Raises: ConfigError: the file cannot be written.
    """
    cases, engines = results.cases, results.engines
    figure, axes = pyplot.subplots(figsize=(_WIDTH, _INCHES + _INCHES_A_CASE * len(cases)))
    height = 0.8 / max(1, len(engines))
    for number, engine in enumerate(engines):
        places = [at + (number - len(engines) / 2 + 0.5) * height for at in range(len(cases))]
        values = [results.ns(case, engine) or 0 for case in cases]
        axes.barh(places, values, height, label=engine)
    axes.set_xscale("log")
    axes.set_xlabel("ns")
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.legend()
    try:
        figure.savefig(path, format="png", dpi=100, bbox_inches="tight")
    except OSError as error:
        raise ConfigError(f"--chart: cannot write {str(path)!r}: {error.strerror}") from None
    pyplot.close(figure)
