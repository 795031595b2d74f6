"""Image files: recognition, refusal, copy-on-write, write-through, locks, saved state."""

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmm.devices.block import FLOPPY_FORMATS, MediumError
from vmm.errors import ConfigError
from vmm.images import Image, Kind, classify, has_boot_signature, open_image, read_file

SIGNATURE = b"\x55\xaa"
MIB = 1 << 20


def boot_sector(partitions: bytes = b"", signature: bytes = SIGNATURE) -> bytes:
    return bytes(446) + partitions.ljust(64, b"\0") + signature


def partition(first: int, sectors: int = 8, status: int = 0x80, kind: int = 0x83) -> bytes:
    return bytes([status, 0, 0, 0, kind, 0, 0, 0]) + first.to_bytes(4, "little") + sectors.to_bytes(4, "little")


def iso(size: int = 64 * 2048) -> bytes:
    return (bytes(0x8001) + b"CD001").ljust(size, b"\0")


def multiboot(at: int, size: int = 20000) -> bytes:
    return (bytes(at) + (0x1BADB002).to_bytes(4, "little")).ljust(size, b"\0")


@pytest.fixture
def make(tmp_path):
    def make(content: bytes, name: str = "image") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return make


CLASSES = [
    *(pytest.param(bytes(size), Kind.FLOPPY, id=f"floppy_of_{size}") for size in FLOPPY_FORMATS),
    pytest.param(multiboot(64, 1474560), Kind.FLOPPY, id="a_floppy_with_a_multiboot_loader_is_a_floppy"),
    pytest.param(boot_sector(), Kind.FLOPPY, id="one_boot_sector_is_a_floppy"),
    pytest.param(b"\xeb\xfe" * 255 + SIGNATURE, Kind.FLOPPY, id="code_where_the_table_would_be_is_a_floppy"),
    pytest.param(iso(), Kind.CDROM, id="iso"),
    pytest.param(boot_sector(partition(1)) + iso()[512:], Kind.CDROM, id="a_hybrid_iso_is_a_cd"),
    pytest.param(boot_sector(partition(1)) + bytes(MIB), Kind.DISK, id="a_small_partitioned_disk"),
    pytest.param(boot_sector(partition(4096)) + bytes(MIB), Kind.FLOPPY, id="partition_outside_the_file"),
    pytest.param(boot_sector(partition(1, status=7)) + bytes(MIB), Kind.FLOPPY, id="partition_with_odd_status"),
    pytest.param(bytes(4 * MIB), Kind.DISK, id="four_blank_megabytes_are_a_disk"),
    pytest.param(multiboot(8188), Kind.KERNEL, id="multiboot_in_the_last_place"),
    pytest.param(multiboot(8192), Kind.FLOPPY, id="multiboot_too_far"),
    pytest.param(multiboot(2), Kind.FLOPPY, id="multiboot_unaligned"),
    pytest.param(b"\x7fELF" + bytes(5000), Kind.KERNEL, id="elf"),
    pytest.param(boot_sector() + multiboot(8), Kind.FLOPPY, id="boot_signature_beats_multiboot"),
]


@pytest.mark.parametrize(("content", "kind"), CLASSES)
def test_classify(make, content, kind):
    assert classify(make(content)) is kind


