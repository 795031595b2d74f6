"""From command-line words to a checked `RunRequest`.

Everything here fails with one `ConfigError` line that says what was given and what was expected, before anything is
opened for writing and before the engine is loaded.
"""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vmm.boards import BoardName
from vmm.cli.values import choice, input_file, output_file, parse_flat, parse_seconds, parse_size, parse_trace_kinds
from vmm.engines.names import EngineName, Rings
from vmm.errors import ConfigError
from vmm.script import SCREENSHOT_SUFFIXES, Step, compile_pattern, parse
from vmm.trace import KINDS

if TYPE_CHECKING:
    from vmm.machine import MachineConfig

FLOPPY_DRIVES: Final = 2
ATA_DRIVES: Final = 4  # two channels of two; a CD-ROM drive takes one
MEDIA: Final = ("floppy", "disk", "cdrom")
SCRIPT_MAX: Final = 1 << 16  # characters


@dataclass(slots=True)
class Words:
    """What stood on the command line, unchecked. One field per option, named after it."""

    image: str | None = None
    as_: str | None = None
    boot: str | None = None
    floppy: list[str] = field(default_factory=list)
    disk: list[str] = field(default_factory=list)
    cdrom: str | None = None
    kernel: str | None = None
    module: list[str] = field(default_factory=list)
    append: str | None = None
    initrd: str | None = None
    flat: str | None = None
    bios: str | None = None
    memory: str | None = None
    write: bool = False
    exit_port: bool = False
    strict: bool = False
    audit: bool = False
    engine: str = "translate"
    npt: bool = False
    no_segment_checks: bool = False
    rings: str | None = None
    machine: str = "pc"
    clock: str = "realtime"
    on_reset: str = "restart"
    serial: str = "none"
    display: str | None = None
    debugcon: str | None = None
    timeout: str | None = None
    until: str | None = None
    script: str | None = None
    screenshot: str | None = None
    trace: str | None = None
    trace_file: str | None = None
    stats: str | None = None
    profile: bool = False
    load: str | None = None
    save: str | None = None
    record: str | None = None
    replay: str | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """What is in the drives, and which kind boots first (None: the firmware's order)."""

    floppies: tuple[Path | None, ...] = ()
    disks: tuple[Path, ...] = ()
    cdrom: Path | None = None
    boot: str | None = None
    write: bool = False


@dataclass(frozen=True, slots=True)
class Payload:
    """What is put into RAM instead of booting a medium."""

    kernel: Path | None = None
    initrd: Path | None = None
    flat: tuple[Path, int] | None = None
    modules: tuple[tuple[Path, str], ...] = ()
    append: str = ""


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends a run, other than the guest."""

    on_reset_exit: bool = False
    timeout: float | None = None
    until: re.Pattern[str] | None = None
    script: tuple[Step, ...] | None = None
    script_name: str = ""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the guest's output and ours go. `serial` is `stdio`, `pty`, None, or a file."""

    serial: str | Path | None = None
    display: str = "none"
    debugcon: Path | None = None
    screenshot: Path | None = None
    trace: frozenset[str] = frozenset()
    trace_console: bool = False
    trace_file: Path | None = None
    stats: str | None = None
    profile: bool = False


