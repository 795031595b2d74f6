"""`vmm census`: how many sensitive instructions a file has, and, with `--run`, how often they are executed."""

import json
import sys
from pathlib import Path
from typing import Any, Final

from vmm.census.report import Census, show
from vmm.census.scan import sweep
from vmm.census.source import Source, read_source
from vmm.cli.frontends import open_text
from vmm.cli.options import RunRequest, Words, check
from vmm.cli.values import ADDRESS_MAX, choice, input_file, output_file
from vmm.errors import ConfigError

STDOUT: Final = "-"
_OWN: Final = ("file", "bits", "base", "json", "run")


def take(words: dict[str, Any]) -> int:
    """Take the census that the words of the command line ask for; return the exit status. Raises: ConfigError."""
    options = {name: value for name, value in words.items() if name not in _OWN}
    if options and "run" not in words:
        raise ConfigError(f"--{next(iter(options)).replace('_', '-')} goes with --run")
    target: str | None = words.get("json")
    if target != STDOUT:
        output_file(target, "--json")
    input_file(words["file"], "FILE")
    source = read_source(words["file"], _parse_bits(words.get("bits")), _parse_base(words.get("base")))
    request = _request(source, options) if "run" in words else None
    census, status = Census(source, sweep(source.regions)), 0
    if request is not None:
        census, status = _run(census, request)
    _report(census, target)
    return status


def _parse_bits(text: str | None) -> int | None:
    return None if text is None else int(choice(text, "--bits", ("16", "32")))


def _parse_base(text: str | None) -> int | None:
    """An address as Python writes numbers. Raises: ConfigError: no number, or beyond 4 GiB."""
    if text is None:
        return None
    try:
        value = int(text, 0)
    except ValueError:
        value = ADDRESS_MAX
    if not 0 <= value < ADDRESS_MAX:
        raise ConfigError(f"--base: expected an address below 4 GiB, such as 0x7c00, not {text!r}")
    return value


def _request(source: Source, options: dict[str, Any]) -> RunRequest:
    """The `vmm run` of a file: a kernel is started as one, raw bytes are an image. Raises: ConfigError."""
    words = Words(**options)
    if source.format == "raw":
        words.image = source.name
    else:
        words.kernel = source.name
    return check(words)


def _run(census: Census, request: RunRequest) -> tuple[Census, int]:
    """The census with executed counts, and the status of the run."""
    from vmm.census.executed import COUNTING, ExecutionCounter
    from vmm.cli.session import run
    from vmm.monitor import Monitor

    counter = ExecutionCounter()
    status = run(request, Monitor(counter, COUNTING))
    return Census(census.source, census.found, counter.executed), status


def _report(census: Census, target: str | None) -> None:
    text = json.dumps(census.to_json(), indent=1) + "\n"
    if target == STDOUT:
        sys.stdout.write(text)
        return
    if target is not None:
        with open_text(Path(target), "--json") as file:
            file.write(text)
    from rich.console import Console

    show(Console(), census)
