"""The command line: what is accepted, and that every mistake is one line and status 2."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vmm.cli.main import main
from vmm.cli.options import Words, check
from vmm.cli.values import parse_flat, parse_size, parse_trace_kinds
from vmm.engines.names import EngineName
from vmm.errors import ConfigError

MIB = 1 << 20

SIZES = [
    ("1M", MIB),
    ("64M", 64 * MIB),
    ("64", 64 * MIB),
    ("64MiB", 64 * MIB),
    ("1536k", 1536 << 10),
    ("1G", 1024 * MIB),
    ("2G", 2048 * MIB),
]


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_a_size_is_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


BAD_SIZES = [
    "",
    "0",
    "0M",
    "-64M",
    "1023K",
    "1025K1",
    "1027K",
    "2049M",
    "3G",
    "999999999999G",
    "64T",
    "1.5G",
    "lots",
    "M",
]


@pytest.mark.parametrize("text", BAD_SIZES)
def test_an_impossible_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--memory: expected"):
        parse_size(text)


@pytest.mark.parametrize("text", ["blocks", "block,ioo", "", ",", "all,foo"])
def test_an_unknown_trace_kind_lists_the_known_ones(text: str) -> None:
    with pytest.raises(ConfigError, match="block, exit, critical, io, irq, exception, mode, or all"):
        parse_trace_kinds(text, EngineName.TRANSLATE)


def test_all_is_every_trace_kind() -> None:
    every = parse_trace_kinds("block,exit,critical,io,irq,exception,mode", EngineName.TRANSLATE)
    assert parse_trace_kinds("all", EngineName.TRANSLATE) == every


@pytest.mark.parametrize("engine", [EngineName.BARE, EngineName.TRAP, EngineName.SVM])
def test_a_trace_of_what_is_rewritten_needs_an_engine_that_rewrites(engine: EngineName) -> None:
    for kind in ("block", "critical"):
        with pytest.raises(ConfigError, match=f"^--trace {kind} with --engine {engine}: nothing is rewritten there"):
            parse_trace_kinds(f"exit,{kind}", engine)
    assert parse_trace_kinds("all", engine) == parse_trace_kinds("exit,io,irq,exception,mode", engine)


@pytest.fixture
def media(tmp_path: Path) -> Callable[[str], str]:
    """Make a file of a given kind by its suffix and return its name."""

    def make(name: str) -> str:
        path = tmp_path / name
        content = bytearray(1474560)
        if path.suffix == ".iso":
            content[0x8001:0x8006] = b"CD001"
            content = content[: 700 * 2048]
        elif path.suffix == ".elf":
            content = bytearray(b"\x7fELF".ljust(4096, b"\0"))
        elif path.suffix == ".hdd":
            content = bytearray(16 * MIB)
        elif path.suffix == ".script":
            content = bytearray(b"wait 1\n")
        path.write_bytes(content)
        return str(path)

    return make


def test_a_flat_binary_has_an_address(media: Callable[[str], str]) -> None:
    name = media("odd@name.bin")
    assert parse_flat(f"{name}@0x7C00") == (Path(name), 0x7C00)


BAD_FLATS = ["{}", "{}@", "{}@high", "{}@-1", "{}@0x100000000", "@5"]


@pytest.mark.parametrize("text", BAD_FLATS)
def test_a_flat_binary_without_a_good_address_is_refused(media: Callable[[str], str], text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--flat: "):
        parse_flat(text.format(media("flat.bin")))


def test_image_goes_into_the_drive_it_looks_like_and_boots(media: Callable[[str], str]) -> None:
    image, other = media("a.img"), media("b.img")
    request = check(Words(image=image, floppy=[other], disk=[media("c.hdd")], cdrom=media("d.iso")))
    assert request.media.floppies == (Path(image), Path(other))
    assert request.media.boot == "floppy"


def test_as_overrides_what_image_looks_like(media: Callable[[str], str]) -> None:
    request = check(Words(image=media("a.img"), as_="disk"))
    assert (request.media.floppies, request.media.boot) == ((), "disk")


def test_an_image_that_is_a_kernel_is_the_kernel(media: Callable[[str], str]) -> None:
    name = media("k.elf")
    request = check(Words(image=name, append="a b", module=[media("m.bin") + " arg"]))
    assert request.payload.kernel == Path(name)
    assert request.payload.modules[0][1].endswith("m.bin arg")
    assert request.media.floppies == ()


@pytest.mark.parametrize(("words", "mib"), [({}, 64), ({"machine": "pc-test"}, 128), ({"memory": "2M"}, 2)])
def test_memory_goes_by_the_board_unless_it_is_given(
    media: Callable[[str], str], words: dict[str, str], mib: int
) -> None:
    assert check(Words(image=media("a.img"), **words)).memory == mib * MIB


def test_boot_overrides_the_kind_of_image(media: Callable[[str], str]) -> None:
    assert check(Words(image=media("a.img"), cdrom=media("d.iso"), boot="cdrom")).media.boot == "cdrom"


MISTAKES = [
    pytest.param([], "nothing to boot", id="nothing"),
    pytest.param(["missing.img"], "cannot read 'missing.img': No such file", id="missing_image"),
    pytest.param(["{dir}"], "is a directory", id="directory"),
    pytest.param(["{empty}"], "is empty", id="empty_image"),
    pytest.param(["{fifo}"], "neither a file nor a block device", id="pipe"),
    pytest.param(["a\0b"], "cannot read", id="nul_in_a_name"),
    pytest.param(["{img}", "--as", "tape"], "--as: expected floppy or disk or cdrom, not 'tape'", id="unknown_kind"),
    pytest.param(["{img}", "--as"], "--as", id="as_without_value"),
    pytest.param(["--as", "disk", "--floppy", "{img}"], "--as says what IMAGE is", id="as_without_image"),
    pytest.param(["{img}", "--boot", "net"], "--boot: expected floppy or disk or cdrom", id="unknown_medium"),
    pytest.param(["{img}", "--boot", "cdrom"], "--boot cdrom: no cdrom was given", id="boot_from_nothing"),
    pytest.param(["{img}", "--floppy", "{img}", "--floppy", "{img}"], "2 floppy drives", id="three_floppies"),
    pytest.param(["{iso}", "--cdrom", "{iso}"], "there is one CD-ROM drive", id="two_cds"),
    pytest.param(["{iso}"] + ["--disk", "{hdd}"] * 4, "room for 3", id="too_many_disks"),
    pytest.param(["{elf}", "--kernel", "{elf}"], "is a kernel itself", id="kernel_twice"),
    pytest.param(["--kernel", "{elf}", "--flat", "{elf}@0"], "exclude each other", id="kernel_and_flat"),
    pytest.param(["{img}", "--kernel", "{elf}", "--boot", "floppy"], "--boot chooses", id="kernel_and_boot"),
    pytest.param(["{img}", "--module", "{elf}"], "give --kernel", id="module_without_kernel"),
    pytest.param(["{img}", "--append", "x"], "give --kernel", id="append_without_kernel"),
    pytest.param(["--kernel", "nowhere"], "--kernel: cannot read", id="missing_kernel"),
    pytest.param(
        ["--kernel", "{elf}", "--module", "nowhere x"], "--module: cannot read 'nowhere'", id="missing_module"
    ),
    pytest.param(["{img}", "--bios", "nowhere"], "--bios: cannot read", id="missing_bios"),
    pytest.param(["{img}", "--memory", "0"], "--memory: expected 1M to 2G", id="no_memory"),
    pytest.param(["{img}", "--memory", "-5M"], "--memory: expected 1M to 2G", id="negative_memory"),
    pytest.param(["{img}", "--memory", "5T"], "--memory: expected a size", id="unknown_unit"),
    pytest.param(["{img}", "--clock", "fast"], "--clock: expected realtime or warp", id="unknown_clock"),
    pytest.param(["{img}", "--rings", "0/3"], "--rings with --engine translate: only", id="rings"),
    pytest.param(["{img}", "--engine", "trap", "--rings", "1/3"], "--rings: expected 0/1/3 or 0/3", id="unknown_rings"),
    pytest.param(["{img}", "--machine", "q35"], "--machine: expected pc or pc-test", id="unknown_machine"),
    pytest.param(["{img}", "--display", "x11"], "--display: expected text or none", id="unknown_display"),
    pytest.param(["{img}", "--on-reset", "stay"], "--on-reset: expected restart or exit", id="unknown_reset"),
    pytest.param(["{img}", "--timeout", "0"], "--timeout: expected a number of seconds above 0", id="no_time"),
    pytest.param(["{img}", "--timeout", "nan"], "--timeout: expected", id="nan_time"),
    pytest.param(["{img}", "--timeout", "soon"], "--timeout: expected", id="word_for_time"),
    pytest.param(["{img}", "--until", "("], "--until: bad regular expression '('", id="bad_pattern"),
    pytest.param(["{img}", "--trace", "everything"], "known are block, exit", id="unknown_trace_kind"),
    pytest.param(["{img}", "--trace-file", "x.jsonl"], "--trace-file needs --trace", id="trace_file_alone"),
    pytest.param(["{img}", "--screenshot", "x.gif"], "--screenshot: expected FILE.png or FILE.txt", id="gif"),
    pytest.param(["{img}", "--screenshot", "no/x.png"], "there is no directory 'no'", id="no_directory"),
    pytest.param(["{img}", "--stats", "{dir}"], "--stats: ", id="stats_into_a_directory"),
    pytest.param(["{img}", "--serial", "no/x"], "--serial: there is no directory", id="serial_into_nowhere"),
    pytest.param(["{img}", "--script", "nowhere"], "--script: cannot read 'nowhere'", id="missing_script"),
    pytest.param(["{img}", "--script", "{bad_script}"], ":2: unknown command 'dance'", id="bad_script_line"),
    pytest.param(["{img}", "--script", "{iso}"], "--script", id="script_that_is_no_text"),
    pytest.param(["{img}", "--record", "r", "--replay", "{img}"], "exclude each other", id="record_and_replay"),
    pytest.param(["{img}", "--load", "nowhere"], "--load: cannot read", id="missing_state"),
    pytest.param(["{img}", "--frobnicate"], "No such option: --frobnicate", id="unknown_option"),
    pytest.param(["{img}", "{img}"], "unexpected extra argument", id="two_images"),
]


@pytest.fixture
def names(tmp_path: Path, media: Callable[[str], str]) -> dict[str, str]:
    (tmp_path / "empty").touch()
    (tmp_path / "bad").write_text("wait 1\ndance\n")
    os.mkfifo(tmp_path / "fifo")
    made = {suffix: media(f"x.{suffix}") for suffix in ("img", "iso", "elf", "hdd")}
    return made | {
        "dir": str(tmp_path),
        "empty": str(tmp_path / "empty"),
        "fifo": str(tmp_path / "fifo"),
        "bad_script": str(tmp_path / "bad"),
    }


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_status_2(
    words: list[str],
    message: str,
    names: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    status = main(["run", *(word.format(**names) for word in words)])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("vmm: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(tmp_path.iterdir()) == before, "nothing may be written"


def test_a_display_and_a_serial_console_cannot_share_the_terminal(
    media: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    image = media("a.img")
    assert check(Words(image=image)).outputs.display == "text"
    assert check(Words(image=image, serial="stdio")).outputs.display == "none"
    assert check(Words(image=image, script=media("x.script"))).outputs.display == "none"
    with pytest.raises(ConfigError, match="both want the terminal"):
        check(Words(image=image, serial="stdio", display="text"))


def test_nested_paging_is_for_guest_mode(media: Callable[[str], str]) -> None:
    image = media("a.img")
    assert check(Words(image=image, engine="svm", npt=True)).nested_paging
    assert not check(Words(image=image, engine="svm")).nested_paging
    for engine in ("translate", "bare"):
        with pytest.raises(ConfigError, match=rf"^--npt with --engine {engine}: .* --engine svm expected$"):
            check(Words(image=image, engine=engine, npt=True))


def test_only_translation_has_segment_checks_to_leave_out(media: Callable[[str], str]) -> None:
    image = media("a.img")
    assert check(Words(image=image)).segment_checks
    assert not check(Words(image=image, no_segment_checks=True)).segment_checks
    for engine in ("trap", "bare", "svm"):
        with pytest.raises(ConfigError, match=rf"^--no-segment-checks with --engine {engine}: .* translate expected$"):
            check(Words(image=image, engine=engine, no_segment_checks=True))


def test_the_display_is_none_where_stdout_is_no_terminal(media: Callable[[str], str]) -> None:
    assert check(Words(image=media("a.img"))).outputs.display == "none"


def test_a_mistake_never_loads_the_engine_or_rich(tmp_path: Path) -> None:
    program = (
        "import sys; from vmm.cli.main import main; status = main(['run', 'missing.img']);"
        "print(status, sorted({'unicorn', 'capstone', 'keystone', 'rich.console', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
