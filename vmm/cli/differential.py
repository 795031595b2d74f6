"""`vmm differential`: random programs on several engines, and what they disagree about."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from vmm.cli.frontends import open_text
from vmm.cli.values import input_file, output_file
from vmm.differential import report
from vmm.differential.bochs_link import find as find_bochs
from vmm.differential.campaign import Campaign
from vmm.differential.cases import read_case, replay
from vmm.differential.explanations import BOCHS
from vmm.differential.generator import Source
from vmm.differential.modes import MODES
from vmm.differential.rig import SUBJECTS
from vmm.differential.tally import Tally
from vmm.differential.worker import Plan
from vmm.errors import ConfigError
from vmm.outcome import EXIT_OK, SIGNAL_BASE

EXIT_DIFFERENT: Final = 1
STDOUT: Final = "-"
_NUMBER_MAX: Final = 1 << 40
_SHOW_EVERY_S: Final = 5.0


def run(words: dict[str, Any]) -> int:
    """Run the campaign that the words of the command line ask for. Status 1 if a difference is unexplained; 130, with a
    report of what there is, if the user interrupts it.

    Raises: ConfigError.
    """
    plan = Plan(
        Source(words["seed"], _modes(words.get("modes"))),
        _subjects(words["engine"], "--engine"),
        _subjects(words["against"], "--against")[0],
    )
    if plan.against == BOCHS:
        raise ConfigError(
            f"--against: expected an engine of ours, not bochs: --engine bochs --against {plan.engines[0]}"
        )
    if BOCHS in plan.engines:
        find_bochs()
    if "case" in words:
        return _replay(input_file(words["case"], "--case"), plan)
    jobs = words.get("jobs", len(os.sched_getaffinity(0)))
    for name, value, least in (("programs", words["programs"], 1), ("first", words["first"], 0), ("jobs", jobs, 1)):
        if not least <= value < _NUMBER_MAX:
            raise ConfigError(f"--{name}: expected a number from {least} up, not {value}")
    for option in ("report", "json"):
        if words.get(option) != STDOUT:
            output_file(words.get(option), f"--{option}")
    campaign = Campaign(plan, words["first"], words["programs"], jobs, output_file(words.get("resume"), "--resume"))
    interrupted = False
    try:
        campaign.run(_Progress(words["programs"]).show)
    except KeyboardInterrupt:
        interrupted = True
    json_text = json.dumps(report.to_json(campaign), indent=1) + "\n"
    _write(words.get("json"), "--json", json_text)
    target = words.get("report", None if words.get("json") == STDOUT else STDOUT)
    _write(target, "--report", report.to_markdown(campaign))
    if interrupted:
        return SIGNAL_BASE + signal.SIGINT
    return EXIT_DIFFERENT if campaign.tally.failures else EXIT_OK


def _modes(text: str | None) -> tuple[str, ...]:
    """`real,p32` stands for every mode whose name begins with one of the words. Raises: ConfigError."""
    if text is None:
        return tuple(MODES)
    chosen = []
    for word in text.split(","):
        found = [name for name in MODES if word and name.startswith(word)]
        if not found:
            raise ConfigError(f"--modes: expected any of {', '.join(MODES)}, or how they begin, not {word!r}")
        chosen += found
    return tuple(dict.fromkeys(chosen))


def _subjects(text: str, option: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in SUBJECTS:
            raise ConfigError(f"{option}: expected any of {', '.join(SUBJECTS)}, not {name!r}")
    return names


def _replay(path: Path, plan: Plan) -> int:
    """Run one saved case; say what differs."""
    program = read_case(path)
    print("\n".join(program.listing()))
    status = EXIT_OK
    for engine in plan.engines:
        case, flaw = replay(program, engine, plan.against)
        lines = [str(difference) for difference in case.differences] or ["the same"]
        if flaw is not None:
            lines = [f"explained by {flaw.name}: {flaw.rule} ({flaw.source})"]
        elif case.differences:
            status = EXIT_DIFFERENT
        print("\n".join([f"{engine} against {plan.against}:", *(f"  {line}" for line in lines)]))
    return status


class _Progress:
    """A line on stderr every few seconds."""

    def __init__(self, programs: int) -> None:
        self._programs, self._shown = programs, time.monotonic()

    def show(self, tally: Tally) -> None:
        """Say how far it is, if it is time."""
        now = time.monotonic()
        if now - self._shown >= _SHOW_EVERY_S:
            self._shown = now
            explained = sum(tally.explained.values())
            print(
                f"{tally.total} of {self._programs} programs, {explained} explained differences, "
                f"{len(tally.failures)} unexplained",
                file=sys.stderr,
            )


def _write(target: str | None, option: str, text: str) -> None:
    if target == STDOUT:
        sys.stdout.write(text)
    elif target is not None:
        with open_text(Path(target), option) as stream:
            stream.write(text)
