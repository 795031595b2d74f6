"""The composition root: what a configuration becomes, and how a machine is kept and brought back."""

import json
import os
import zlib
from pathlib import Path

import pytest
from vm_rig import MIB, assembled, listen, machine, put, run, shown

from firmware.build import build_bios
from tests.firmware.media import CD_SECTOR, SECTOR, cd_image
from vmm.door import Door
from vmm.errors import ConfigError
from vmm.monitor import Monitor
from vmm.outcome import ExitPort, Halted

END = "mov al, 7; out 0xF4, al; hlt"


def boot_sector(letter: str) -> bytes:
    """Says one letter and the drive it was booted from."""
    code = assembled(f"mov al, '{letter}'; out 0xE9, al; mov al, dl; out 0xE9, al; {END}")
    return code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- memory ------------------------------------------------------------------------------------------------------

SIZES = [
    pytest.param(MIB, 0, id="1M"),
    pytest.param(MIB + 4096, 4, id="1M_and_a_page"),
    pytest.param(2 * MIB, 1024, id="2M"),
    pytest.param(64 * MIB, 63 * 1024, id="64M"),
    pytest.param(2048 * MIB, 2047 * 1024, id="2G"),
]


@pytest.mark.parametrize(("memory", "extended_kib"), SIZES)
def test_a_machine_without_media_says_so_at_every_memory_size(memory: int, extended_kib: int) -> None:
    with machine(memory=memory) as vm:
        assert run(vm) == Halted()
        text = shown(vm)
    assert "No bootable device" in text
    assert f"639 KiB base memory, {extended_kib} KiB extended memory" in text


def test_memory_that_the_guest_has_not_touched_costs_nothing() -> None:
    with machine(memory=MIB) as vm:  # what is loaded once is there from now on
        run(vm)
    before = resident()
    with machine(memory=2048 * MIB) as vm:
        run(vm)
        assert resident() - before < 200 * MIB


# --- media -------------------------------------------------------------------------------------------------------


@pytest.fixture
def media(tmp_path: Path) -> dict[str, Path]:
    images = {
        "floppy": boot_sector("F").ljust(1440 << 10, b"\0"),
        "disk": boot_sector("D").ljust(1008 * SECTOR, b"\0"),
        "cdrom": cd_image(boot_sector("C").ljust(CD_SECTOR, b"\0"), media=0, sectors=4),
    }
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    return {name: tmp_path / name for name in images}


BOOTS = [
    pytest.param(("floppy",), None, b"F\x00", id="floppy"),
    pytest.param(("disk",), None, b"D\x80", id="disk"),
    pytest.param(("cdrom",), None, b"C\xe0", id="cdrom"),
    pytest.param(("floppy", "disk", "cdrom"), None, b"F\x00", id="floppy_is_first_of_all"),
    pytest.param(("disk", "cdrom"), None, b"D\x80", id="disk_is_before_cdrom"),
    pytest.param(("floppy", "disk", "cdrom"), "disk", b"D\x80", id="disk_when_asked_for"),
    pytest.param(("floppy", "disk", "cdrom"), "cdrom", b"C\xe0", id="cdrom_when_asked_for"),
    pytest.param(("disk",), "floppy", b"D\x80", id="what_is_there_when_what_was_asked_for_is_not"),
]


@pytest.mark.parametrize(("given", "boot", "said"), BOOTS)
def test_boots_from(media: dict[str, Path], given: tuple[str, ...], boot: str | None, said: bytes) -> None:
    with machine(
        floppies=(media["floppy"],) if "floppy" in given else (),
        disks=(media["disk"],) if "disk" in given else (),
        cdrom=media["cdrom"] if "cdrom" in given else None,
        boot=boot,
    ) as vm:
        heard = listen(vm)
        assert run(vm) == ExitPort(7)
    assert bytes(heard) == said


def test_a_second_floppy_behind_an_empty_drive_is_drive_b(media: dict[str, Path], tmp_path: Path) -> None:
    """The disk's boot sector reads the first byte of drive 1."""
    code = assembled(
        f"mov ax, 0x0201; mov bx, 0x8000; mov cx, 1; mov dx, 1; int 0x13; mov al, [0x8000]; out 0xE9, al; {END}"
    )
    (tmp_path / "disk").write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1007 * SECTOR))
    with machine(floppies=(None, media["floppy"]), disks=(tmp_path / "disk",), boot="disk") as vm:
        heard = listen(vm)
        assert run(vm) == ExitPort(7)
    assert bytes(heard) == media["floppy"].read_bytes()[:1]


