"""The image downloader without the network: recipes, completeness, and what it says when apt fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tools` is not installed with the project

from tools import fetch_images, host_tools
from tools.boot_sectors import LOAD_ADDRESS, SECOND_ADDRESS, chained_partition, greeting_sector
from tools.debian_packages import AptRoot, PackageError, archive_uri, cache_directory
from tools.host_tools import HostTools


def fake_program(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def fake_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in front of PATH, and a cache of its own."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return directory


APT_WITH_SOURCES = (
    'case "$*" in *indextargets*) echo "http://archive.invalid/debian/ bookworm main Packages";; *) {};; esac'
)


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory("images") == tmp_path / "glassvisor" / "images"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_directory("images") == Path("/home/somebody/.cache/glassvisor/images")


def test_an_archive_that_does_not_answer_is_one_line(fake_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_program(fake_path, "apt-get", APT_WITH_SOURCES.format('echo "E: Could not resolve" >&2; exit 100'))
    assert fetch_images.main([]) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fetch-images:")]
    assert err == ["fetch-images: the Debian archive does not answer as it should: Could not resolve"]


def test_a_host_without_an_archive_in_its_sources_is_told_so(fake_path: Path) -> None:
    fake_program(fake_path, "apt-get", "echo http://archive.invalid/other/ stable main Packages")
    with pytest.raises(PackageError, match="name no archive with 'deb URI bookworm main'"):
        archive_uri()


def test_progress_is_what_apt_reports(fake_path: Path, tmp_path: Path) -> None:
    status = 'for word in "$@"; do case $word in APT::Status-Fd=*) fd=${word#*=};; esac; done; '
    report = status + "echo dlstatus:1:25.0:Retrieving file >/dev/fd/$fd; echo pmstatus:x:99:y >/dev/fd/$fd"
    fake_program(fake_path, "apt-get", APT_WITH_SOURCES.format(report))
    parts: list[float] = []
    AptRoot(tmp_path / "apt", "i386").update(parts.append)
    assert parts == [0.25, 1.0]


def test_the_private_apt_uses_none_of_the_hosts_state(fake_path: Path, tmp_path: Path) -> None:
    fake_program(fake_path, "apt-get", APT_WITH_SOURCES.format("true"))
    AptRoot(tmp_path / "apt", "i386").update(lambda _: None)
    used = subprocess.run(
        ["apt-config", "-c", str(tmp_path / "apt" / "apt.conf"), "shell", "S", "Dir::State/d", "C", "Dir::Cache/d"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert used == f"S='{tmp_path}/apt/state/'\nC='{tmp_path}/apt/cache/'\n"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that holds what the manifest says."""
    monkeypatch.setattr(fetch_images, "RECIPES", {"a.img": None, "b.img": None})
    images = {}
    for name in ("a.img", "b.img"):
        (tmp_path / name).write_bytes(name.encode())
        images[name] = fetch_images.digest(tmp_path / name)
    manifest = {"recipe": fetch_images.RECIPE_VERSION, "packages": [], "images": images}
    (tmp_path / fetch_images.MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


def test_a_complete_cache_is_left_alone(made: Path) -> None:
    assert fetch_images.is_complete(made)


def test_a_changed_image_is_not_complete(made: Path) -> None:
    (made / "a.img").write_bytes(b"x.img")
    assert not fetch_images.is_complete(made)


def test_a_missing_image_is_not_complete(made: Path) -> None:
    (made / "b.img").unlink()
    assert not fetch_images.is_complete(made)


def test_a_new_recipe_version_is_not_complete(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_images, "RECIPE_VERSION", fetch_images.RECIPE_VERSION + 1)
    assert not fetch_images.is_complete(made)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"recipe": 1}'])
def test_a_broken_manifest_is_not_complete(made: Path, text: str) -> None:
    (made / fetch_images.MANIFEST).write_text(text)
    assert not fetch_images.is_complete(made)


def test_a_boot_sector_is_a_sector_with_a_signature() -> None:
    sector = greeting_sector("hello")
    assert (len(sector), sector[-2:]) == (512, b"\x55\xaa")
    assert b"hello\r\n\0" in sector


def disassembled(code: bytes, address: int) -> list[str]:
    import capstone

    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16)
    return [f"{insn.mnemonic} {insn.op_str}".strip() for insn in machine.disasm(code, address)]


def test_the_greeting_points_at_its_text() -> None:
    sector = greeting_sector("hello")
    first = disassembled(sector[:3], LOAD_ADDRESS)[0]
    assert first == f"mov si, {LOAD_ADDRESS + sector.index(b'hello'):#x}"


def test_the_chained_sector_loads_the_next_one_and_goes_there() -> None:
    code = disassembled(chained_partition()[:64], LOAD_ADDRESS)
    assert code[:5] == ["cli", "xor ax, ax", "mov ss, ax", f"mov sp, {LOAD_ADDRESS:#x}", "sti"]
    assert f"ljmp 0:{SECOND_ADDRESS:#x}" in code
    assert code.index("int 0x13") == code.index("mov ah, 0x42") + 1


def test_grub_legacy_lies_in_successive_sectors(tmp_path: Path) -> None:
    stages = tmp_path / "usr/lib/grub/i386-pc"
    stages.mkdir(parents=True)
    (stages / "stage1").write_bytes(b"1" * 512)
    (stages / "stage2").write_bytes(b"2" * 1000)
    image = tmp_path / "floppy.img"
    fetch_images.grub_legacy_floppy(fetch_images.Kitchen(tmp_path, HostTools(tmp_path), tmp_path), image)
    assert image.read_bytes() == b"1" * 512 + b"2" * 1000 + bytes(1474560 - 1512)


CHS = [(0, (0, 1, 0)), (62, (0, 63, 0)), (63, (1, 1, 0)), (1008, (0, 1, 1)), (300 * 1008, (0, 0x41, 300 & 0xFF))]


@pytest.mark.parametrize(("lba", "chs"), CHS)
def test_chs_of_a_sector(lba: int, chs: tuple[int, int, int]) -> None:
    assert fetch_images._chs(lba) == chs


def test_a_tool_of_the_host_is_used_as_it_is(fake_path: Path, tmp_path: Path) -> None:
    fake_program(fake_path, "xorriso", "true")
    fake_program(fake_path, "apt-get", "exit 100")
    HostTools(tmp_path / "tools").prepare(["xorriso"], lambda _: None)
    assert not (tmp_path / "tools" / "bin").exists()


def test_an_unpacked_tool_gets_a_wrapper_with_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(host_tools.TOOLS, "probe", host_tools.Tool("p", "usr/bin/probe", ("-L", "{root}/share")))
    program = tmp_path / "root/usr/bin"
    program.mkdir(parents=True)
    (tmp_path / "root/usr/lib").mkdir()
    (tmp_path / "root/usr/lib/libx.so.1").touch()
    fake_program(program, "probe", 'echo "$LD_LIBRARY_PATH" "$@"')
    tools = HostTools(tmp_path)
    tools._wrap("probe")
    said = subprocess.run([tmp_path / "bin" / "probe", "a b"], capture_output=True, text=True, check=True).stdout
    assert said == f"{tmp_path}/root/usr/lib -L {tmp_path}/root/share a b\n"


def test_a_tool_that_fails_is_reported_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"failed with status 3: no such luck"):
        HostTools(tmp_path).run(["sh", "-c", "echo no such luck >&2; exit 3"])


def test_an_unknown_tool_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert host_tools.main(["hammer"]) == 2
    assert capsys.readouterr().err.startswith("host-tools: unknown tool 'hammer'; known are ")
