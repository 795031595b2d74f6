"""The command line: `vmm run`, and every way in which it can be wrong.

Whatever the user got wrong is one line on stderr and status 2. Heavy imports (the engine, rich) wait until they are
needed, so that `--help` and mistakes answer at once.
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from vmm.cli import bench, fetch, lab
from vmm.collector import collector_at_rest
from vmm.errors import ConfigError, VmmError
from vmm.outcome import EXIT_UNMODELLED, EXIT_USER_MISTAKE, SIGNAL_BASE

# Typer below 0.16 stands on Click, later ones carry their own copy: either way this is the base of usage errors.
_UsageError: Final[Any] = typer.BadParameter.__bases__[0]

app: Final = typer.Typer(
    name="vmm",
    help="A virtual machine monitor that shows what it does.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.add_typer(fetch.app, name="images")
app.add_typer(lab.app, name="lab")
app.add_typer(bench.app, name="bench")

_BOOT: Final = "What to boot"
_MACHINE: Final = "The machine"
_SHOW: Final = "What you see"
_END: Final = "How it ends"
_STATE: Final = "Saved machines"
_COUNT: Final = "What to count"
_RUN: Final = "With --run"


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"glassvisor {version('glassvisor')}")
        except PackageNotFoundError:
            print("glassvisor (not installed)")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """A virtual machine monitor that shows what it does: unmodified x86 guests, sensitive instructions rewritten."""


def _option(names: str, help_text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(names, help=help_text, rich_help_panel=panel, metavar=metavar)


Text = str | None


@app.command()
def run(
    image: Annotated[Text, typer.Argument(metavar="IMAGE", help="Floppy, disk or CD image, or a kernel.")] = None,
    as_: Annotated[
        Text, _option("--as", "What IMAGE is, if not what it looks like.", _BOOT, "floppy|disk|cdrom")
    ] = None,
    boot: Annotated[Text, _option("--boot", "The medium to boot from.", _BOOT, "floppy|disk|cdrom")] = None,
    floppy: Annotated[
        list[str] | None, _option("--floppy", "A floppy image; twice for A: and B:.", _BOOT, "FILE")
    ] = None,
    disk: Annotated[list[str] | None, _option("--disk", "A hard-disk image; up to four.", _BOOT, "FILE")] = None,
    cdrom: Annotated[Text, _option("--cdrom", "A CD image.", _BOOT, "FILE")] = None,
    kernel: Annotated[Text, _option("--kernel", "A Linux, PVH or Multiboot kernel.", _BOOT, "FILE")] = None,
    module: Annotated[
        list[str] | None, _option("--module", "A Multiboot module with its arguments.", _BOOT, '"FILE [ARGS]"')
    ] = None,
    initrd: Annotated[
        Text, _option("--initrd", "The initial RAM disk of a Linux kernel, or the first module.", _BOOT, "FILE")
    ] = None,
    append: Annotated[Text, _option("--append", "The kernel's command line.", _BOOT, "TEXT")] = None,
    flat: Annotated[Text, _option("--flat", "A flat binary, loaded and started there.", _BOOT, "FILE@ADDR")] = None,
    bios: Annotated[Text, _option("--bios", "Another BIOS image.", _MACHINE, "FILE")] = None,
    memory: Annotated[
        Text,
        _option("--memory", "RAM, 1M to 2G; a bare number is MiB. 64M, with --machine pc-test 128M.", _MACHINE, "SIZE"),
    ] = None,
    write: Annotated[
        bool, _option("--write", "Let the guest change the images; else its changes are dropped.", _MACHINE)
    ] = False,
    exit_port: Annotated[
        bool, _option("--exit-port", "Port F4h ends the run with status (value << 1) | 1.", _MACHINE)
    ] = False,
    clock: Annotated[
        str, _option("--clock", "Follow host time, or skip what the guest idles away.", _MACHINE, "realtime|warp")
    ] = "realtime",
    strict: Annotated[bool, _option("--strict", "Stop at device modes that are not modelled.", _MACHINE)] = False,
    audit: Annotated[bool, _option("--audit", "Check the invariants at every block; slow.", _MACHINE)] = False,
    engine: Annotated[
        str, _option("--engine", "How guest code runs.", _MACHINE, "translate|trap|bare|svm")
    ] = "translate",
    npt: Annotated[bool, _option("--npt", "With --engine svm: nested page tables, not shadow ones.", _MACHINE)] = False,
    no_segment_checks: Annotated[
        bool, _option("--no-segment-checks", "Let accesses beyond their segments pass; faster 16-bit code.", _MACHINE)
    ] = False,
    rings: Annotated[
        Text, _option("--rings", "With --engine trap: the rings of VMM, kernel and users.", _MACHINE, "0/1/3|0/3")
    ] = None,
    machine: Annotated[
        str,
        _option("--machine", "The board; pc-test adds APICs, fw_cfg, a test device.", _MACHINE, "pc|pc-test"),
    ] = "pc",
    serial: Annotated[str, _option("--serial", "The first serial port.", _SHOW, "stdio|pty|none|FILE")] = "none",
    display: Annotated[
        Text, _option("--display", "The screen; text on a terminal, none elsewhere.", _SHOW, "text|none")
    ] = None,
    debugcon: Annotated[Text, _option("--debugcon", "Where ports E9h and 402h write to.", _SHOW, "FILE")] = None,
    screenshot: Annotated[Text, _option("--screenshot", "The last screen.", _SHOW, "FILE.png|FILE.txt")] = None,
    trace: Annotated[
        Text, _option("--trace", "block,exit,critical,io,irq,exception,mode or all.", _SHOW, "KINDS")
    ] = None,
    trace_file: Annotated[Text, _option("--trace-file", "The trace as JSON Lines too.", _SHOW, "FILE.jsonl")] = None,
    stats: Annotated[Text, _option("--stats", "The summary as JSON.", _SHOW, "FILE.json|-")] = None,
    profile: Annotated[bool, _option("--profile", "Where the host's time went, in the summary.", _SHOW)] = False,
    on_reset: Annotated[str, _option("--on-reset", "At a reset or triple fault.", _END, "restart|exit")] = "restart",
    timeout: Annotated[
        Text, _option("--timeout", "End after that much host time, status 124.", _END, "SECONDS")
    ] = None,
    until: Annotated[Text, _option("--until", "End when screen or serial text matches.", _END, "REGEX")] = None,
    script: Annotated[Text, _option("--script", "Drive the guest: docs/scripts.md.", _END, "FILE")] = None,
    load: Annotated[Text, _option("--load", "Start from a saved machine.", _STATE, "STATE")] = None,
    save: Annotated[Text, _option("--save", "Save the machine at the end.", _STATE, "STATE")] = None,
    record: Annotated[Text, _option("--record", "Log all that enters the machine.", _STATE, "FILE")] = None,
    replay: Annotated[Text, _option("--replay", "Let a log enter instead.", _STATE, "FILE")] = None,
) -> None:
    """Boot an image, a kernel or a flat binary.

    Exit status: 0 the guest shut down, halted for good or asked for a reset, --until matched, the script ended;
    1 the guest ended before the script; 2 a mistake on the command line; 3 triple fault with --on-reset exit;
    4 something that is not modelled; 124 time-out; with --exit-port or --machine pc-test
    (value << 1) | 1 for what is written to port F4h.
    """
    words = {name: value for name, value in locals().items() if value is not None}
    from vmm.cli.options import Words, check
    from vmm.cli.session import run as run_request

    raise typer.Exit(run_request(check(Words(**words))))


@app.command()
def census(
    file: Annotated[str, typer.Argument(metavar="FILE", help="An ELF kernel, a bzImage, or raw code.")],
    bits: Annotated[Text, _option("--bits", "FILE is raw code of this size.", _COUNT, "16|32")] = None,
    base: Annotated[Text, _option("--base", "Where raw code starts.", _COUNT, "ADDR")] = None,
    json: Annotated[
        Text, _option("--json", "The counts as JSON; - in the place of the table.", _COUNT, "FILE|-")
    ] = None,
    run: Annotated[bool, _option("--run", "Boot FILE and count what is executed, too.", _RUN)] = False,
    initrd: Annotated[Text, _option("--initrd", "As for vmm run.", _RUN, "FILE")] = None,
    append: Annotated[Text, _option("--append", "As for vmm run.", _RUN, "TEXT")] = None,
    memory: Annotated[Text, _option("--memory", "As for vmm run.", _RUN, "SIZE")] = None,
    serial: Annotated[Text, _option("--serial", "As for vmm run.", _RUN, "stdio|pty|none|FILE")] = None,
    display: Annotated[Text, _option("--display", "As for vmm run.", _RUN, "text|none")] = None,
    clock: Annotated[Text, _option("--clock", "As for vmm run.", _RUN, "realtime|warp")] = None,
    exit_port: Annotated[bool, _option("--exit-port", "As for vmm run.", _RUN)] = False,
    on_reset: Annotated[Text, _option("--on-reset", "As for vmm run.", _RUN, "restart|exit")] = None,
    timeout: Annotated[Text, _option("--timeout", "As for vmm run.", _RUN, "SECONDS")] = None,
    until: Annotated[Text, _option("--until", "As for vmm run.", _RUN, "REGEX")] = None,
    script: Annotated[Text, _option("--script", "As for vmm run.", _RUN, "FILE")] = None,
) -> None:
    """Count the sensitive instructions in a kernel, a boot image or raw code.

    Exit status: 0; with --run that of the run, as of vmm run; 2 a mistake on the command line.
    """
    words = {name: value for name, value in locals().items() if value}
    from vmm.cli.census import take

    raise typer.Exit(take(words))


@app.command("differential")
def differential(
    programs: Annotated[int, typer.Option("--programs", help="How many programs.", metavar="N")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Which programs: a seed's are always the same.")] = 1,
    first: Annotated[int, typer.Option("--first", help="The number of the first one.", metavar="N")] = 0,
    engine: Annotated[str, typer.Option("--engine", help="Engines to test.", metavar="NAME,..")] = "translate",
    against: Annotated[str, typer.Option("--against", help="What they must agree with.", metavar="NAME")] = "bare",
    modes: Annotated[Text, typer.Option("--modes", help="Modes, or how their names begin.", metavar="MODE,..")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Processes; one for each CPU.", metavar="N")] = None,
    resume: Annotated[Text, typer.Option("--resume", help="Go on where this file left off.", metavar="FILE")] = None,
    report: Annotated[Text, typer.Option("--report", help="The report as Markdown.", metavar="FILE.md|-")] = None,
    json: Annotated[Text, typer.Option("--json", help="The report as JSON.", metavar="FILE.json|-")] = None,
    case: Annotated[Text, typer.Option("--case", help="Run one saved case instead.", metavar="FILE")] = None,
) -> None:
    """Run random guest programs on several engines and compare what they do.

    Exit status: 0 no difference without an explanation, 1 there is one, 2 a mistake on the command line.
    """
    words = {name: value for name, value in locals().items() if value is not None}
    from vmm.cli.differential import run as run_campaign

    raise typer.Exit(run_campaign(words))


def program() -> int:
    """`vmm`: as `main`, for a process that ends with it."""
    try:
        with collector_at_rest():  # while it imports and builds, too: nothing of that is garbage
            return main()
    finally:
        gc.freeze()  # the collection at Python's own end would look at every block once more


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the return value is the exit status."""
    try:
        status = app(args=arguments, standalone_mode=False)
    except _UsageError as error:
        return _fail(error.format_message(), error.exit_code)
    except ConfigError as error:
        return _fail(str(error), EXIT_USER_MISTAKE)
    except VmmError as error:
        return _fail(str(error), EXIT_UNMODELLED)
    except (KeyboardInterrupt, typer.Abort):
        return SIGNAL_BASE + signal.SIGINT
    except BrokenPipeError:
        # Nobody reads what we say: point stdout nowhere, so that flushing it at exit does not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGNAL_BASE + signal.SIGPIPE
    return int(status or 0)


def _fail(message: str, status: int) -> int:
    """One line, whatever the message; none where Typer has shown its help instead of an error."""
    if line := " ".join(message.split()):
        print(f"vmm: {line}", file=sys.stderr)
    return status