def test_a_file_that_cannot_be_used_gives_the_others_back(media: dict[str, Path], tmp_path: Path) -> None:
    """Their locks are gone: the next machine can have them for writing."""
    with pytest.raises(ConfigError, match="absent"), machine(
        floppies=(media["floppy"],), disks=(tmp_path / "absent",)
    ):  # fmt: skip
        pass
    with machine(floppies=(media["floppy"],), write=True):
        pass


# --- another BIOS ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kib", [64, 128, 256])
def test_another_bios_starts_at_its_last_16_bytes(tmp_path: Path, kib: int) -> None:
    """A BIOS that knows its own size: 64 KiB below 4 GiB at reset, the same below 1 MiB after a far jump."""
    image = bytearray(kib << 10)
    body = assembled(f"mov al, 'b'; out 0xE9, al; {END}", 0xE000)
    image[-0x2000 : -0x2000 + len(body)] = body
    image[-16:-11] = b"\xea\x00\xe0\x00\xf0"  # jmp F000:E000
    (tmp_path / "bios").write_bytes(image)
    with machine(bios=tmp_path / "bios") as vm:
        heard = listen(vm)
        assert run(vm) == ExitPort(7)
    assert heard == b"b"


def test_our_bios_can_be_given_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "bios").write_bytes(build_bios())
    with machine(bios=tmp_path / "bios") as vm:
        assert run(vm) == Halted()
        assert "Glassvisor BIOS" in shown(vm)


@pytest.mark.parametrize("size", [0, 1, 0xFFFF, 0x10001, 0x18000, 0x30000, 0x40001, 0x80001, 0x100000])
def test_a_bios_of_the_wrong_size_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "bios").write_bytes(bytes(size))
    with pytest.raises(ConfigError, match="bios") as refused, machine(bios=tmp_path / "bios"):
        pass
    assert "\n" not in str(refused.value)


# --- kernels through the boot door -------------------------------------------------------------------------------

LOAD = 0x100000


def kernel_that_shows(*values: bytes) -> bytes:
    """A Multiboot kernel, a.out kludge, whose code writes these, each a `mov eax, ...`, to the debug console."""
    flags = 1 << 16 | 1 << 1
    size = 0x1000
    header = [0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, LOAD, LOAD, LOAD + size, LOAD + size, LOAD + 32]
    out = b"\xe6\xe9\xc1\xe8\x08" * 4  # out 0xE9, al; shr eax, 8
    code = b"\x89\xc6" + b"".join(value + out for value in values) + b"\xb0\x07\xe6\xf4\xf4"  # mov esi, eax
    return b"".join(word.to_bytes(4, "little") for word in header) + code.ljust(size - 32, b"\0")


MAGIC = b"\x89\xf0"  # mov eax, esi
EBX = b"\x89\xd8"
FLAGS = b"\x8b\x03"  # mov eax, [ebx]
UPPER = b"\x8b\x43\x08"
COMMAND_LINE = b"\x8b\x43\x10\x8b\x00"  # the first four characters
MODULES = b"\x8b\x43\x14"
MODULE = b"\x8b\x43\x18\x8b\x00\x8b\x00"  # its first four bytes
CR0 = b"\x0f\x20\xc0"  # mov eax, cr0


def words(heard: bytearray) -> list[int]:
    return [int.from_bytes(heard[at : at + 4], "little") for at in range(0, len(heard), 4)]


def test_a_multiboot_kernel_finds_what_the_specification_promises(tmp_path: Path) -> None:
    kernel = kernel_that_shows(MAGIC, EBX, FLAGS, UPPER, COMMAND_LINE, MODULES, MODULE, CR0)
    (tmp_path / "kernel").write_bytes(kernel)
    (tmp_path / "module").write_bytes(b"MODL")
    with machine(
        memory=16 * MIB, kernel=tmp_path / "kernel", append="kern opts", modules=((tmp_path / "module", "arg"),)
    ) as vm:
        heard = listen(vm)
        assert run(vm) == ExitPort(7)
        magic, info, flags, upper, command_line, modules, module, cr0 = words(heard)
        assert vm.memory.read(info, 4) == flags.to_bytes(4, "little")
    assert (magic, upper, modules) == (0x2BADB002, 15 * 1024, 1)
    assert flags & 0b1001101 == 0b1001101  # memory sizes, command line, modules, memory map
    assert module.to_bytes(4, "little") == b"MODL"
    assert (
        command_line.to_bytes(4, "little") == str(tmp_path / "kernel").encode()[:4]
        or command_line.to_bytes(4, "little") == b"kern"
    )
    assert cr0 & 0x8000_0001 == 1  # protected, not paged


