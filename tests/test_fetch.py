"""The image downloader without the network: recipes, completeness, and what it says when apt fails."""

import dataclasses
import lzma
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tools` is not installed with the project

from tools import fetch_images, host_tools
from tools.boot_sectors import LOAD_ADDRESS, SECOND_ADDRESS, chained_partition, greeting_sector
from tools.host_tools import HostTools
from vmm.fetch import cpio, linux, modules, vmlinux
from vmm.fetch.debian import AptRoot, PackageError, archive_uri, cache_directory
from vmm.fetch.store import Collection, Kitchen, fixed


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


def put(content: bytes) -> Callable[[Kitchen, Path], None]:
    return lambda _kitchen, image: image.write_bytes(content) and None


def put_tree(_kitchen: Kitchen, image: Path) -> None:
    (image / "inside").mkdir(parents=True)
    (image / "inside" / "file").write_bytes(b"c")
    (image / "link").symlink_to("nowhere")


COLLECTION = Collection("manifest.json", "1", fixed("p"), {"a.img": put(b"a"), "b.img": put(b"b"), "tree": put_tree})


class Silence:
    """Progress that nobody looks at."""

    def step(self, text: str, until: float) -> None: ...

    def inside(self, part: float) -> None: ...


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory into which the collection was fetched."""
    monkeypatch.setattr(AptRoot, "update", lambda _self, _progress: None)
    monkeypatch.setattr(AptRoot, "download", lambda _self, _names, _progress: [])
    directory = tmp_path / "images"
    assert COLLECTION.fetch(directory, Silence())
    return directory


def test_a_complete_cache_is_left_alone(made: Path) -> None:
    assert COLLECTION.is_complete(made)
    assert not COLLECTION.fetch(made, Silence())


def test_what_was_half_made_is_gone(made: Path) -> None:
    assert {entry.name for entry in made.iterdir()} == {".lock", "manifest.json", "a.img", "b.img", "tree"}


@pytest.mark.parametrize("name", ["a.img", "tree/inside/file"])
def test_a_changed_image_is_not_complete(made: Path, name: str) -> None:
    (made / name).write_bytes(b"x")
    assert not COLLECTION.is_complete(made)


def test_a_link_that_leads_elsewhere_is_a_change(made: Path) -> None:
    (made / "tree" / "link").unlink()
    (made / "tree" / "link").symlink_to("elsewhere")
    assert not COLLECTION.is_complete(made)


def test_a_missing_image_is_made_again(made: Path) -> None:
    (made / "a.img").unlink()
    assert not COLLECTION.is_complete(made)
    assert COLLECTION.fetch(made, Silence())
    assert (made / "a.img").read_bytes() == b"a"


def test_a_new_recipe_version_is_not_complete(made: Path) -> None:
    assert not dataclasses.replace(COLLECTION, version="2").is_complete(made)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"recipe": "1"}'])
def test_a_broken_manifest_is_not_complete(made: Path, text: str) -> None:
    (made / "manifest.json").write_text(text)
    assert not COLLECTION.is_complete(made)


def test_a_recipe_that_fails_leaves_no_manifest(tmp_path: Path, made: Path) -> None:
    def fail(_kitchen: Kitchen, _image: Path) -> None:
        raise PackageError("burnt")

    with pytest.raises(PackageError, match="burnt"):
        dataclasses.replace(COLLECTION, recipes={"a.img": fail}).fetch(tmp_path / "other", Silence())
    assert [entry.name for entry in (tmp_path / "other").iterdir()] == [".lock"]


def test_a_file_that_a_package_no_longer_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"the packages have nothing at boot/vmlinuz-\*"):
        Kitchen(tmp_path, tmp_path).read("boot/vmlinuz-*")


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
    fetch_images.grub_legacy_floppy(Kitchen(tmp_path, tmp_path), image)
    assert image.read_bytes() == b"1" * 512 + b"2" * 1000 + bytes(1474560 - 1512)


CHS = [(0, (0, 1, 0)), (62, (0, 63, 0)), (63, (1, 1, 0)), (1008, (0, 1, 1)), (300 * 1008, (0, 0x41, 300 & 0xFF))]


@pytest.mark.parametrize(("lba", "chs"), CHS)
def test_chs_of_a_sector(lba: int, chs: tuple[int, int, int]) -> None:
    assert fetch_images._chs(lba) == chs


# --- initial file systems and kernels ----------------------------------------------------------------------


ENTRIES = [
    cpio.directory("bin"),
    cpio.file("bin/tool", b"text\n", 0o755),
    cpio.link("bin/other", "tool"),
    cpio.character_device("console", 5, 1),
]


def test_an_archive_is_laid_out_as_newc() -> None:
    """The worked example: a header of 110 bytes, the name with its NUL, both padded to 4, the content padded to 4."""
    made = cpio.archive([cpio.file("ab", b"hello", 0o640)])
    numbers = [1, 0o100640, 0, 0, 1, 0, 5, 0, 0, 0, 0, 3, 0]
    assert made[:110] == b"070701" + b"".join(b"%08x" % number for number in numbers)
    assert made[110:124] == b"ab\0\0\0\0hello\0\0\0"
    assert made[124:130] == b"070701"
    assert b"TRAILER!!!\0" in made
    assert len(made) % 512 == 0


def test_the_same_entries_are_the_same_bytes() -> None:
    assert cpio.compressed(ENTRIES) == cpio.compressed(list(ENTRIES))


def test_entries_have_their_kind_and_rights() -> None:
    assert [stat.filemode(entry.mode) for entry in ENTRIES] == ["drwxr-xr-x", "-rwxr-xr-x", "lrwxrwxrwx", "crw-------"]


def bzimage(payload: bytes, *, magic: bytes = b"HdrS", protocol: int = 0x20F, length: int | None = None) -> bytes:
    header = bytearray(1024)
    header[0x1F1] = 1
    header[0x202:0x208] = magic + struct.pack("<H", protocol)
    header[0x248:0x250] = struct.pack("<2I", 16, len(payload) if length is None else length)
    return bytes(header) + bytes(16) + payload


ELF = b"\x7fELF and so on"
PAYLOAD = lzma.compress(ELF) + struct.pack("<I", len(ELF))


def test_the_kernel_in_a_bzimage_is_found() -> None:
    assert vmlinux.unpacked(bzimage(PAYLOAD)) == ELF


BAD_KERNELS = [
    pytest.param(bzimage(PAYLOAD, magic=b"none"), "no setup header", id="no_header"),
    pytest.param(bzimage(PAYLOAD, protocol=0x207), "older than 2.08", id="old"),
    pytest.param(bzimage(PAYLOAD)[:-1], "cut off", id="cut_off"),
    pytest.param(bzimage(PAYLOAD, length=len(PAYLOAD) - 20), "not a whole ELF", id="short_payload"),
    pytest.param(bzimage(b"\x1f\x8b" + PAYLOAD), "not what xz makes", id="not_xz"),
    pytest.param(bzimage(lzma.compress(b"text") + b"\4\0\0\0"), "not a whole ELF", id="not_elf"),
]


@pytest.mark.parametrize(("kernel", "message"), BAD_KERNELS)
def test_a_kernel_that_is_none_is_refused(kernel: bytes, message: str) -> None:
    with pytest.raises(PackageError, match=message):
        vmlinux.unpacked(kernel)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory of modules: a needs b and c-d, b needs c_d."""
    for name, depends in {"a": "b,c-d", "sub/b": "c_d", "sub/c-d": ""}.items():
        path = tmp_path / f"{name}.ko"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0")
    return tmp_path


def test_modules_come_after_what_they_need(tree: Path) -> None:
    found = modules.closure(tree, ["a"])
    assert [path.name for path in found] == ["c-d.ko", "b.ko", "a.ko"]
    assert modules.dependency_file(found, tree) == "sub/c-d.ko:\nsub/b.ko: sub/c-d.ko\na.ko: sub/b.ko sub/c-d.ko\n"


def test_a_module_that_is_missing_is_named(tree: Path) -> None:
    with pytest.raises(PackageError, match="no module d"):
        modules.closure(tree, ["d"])


def test_a_made_program_runs_its_code(tmp_path: Path) -> None:
    path = tmp_path / "exit-7"
    path.write_bytes(linux.program(bytes.fromhex("b801000000 bb07000000 cd80")))  # exit(7)
    path.chmod(0o755)
    header = subprocess.run(["readelf", "-h", "-l", path], capture_output=True, text=True, check=True).stdout
    assert "Entry point address:               0x8048054" in header
    assert "R E" in header


def test_the_initial_file_system_has_each_name_once_and_folders_first() -> None:
    names = [entry.name for entry in linux.base_entries(b"busybox")]
    assert len(names) == len(set(names))
    assert all("/" not in name or str(Path(name).parent) in names[: names.index(name)] for name in names)


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
