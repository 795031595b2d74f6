"""Why a run ended, and the exit status that says so to the shell.

`run_slice` returns the outcomes that the guest brings about; the front ends add their own (a time-out, a match, the
end of a script, the user). `exit_status` is the whole table; status 2, the user's mistake, never gets as far as a run.
"""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

EXIT_OK: Final = 0
EXIT_SCRIPT_UNFINISHED: Final = 1
EXIT_USER_MISTAKE: Final = 2
EXIT_TRIPLE_FAULT: Final = 3
EXIT_UNMODELLED: Final = 4
EXIT_TIMED_OUT: Final = 124  # as timeout(1)
SIGNAL_BASE: Final = 128  # as the shell: 128 + signal number
STATUS_MASK: Final = 0xFF  # what wait(2) keeps of a status


@dataclass(frozen=True, slots=True)
class UnmodelledReport:
    """What the VMM met and does not model.

    `what` is one line; `facts` are one line each (instruction, address, bytes, mode, registers); `trace` are the last
    trace lines, oldest first, empty when tracing was off.
    """

    what: str
    facts: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Halted:
    """CLI and HLT: nothing can wake this processor again."""


@dataclass(frozen=True, slots=True)
class PoweredOff:
    """The guest switched the machine off."""


@dataclass(frozen=True, slots=True)
class ResetRequested:
    """The guest pulled the reset line. `source` is `i8042`, `port 92h` or `port CF9h`."""

    source: str


@dataclass(frozen=True, slots=True)
class TripleFault:
    """A fault while a double fault was delivered. `detail` says where."""

    detail: str


@dataclass(frozen=True, slots=True)
class ExitPort:
    """The guest wrote `value` to the exit port."""

    value: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The VMM met something that it does not model."""

    report: UnmodelledReport


@dataclass(frozen=True, slots=True)
class TimedOut:
    """`seconds` of host time went by; a script was still at `waiting_at`."""

    seconds: float
    waiting_at: str = ""


@dataclass(frozen=True, slots=True)
class Matched:
    """Screen or serial text matched `pattern`."""

    pattern: str


@dataclass(frozen=True, slots=True)
class ScriptDone:
    """The script's last line was carried out."""


@dataclass(frozen=True, slots=True)
class ScriptUnfinished:
    """The guest ended, for `reason`, while the script was still at `waiting_at`."""

    waiting_at: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReplayEnded:
    """The recording that was replayed has nothing more."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The user ended the run: by a signal (Ctrl-C is 2), or with Ctrl-], which is no signal."""

    signal: int | None = None


Outcome = (
    Halted
    | PoweredOff
    | ResetRequested
    | TripleFault
    | ExitPort
    | Stopped
    | TimedOut
    | Matched
    | ScriptDone
    | ScriptUnfinished
    | ReplayEnded
    | Interrupted
)

_STATUS: Final[Mapping[type[Outcome], Callable[[Any], int]]] = {
    Halted: lambda _: EXIT_OK,
    PoweredOff: lambda _: EXIT_OK,
    ResetRequested: lambda _: EXIT_OK,
    Matched: lambda _: EXIT_OK,
    ScriptDone: lambda _: EXIT_OK,
    ScriptUnfinished: lambda _: EXIT_SCRIPT_UNFINISHED,
    ReplayEnded: lambda _: EXIT_OK,
    TripleFault: lambda _: EXIT_TRIPLE_FAULT,
    Stopped: lambda _: EXIT_UNMODELLED,
    TimedOut: lambda _: EXIT_TIMED_OUT,
    ExitPort: lambda outcome: (outcome.value << 1 | 1) & STATUS_MASK,
    Interrupted: lambda outcome: EXIT_OK if outcome.signal is None else SIGNAL_BASE + outcome.signal,
}

_SENTENCE: Final[Mapping[type[Outcome], Callable[[Any], str]]] = {
    Halted: lambda _: "the guest halted for good (HLT with interrupts off)",
    PoweredOff: lambda _: "the guest switched the machine off",
    ResetRequested: lambda outcome: f"the guest asked for a reset ({outcome.source})",
    Matched: lambda outcome: f"matched {outcome.pattern!r}",
    ScriptDone: lambda _: "the script ended",
    ScriptUnfinished: lambda outcome: outcome.reason + _script_at(outcome.waiting_at),
    ReplayEnded: lambda _: "the recording ended",
    TripleFault: lambda outcome: f"triple fault: {outcome.detail}",
    Stopped: lambda outcome: f"not modelled: {outcome.report.what}",
    TimedOut: lambda outcome: f"time-out after {outcome.seconds:g} s" + _script_at(outcome.waiting_at),
    ExitPort: lambda outcome: f"the guest wrote {outcome.value} to the exit port",
    Interrupted: lambda outcome: (
        "left with Ctrl-]" if outcome.signal is None else f"ended by {_signal(outcome.signal)}"
    ),
}


def _script_at(position: str) -> str:
    return f", with the script still at {position}" if position else ""


def _signal(number: int) -> str:
    """Ctrl-C by the key that everybody knows it by, other signals by name."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def exit_status(outcome: Outcome) -> int:
    """The process's exit status for one outcome, 0-255."""
    return _STATUS[type(outcome)](outcome)


def sentence(outcome: Outcome) -> str:
    """One outcome in words, without a full stop."""
    return _SENTENCE[type(outcome)](outcome)
