"""What `vmm images linux` makes: Debian's kernels for 32-bit processors, and an initial file system of busybox.

| image | what it is |
| --- | --- |
| `vmlinuz-686`, `vmlinuz-686-pae` | the kernels as Debian ships them (bzImage) |
| `vmlinux-686-pae` | the ELF file inside, with its PVH entry point |
| `initramfs.cpio.gz` | busybox, an init that the command line tells what to do, and the work script |
| `modules-686.cpio.gz`, `modules-686-pae.cpio.gz` | modules for disks and CDs, to be appended to it |
| `initramfs-686.cpio.gz`, `initramfs-686-pae.cpio.gz` | both in one |
| `installer-linux`, `installer-initrd.gz` | the Debian installer that boots from a network, with `--all` |
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from firmware import pvh
from vmm.fetch import cpio, modules, vmlinux
from vmm.fetch.debian import AptRoot, PackageError, cache_directory
from vmm.fetch.store import Collection, Kitchen, Recipe, copied, digest, fixed

FLAVOURS: Final = ("686", "686-pae")
GUEST: Final = Path(__file__).parent / "guest"
"""Scripts that go into the initial file system."""
INITRAMFS: Final = "initramfs.cpio.gz"
MODULES: Final = (
    "ata_piix ata_generic pata_legacy sd_mod sr_mod ext4 crc32c_generic isofs "
    "crct10dif_generic crc64_rocksoft_generic"
).split()  # fmt: skip
"""Disks, CDs, and what the kernel asks for by name when they start (`softdep` in modinfo(8))."""

APPLETS: Final = (
    "[ [[ ar arch ash awk base64 basename bc blkdiscard blockdev bunzip2 bzcat bzip2 cal cat chgrp chmod chown chroot "
    "chvt clear cmp cp cpio crc32 cttyhack cut date dc dd deallocvt depmod devmem df diff dirname dmesg dos2unix du "
    "dumpkmap echo ed egrep env expand expr factor fallocate false fdisk fgrep find findfs fold free fsfreeze fstrim "
    "getopt getty grep groups gunzip gzip halt head hexdump hostname hwclock id ifconfig insmod ionice ip kill killall "
    "last less link linux32 ln loadkmap logger losetup ls lsmod lsscsi lzcat lzma md5sum mdev mkdir mkdosfs mke2fs "
    "mkfifo mknod mkswap mktemp modinfo modprobe more mount mt mv nproc nslookup od openvt partprobe "
    "paste patch pidof ping pivot_root poweroff printf ps pwd readlink realpath reboot renice reset rev rm rmdir "
    "rmmod run-parts sed seq setkeycodes setpriv setsid sh sha1sum sha256sum sha3sum sha512sum shred shuf sleep sort "
    "start-stop-daemon stat strings stty swapoff swapon switch_root sync sysctl tac tail tar taskset tee test time "
    "timeout top touch tr true truncate ts tty uevent umount uname unexpand uniq unix2dos unlink unlzma unshare unxz "
    "unzip uptime usleep vi watch wc wget which who whoami xargs xxd xz xzcat yes zcat"
).split()  # fmt: skip

FAULTS: Final = {
    "null-pointer": bytes.fromhex("a1 00000000"),  # mov eax, [0]
    "divide-by-zero": bytes.fromhex("31c9 f7f1"),  # xor ecx, ecx; div ecx
    "bad-instruction": bytes.fromhex("0f0b"),  # ud2
    "privileged": bytes.fromhex("f4"),  # hlt
    "breakpoint": bytes.fromhex("cc"),  # int3
}
"""Programs that end by a fault, and their code."""
_LOAD_ADDRESS: Final = 0x0804_8000
_ELF_HEADER, _PROGRAM_HEADER = 52, 32
_READ_EXECUTE: Final = 5


def directory() -> Path:
    """Where the images are."""
    return cache_directory("images") / "linux"


def program(code: bytes) -> bytes:
    """A static ELF program for Linux on i386 that starts at its first byte of code.

    Source: System V ABI, "Object Files", "Program Loading".
    """
    start = _ELF_HEADER + _PROGRAM_HEADER
    size = start + len(code)
    identification = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    entry, sizes = _LOAD_ADDRESS + start, (_ELF_HEADER, _PROGRAM_HEADER, 1, 0, 0, 0)
    header = struct.pack("<16s2H5I6H", identification, 2, 3, 1, entry, _ELF_HEADER, 0, 0, *sizes)
    segment = struct.pack("<8I", 1, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, _READ_EXECUTE, 0x1000)
    return header + segment + code


def _initramfs(kitchen: Kitchen, image: Path) -> None:
    image.write_bytes(cpio.compressed(base_entries(kitchen.read("bin/busybox"))))


def base_entries(busybox: bytes) -> list[cpio.Entry]:
    """The initial file system: busybox under all its names, the init and the work script, programs that fault."""
    folders = [cpio.directory(name) for name in ("bin", "dev", "etc", "gv", "lib", "mnt", "proc", "sys", "tmp")]
    devices = [cpio.character_device("dev/console", 5, 1), cpio.character_device("dev/null", 1, 3, 0o666)]
    applets = [cpio.link(f"bin/{name}", "busybox") for name in sorted(APPLETS)]
    scripts = [cpio.file("init", _script("init"), 0o755), cpio.file("gv/work", _script("work"), 0o755)]
    faults = [cpio.file(f"gv/{name}", program(code), 0o755) for name, code in sorted(FAULTS.items())]
    return [*folders, *devices, cpio.file("bin/busybox", busybox, 0o755), *applets, *scripts, *faults]


def _script(name: str) -> bytes:
    return (GUEST / name).read_bytes()


def module_entries(tree: Path) -> list[cpio.Entry]:
    """The modules for disks and CDs out of `lib/modules/VERSION`, at the same places.

    Raises: PackageError: one is missing.
    """
    found = modules.closure(tree, MODULES)
    root = f"lib/modules/{tree.name}"
    names = {path: f"{root}/{path.relative_to(tree)}" for path in found}
    folders = {str(parent) for name in names.values() for parent in Path(name).parents} - {".", "lib"}
    files = [cpio.file(name, path.read_bytes()) for path, name in sorted(names.items())]
    index = cpio.file(f"{root}/modules.dep", modules.dependency_file(found, tree).encode())
    return [*(cpio.directory(name) for name in sorted(folders)), *files, index]


def _modules_of(flavour: str) -> Recipe:
    def make(kitchen: Kitchen, image: Path) -> None:
        image.write_bytes(cpio.compressed(module_entries(kitchen.find(f"lib/modules/*-{flavour}"))))

    return make


def _initramfs_of(flavour: str) -> Recipe:
    def make(kitchen: Kitchen, image: Path) -> None:
        entries = base_entries(kitchen.read("bin/busybox")), module_entries(kitchen.find(f"lib/modules/*-{flavour}"))
        image.write_bytes(b"".join(map(cpio.compressed, entries)))

    return make


def _pvh_kernel(kitchen: Kitchen, image: Path) -> None:
    kernel = vmlinux.unpacked(kitchen.read("boot/vmlinuz-*-686-pae"))
    if pvh.entry_of(kernel) is None:
        raise PackageError("the -686-pae kernel has no PVH entry point")
    image.write_bytes(kernel)


def _packages(apt: AptRoot) -> Sequence[str]:
    """The kernels that Debian's meta-packages name at present, and busybox."""
    return [*(name for flavour in FLAVOURS for name in apt.depended_on(f"linux-image-{flavour}")), "busybox-static"]


KERNELS: Final = Collection(
    manifest="manifest.json",
    version=f"1 {digest(GUEST)}",
    packages=_packages,
    recipes={
        **{f"vmlinuz-{flavour}": copied(f"boot/vmlinuz-*-{flavour}") for flavour in FLAVOURS},
        "vmlinux-686-pae": _pvh_kernel,
        INITRAMFS: _initramfs,
        **{f"modules-{flavour}.cpio.gz": _modules_of(flavour) for flavour in FLAVOURS},
        **{f"initramfs-{flavour}.cpio.gz": _initramfs_of(flavour) for flavour in FLAVOURS},
    },
)
_NETBOOT: Final = "usr/lib/debian-installer/images/12/i386/text/debian-installer/i386"
INSTALLER: Final = Collection(
    manifest="installer.json",
    version="1",
    packages=fixed("debian-installer-12-netboot-i386"),
    recipes={
        "installer-linux": copied(f"{_NETBOOT}/linux"),
        "installer-initrd.gz": copied(f"{_NETBOOT}/initrd.gz"),
    },
)