@pytest.mark.parametrize("opener", [classify, lambda p: open_image(p, Kind.DISK), lambda p: read_file(p, 100)])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing", "No such file"),
        ("empty", "is empty"),
        ("directory", "is a directory"),
        ("pipe", "neither a file nor a block device"),
        ("a\0b", "null byte"),
    ],
)
def test_unusable_files_are_one_clear_line(tmp_path, opener, name, problem):
    (tmp_path / "empty").touch()
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=problem) as caught:
        opener(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_unreadable_file(make, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = make(bytes(512))
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        classify(path)


@pytest.mark.parametrize(
    ("size", "kind", "problem"),
    [
        (511, Kind.FLOPPY, "512-byte sectors"),
        (4 * MIB + 1, Kind.DISK, "512-byte sectors"),
        (2048 * 20 + 512, Kind.CDROM, "2048-byte sectors"),
        (2949120 + 512, Kind.FLOPPY, "too large for a floppy"),
        ((128 << 30) + 512, Kind.DISK, "too large for a disk"),
    ],
)
def test_wrong_sizes(make, size, kind, problem):
    path = make(b"x")
    os.truncate(path, size)
    with pytest.raises(ConfigError, match=problem):
        open_image(path, kind)


def test_a_kernel_is_not_a_medium(make):
    with pytest.raises(ConfigError, match="--kernel"):
        open_image(make(bytes(512)), "kernel")


def test_read_file_limits(make):
    assert read_file(make(b"abc"), 3) == b"abc"
    with pytest.raises(ConfigError, match="3 bytes, expected at most 2"):
        read_file(make(b"abc"), 2)


@pytest.mark.parametrize(("stored", "size"), [(512, 1474560), (737280, 737280), (1474560 + 512, 2949120)])
def test_floppies_are_padded_to_a_known_format(make, stored, size):
    with open_image(make(b"\xa5" * stored), Kind.FLOPPY) as image:
        assert (image.size, image.size in FLOPPY_FORMATS) == (size, True)
        assert image.read(0, size) == (b"\xa5" * stored).ljust(size, b"\0")


@pytest.mark.parametrize(("signature", "expected"), [(SIGNATURE, True), (b"\xaa\x55", False)])
def test_has_boot_signature(make, signature, expected):
    with open_image(make(boot_sector(signature=signature)), Kind.FLOPPY) as image:
        assert has_boot_signature(image) is expected


def test_copy_on_write_reads_back_and_leaves_the_file_alone(make):
    content = bytes(range(256)) * 64
    path = make(content)
    before = hashlib.sha256(content).hexdigest()
    expected = bytearray(content)
    with open_image(path, Kind.DISK) as image:
        for offset, data in [(0, b"first"), (4090, b"across two pages"), (len(content) - 512, b"\xee" * 512)]:
            image.write(offset, data)
            expected[offset : offset + len(data)] = data
        image.flush()
        assert image.read(0, len(content)) == bytes(expected)
        assert image.read(4092, 8) == bytes(expected[4092:4100])
        assert image.changed_bytes == 3 * 4096
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_write_through_changes_the_file_at_once(make):
    path = make(bytes(8192))
    with open_image(path, Kind.DISK, write=True) as image:
        image.write(512, b"\x77" * 512)
        assert path.read_bytes()[512:1024] == b"\x77" * 512
        assert (image.read(512, 512), image.changed_bytes) == (b"\x77" * 512, 0)


def test_a_flushed_sector_survives_the_kill(make):
    path = make(bytes(8192))
    program = (
        "import os, sys; from vmm.images import open_image\n"
        "image = open_image(sys.argv[1], 'disk', write=True)\n"
        "image.write(1024, b'K' * 512); image.flush(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == -9
    assert path.read_bytes()[1024:1536] == b"K" * 512


def test_a_padded_floppy_grows_as_far_as_it_is_written(make):
    path = make(b"\x11" * 512)
    with open_image(path, Kind.FLOPPY, write=True) as image:
        image.write(1024, b"\x22" * 512)
        assert image.read(0, 2048) == b"\x11" * 512 + bytes(512) + b"\x22" * 512 + bytes(512)
    assert path.read_bytes() == b"\x11" * 512 + bytes(512) + b"\x22" * 512


@pytest.mark.parametrize(("offset", "count"), [(8192, 1), (-1, 4), (0, 8193), (8000, 512)])
@pytest.mark.parametrize("write", [False, True])
def test_accesses_outside_the_medium_are_medium_errors(make, offset, count, write):
    with open_image(make(bytes(8192)), Kind.DISK, write=write) as image:
        with pytest.raises(MediumError):
            image.read(offset, count)
        with pytest.raises(MediumError):
            image.write(offset, bytes(count))


def test_a_cd_cannot_be_written(make):
    with open_image(make(iso()), Kind.CDROM, write=True) as image:
        assert image.read_only
        with pytest.raises(MediumError):
            image.write(0, bytes(512))


@pytest.mark.parametrize("write", [False, True])
def test_a_file_that_shrinks_is_a_medium_error(make, write):
    path = make(b"\x5a" * 16384)
    with open_image(path, Kind.DISK, write=write) as image:
        os.truncate(path, 4096)
        assert image.read(0, 4096) == b"\x5a" * 4096
        with pytest.raises(MediumError, match="ends"):
            image.read(8192, 512)


def test_host_errors_become_medium_errors(make, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    with open_image(make(bytes(8192)), Kind.DISK, write=True) as image:
        for name in ("pread", "pwrite", "fsync"):
            monkeypatch.setattr(os, name, fail)
        for access in (lambda: image.read(0, 512), lambda: image.write(0, b"x"), image.flush):
            with pytest.raises(MediumError, match="Input/output error"):
                access()


@pytest.mark.parametrize(
    ("first", "second", "allowed"),
    [(False, False, True), (False, True, False), (True, False, False), (True, True, False)],
)
def test_locks(make, first, second, allowed):
    path = make(bytes(8192))
    with open_image(path, Kind.DISK, write=first):
        if allowed:
            open_image(path, Kind.DISK, write=second).close()
        else:
            with pytest.raises(ConfigError, match="in use by another"):
                open_image(path, Kind.DISK, write=second)


def test_closing_frees_the_lock_and_may_be_repeated(make):
    path = make(bytes(8192))
    image = open_image(path, Kind.DISK, write=True)
    image.close()
    image.close()
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_saved_changes_come_back(make):
    path = make(bytes(10 * 1024))

    def changed(image: Image) -> bytes:
        return image.read(0, image.size)

    with open_image(path, Kind.DISK) as image, open_image(path, Kind.DISK) as other:
        image.write(100, b"one")
        image.write(9 * 1024, b"the last page is short")
        state = image.save()
        other.write(5000, b"forgotten")
        other.load(state)
        assert changed(other) == changed(image)
        assert other.save() == state


def test_saved_changes_are_refused_where_they_cannot_go(make):
    path, longer = make(bytes(8192)), make(bytes(16384), "longer")
    with open_image(path, Kind.DISK) as image:
        image.write(0, b"x")
        state = image.save()
    with open_image(longer, Kind.DISK) as image, pytest.raises(ConfigError, match="saved with 8192"):
        image.load(state)
    with open_image(path, Kind.DISK, write=True) as image, pytest.raises(ConfigError, match="without write access"):
        image.load(state)