def test_a_kernel_starts_again_after_a_reset(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(kernel_that_shows(MAGIC))
    with machine(memory=16 * MIB, kernel=tmp_path / "kernel") as vm:
        heard, monitor = listen(vm), Monitor()
        for _ in range(2):
            assert run(vm, monitor) == ExitPort(7)
            vm.memory.write(LOAD, bytes(4096))
            vm.reset()
    assert words(heard) == [0x2BADB002] * 2


@pytest.mark.parametrize(
    ("address", "pe"),
    [
        pytest.param(0x7C00, b"0", id="where_boot_sectors_go"),
        pytest.param(0x1000, b"0", id="low"),
        pytest.param(0x100000, b"1", id="from_1_MiB_up_in_protected_mode"),
        pytest.param(0x300000, b"1", id="higher_up"),
    ],
)
def test_a_flat_binary_starts_at_its_address(tmp_path: Path, address: int, pe: bytes) -> None:
    code = b"\x0f\x01\xe0\x24\x01\x04\x30\xe6\xe9\xb0\x07\xe6\xf4\xf4"  # smsw; and al, 1; add al, '0'; out; exit
    (tmp_path / "flat").write_bytes(code)
    with machine(memory=16 * MIB, flat=(tmp_path / "flat", address)) as vm:
        heard = listen(vm)
        assert run(vm) == ExitPort(7)
    assert heard == pe


@pytest.mark.parametrize("address", [0xA0000, 0xF0000, 16 * MIB - 4, 0xFFFF_FFF0])
def test_a_flat_binary_outside_ram_is_refused(tmp_path: Path, address: int) -> None:
    (tmp_path / "flat").write_bytes(bytes(64))
    with pytest.raises(ConfigError), machine(memory=16 * MIB, flat=(tmp_path / "flat", address)):
        pass


# --- save and load -----------------------------------------------------------------------------------------------


def test_a_machine_saved_in_mid_boot_goes_on_where_it_was() -> None:
    with machine() as vm:
        monitor = Monitor()
        for _ in range(4):
            assert monitor.run_slice(vm, 0.005) is None
        saved = vm.save()
        assert run(vm, monitor) == Halted()
        expected = shown(vm)
    with machine(standing_still()) as other:
        other.load(saved)
        assert other.save() == saved
    with machine() as other:
        other.load(saved)
        assert run(other) == Halted()
        assert shown(other) == expected


def test_a_machine_can_be_put_back_into_itself() -> None:
    with machine() as vm:
        put(vm, "mov al, 'x'; out 0xE9, al; inc byte ptr [0x600]; mov al, 7; out 0xF4, al; hlt")
        saved, heard, monitor = vm.save(), listen(vm), Monitor()
        for _ in range(3):
            assert run(vm, monitor) == ExitPort(7)
            assert vm.memory.read(0x600, 1) == b"\x01"
            vm.load(saved)
    assert heard == b"xxx"


def standing_still() -> Door:
    """The door of a machine for which no time goes by."""
    return Door(lambda: 0)


def _packed(**state: object) -> bytes:
    return zlib.compress(json.dumps(state).encode())


BAD_STATES = [
    pytest.param(b"", id="empty"),
    pytest.param(b"not a state", id="no_compressed_data"),
    pytest.param(zlib.compress(b"\xff\xfe"), id="no_text"),
    pytest.param(zlib.compress(b"{"), id="no_json"),
    pytest.param(zlib.compress(b"[]"), id="no_object"),
    pytest.param(_packed(), id="no_version"),
    pytest.param(_packed(version=0, memory_size=MIB), id="another_version"),
    pytest.param(_packed(version=1, memory_size=2 * MIB, drives=0), id="another_memory_size"),
]


@pytest.mark.parametrize("saved", BAD_STATES)
def test_what_is_no_state_of_this_machine_is_refused(saved: bytes) -> None:
    with machine(standing_still()) as vm:
        before = vm.save()
        with pytest.raises(ConfigError, match="saved machine") as refused:
            vm.load(saved)
        assert "\n" not in str(refused.value)
        assert vm.save() == before


def test_a_state_of_a_machine_with_other_media_is_refused(media: dict[str, Path]) -> None:
    with machine(floppies=(media["floppy"],)) as vm:
        saved = vm.save()
    with machine() as vm, pytest.raises(ConfigError, match="images"):
        vm.load(saved)


def test_a_state_with_a_chip_of_another_version_is_refused() -> None:
    with machine() as vm:
        state = json.loads(zlib.decompress(vm.save()))
        del state["board"]["pit"]
        with pytest.raises(ConfigError, match="another version"):
            vm.load(zlib.compress(json.dumps(state).encode()))