@dataclass(frozen=True, slots=True)
class StateFiles:
    """Machine states and event logs."""

    load: Path | None = None
    save: Path | None = None
    record: Path | None = None
    replay: Path | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A `vmm run` that makes sense."""

    media: Media
    payload: Payload
    ends: Ends
    outputs: Outputs
    states: StateFiles
    memory: int
    bios: Path | None
    clock: str
    exit_port: bool
    strict: bool
    audit: bool
    engine: EngineName
    nested_paging: bool = False
    segment_checks: bool = True
    rings: Rings = Rings.THREE
    machine: BoardName = BoardName.PC


_MEMORY: Final = {BoardName.PC: "64M", BoardName.PC_TEST: "128M"}
"""Suites come with machines of 128 MiB in mind."""


def check(words: Words) -> RunRequest:
    """Check all of a command line. Raises: ConfigError: one line for the first thing that is wrong."""
    if words.as_ and not words.image:
        raise ConfigError("--as says what IMAGE is; give an IMAGE")
    engine = _engine(words)
    payload = _payload(words)
    media = _media(words, payload)
    if not words.load and not words.bios and _is_empty(media, payload):
        raise ConfigError("nothing to boot: give an IMAGE, --floppy, --disk, --cdrom, --kernel or --flat")
    machine = BoardName(choice(words.machine, "--machine", tuple(BoardName)))
    return RunRequest(
        media=media,
        payload=payload,
        ends=_ends(words),
        outputs=_outputs(words, engine),
        states=_states(words),
        memory=parse_size(_MEMORY[machine] if words.memory is None else words.memory),
        bios=_optional_input(words.bios, "--bios"),
        clock=choice(words.clock, "--clock", ("realtime", "warp")),
        exit_port=words.exit_port,
        strict=words.strict,
        audit=words.audit,
        engine=engine,
        nested_paging=words.npt,
        segment_checks=not words.no_segment_checks,
        rings=_rings(words),
        machine=machine,
    )


def machine_config(request: RunRequest) -> "MachineConfig":
    """The part of a request that describes the machine. Loads the engine."""
    from vmm.machine import MachineConfig

    media, payload = request.media, request.payload
    return MachineConfig(
        memory=request.memory,
        floppies=media.floppies,
        disks=media.disks,
        cdrom=media.cdrom,
        kernel=payload.kernel,
        initrd=payload.initrd,
        flat=payload.flat,
        modules=payload.modules,
        append=payload.append,
        bios=request.bios,
        boot=media.boot,
        write=media.write,
        clock="warp" if request.clock == "warp" else "realtime",
        exit_port=request.exit_port,
        strict=request.strict,
        audit=request.audit,
        engine=request.engine,
        nested_paging=request.nested_paging,
        segment_checks=request.segment_checks,
        rings=request.rings,
        machine=request.machine,
        trace=request.outputs.trace,
    )


def _engine(words: Words) -> EngineName:
    """The engine, which must have what is asked for with it."""
    engine = EngineName(choice(words.engine, "--engine", tuple(EngineName)))
    if words.npt and not engine.has_nested_paging:
        raise ConfigError(
            f"--npt with --engine {engine}: only a guest in guest mode has nested tables; --engine svm expected"
        )
    if words.no_segment_checks and engine is not EngineName.TRANSLATE:
        raise ConfigError(
            f"--no-segment-checks with --engine {engine}: only translated code checks; --engine translate expected"
        )
    if words.rings is not None and not engine.has_rings:
        raise ConfigError(
            f"--rings with --engine {engine}: only a guest that traps in place has them; --engine trap expected"
        )
    return engine


def _rings(words: Words) -> Rings:
    return Rings.THREE if words.rings is None else Rings(choice(words.rings, "--rings", tuple(Rings)))


def _optional_input(name: str | None, option: str) -> Path | None:
    return None if name is None else input_file(name, option)


def _is_empty(media: Media, payload: Payload) -> bool:
    return not (media.floppies or media.disks or media.cdrom or payload.kernel or payload.flat)


def _payload(words: Words) -> Payload:
    kernel = _optional_input(words.kernel, "--kernel")
    if kernel and words.flat:
        raise ConfigError("--kernel and --flat exclude each other: both say what runs first")
    if words.boot and (kernel or words.flat):
        raise ConfigError("--boot chooses a medium, but --kernel and --flat are started without one")
    if words.image and not words.as_ and _kind_of_image(words.image) == "kernel":
        if kernel or words.flat:
            raise ConfigError(f"IMAGE {words.image} is a kernel itself; give either IMAGE or --kernel or --flat")
        kernel = Path(words.image)
    if not kernel and (words.module or words.initrd or words.append is not None):
        raise ConfigError("--initrd, --module and --append go with a kernel: give --kernel FILE")
    initrd = _optional_input(words.initrd, "--initrd")
    flat = parse_flat(words.flat) if words.flat else None
    return Payload(kernel, initrd, flat, tuple(_module(text) for text in words.module), words.append or "")


def _module(text: str) -> tuple[Path, str]:
    """`FILE` or `FILE ARGUMENTS`; the kernel is told the whole text, as boot loaders do."""
    name = text if Path(text).exists() else text.split(" ", 1)[0]
    return input_file(name, "--module"), text


def _kind_of_image(name: str) -> str:
    """`floppy`, `disk`, `cdrom` or `kernel`, by looking into the file."""
    from vmm.images import classify

    return str(classify(input_file(name, "IMAGE")))


def _media(words: Words, payload: Payload) -> Media:
    floppies = [input_file(name, "--floppy") for name in words.floppy]
    disks = [input_file(name, "--disk") for name in words.disk]
    cdrom = _optional_input(words.cdrom, "--cdrom")
    boot = None if words.boot is None else choice(words.boot, "--boot", MEDIA)
    if words.image and Path(words.image) != payload.kernel:
        image = input_file(words.image, "IMAGE")
        kind = choice(words.as_, "--as", MEDIA) if words.as_ else _kind_of_image(words.image)
        if kind == "cdrom" and cdrom:
            raise ConfigError(f"IMAGE {words.image} is a CD and --cdrom gives another; there is one CD-ROM drive")
        floppies = [image] * (kind == "floppy") + floppies
        disks = [image] * (kind == "disk") + disks
        cdrom = image if kind == "cdrom" else cdrom
        boot = boot or kind
    return _fit_drives(Media(tuple(floppies), tuple(disks), cdrom, boot, words.write))


def _fit_drives(media: Media) -> Media:
    if len(media.floppies) > FLOPPY_DRIVES:
        raise ConfigError(f"{len(media.floppies)} floppies given, but there are {FLOPPY_DRIVES} floppy drives")
    room = ATA_DRIVES - (media.cdrom is not None)
    if len(media.disks) > room:
        raise ConfigError(f"{len(media.disks)} disks given, but there is room for {room}")
    given = {"floppy": media.floppies, "disk": media.disks, "cdrom": media.cdrom}
    if media.boot and not given[media.boot]:
        raise ConfigError(f"--boot {media.boot}: no {media.boot} was given")
    return media


def _ends(words: Words) -> Ends:
    reset = choice(words.on_reset, "--on-reset", ("restart", "exit"))
    return Ends(
        on_reset_exit=reset == "exit",
        timeout=parse_seconds(words.timeout),
        until=_until(words.until),
        script=_script(words.script),
        script_name=words.script or "",
    )


def _until(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return compile_pattern(text)
    except ConfigError as error:
        raise ConfigError(f"--until: {error}") from None


def _script(name: str | None) -> tuple[Step, ...] | None:
    if name is None:
        return None
    try:  # not input_file: a script may well come through a pipe
        with Path(name).open(encoding="utf-8") as file:
            text = file.read(SCRIPT_MAX + 1)
    except UnicodeDecodeError as error:
        raise ConfigError(f"--script: {name} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"--script: cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from None
    if "\0" in text or len(text) > SCRIPT_MAX:
        raise ConfigError(f"--script: {name} is no script: it has NUL characters or more than {SCRIPT_MAX} characters")
    return parse(text, name)


def _outputs(words: Words, engine: EngineName) -> Outputs:
    trace = parse_trace_kinds(words.trace, engine)
    if words.trace_file and not trace:
        raise ConfigError(f"--trace-file needs --trace KINDS, any of {', '.join(KINDS)}, or all")
    display = _display(words)
    if words.screenshot and not words.screenshot.endswith(SCREENSHOT_SUFFIXES):
        raise ConfigError(f"--screenshot: expected FILE.png or FILE.txt, not {words.screenshot!r}")
    if words.stats != "-":
        output_file(words.stats, "--stats")
    serial: str | Path | None = None if words.serial == "none" else words.serial
    if serial not in (None, "stdio", "pty"):
        serial = output_file(words.serial, "--serial")
    return Outputs(
        serial=serial,
        display=display,
        debugcon=output_file(words.debugcon, "--debugcon"),
        screenshot=output_file(words.screenshot, "--screenshot"),
        trace=trace,
        trace_console=bool(trace) and not (display == "text" and sys.stderr.isatty()),
        trace_file=output_file(words.trace_file, "--trace-file"),
        stats=words.stats,
        profile=words.profile,
    )


def _display(words: Words) -> str:
    """The display that was asked for, or `text` where stdout is a terminal that nothing else writes to."""
    terminal_user = _other_terminal_user(words)
    if words.display is None:
        return "text" if sys.stdout.isatty() and not terminal_user and not words.script else "none"
    display = choice(words.display, "--display", ("text", "none"))
    if display == "text" and terminal_user:
        raise ConfigError(f"--display text and {terminal_user} both want the terminal; send one of them elsewhere")
    return display


def _other_terminal_user(words: Words) -> str | None:
    if words.serial == "stdio":
        return "--serial stdio"
    if words.trace and not words.trace_file and sys.stderr.isatty():
        return "--trace without --trace-file"
    return None


def _states(words: Words) -> StateFiles:
    if words.record and words.replay:
        raise ConfigError("--record and --replay exclude each other")
    return StateFiles(
        load=_optional_input(words.load, "--load"),
        save=output_file(words.save, "--save"),
        record=output_file(words.record, "--record"),
        replay=_optional_input(words.replay, "--replay"),
    )
