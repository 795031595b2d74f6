"""Tools that the tests and the image recipes need on the host, without root.

What the host has is used as it is. What it lacks is downloaded and unpacked into the cache, and gets a small wrapper in
`bin` there that finds its libraries and data. `python -m tools.host_tools` prepares everything and prints the directory
to put in front of PATH; `python -m tools.host_tools NAME...` prepares only those.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vmm.fetch.debian import AptRoot, PackageError, Progress, cache_directory, host_architecture, locked, unpack


@dataclass(frozen=True, slots=True)
class Tool:
    """A program, the package that has it, what to say to it so that it finds its data below `{root}` and
    plugins among the `{libraries}`, and packages that it needs and does not ask for, or not by name."""

    package: str
    path: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    beside: tuple[str, ...] = ()

    @property
    def packages(self) -> tuple[str, ...]:
        """All to be unpacked."""
        return (self.package, *self.beside)


def _mtools(name: str) -> Tool:
    return Tool("mtools", f"usr/bin/{name}")


TOOLS: Final[dict[str, Tool]] = {
    **{name: _mtools(name) for name in ("mformat", "mcopy", "mattrib", "mmove", "mdir", "mtype", "mtools")},
    "xorriso": Tool("xorriso", "usr/bin/xorriso"),
    "syslinux": Tool("syslinux", "usr/bin/syslinux"),
    "grub-mkrescue": Tool("grub-common", "usr/bin/grub-mkrescue", environment={"pkgdatadir": "{root}/usr/share/grub"}),
    "qemu-system-i386": Tool(
        "qemu-system-x86",
        "usr/libexec/qemu-system-i386",  # what is in usr/bin is a script that looks for it below /
        ("-L", "{root}/usr/share/qemu", "-L", "{root}/usr/share/seabios", "-L", "{root}/usr/lib/ipxe/qemu"),
    ),
    "bochs": Tool(
        "bochs",
        "usr/bin/bochs-bin",  # what is in usr/bin is a script that looks for it on PATH
        environment={"BXSHARE": "{root}/usr/share/bochs", "LTDL_LIBRARY_PATH": "{libraries}"},
        beside=("bochs-term", "bochsbios", "vgabios"),
    ),
}
IMAGE_TOOLS: Final = ("mformat", "mcopy", "mattrib", "mmove", "mtools", "xorriso", "syslinux", "grub-mkrescue")


class HostTools:
    """The directory of unpacked tools."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._root = directory / "root"
        self._bin = directory / "bin"

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those that neither the host nor the cache has."""
        return [name for name in names if shutil.which(name, path=self.path()) is None]

    def prepare(self, names: Sequence[str], progress: Progress) -> None:
        """Make sure that every tool is there. Raises: PackageError: one cannot be had."""
        with locked(self._directory):
            if missing := self.missing(names):
                self._unpack(sorted({each for name in missing for each in TOOLS[name].packages}), progress)
                for name in missing:
                    self._wrap(name)
            if still := self.missing(names):
                raise PackageError(f"no {still[0]} in package {TOOLS[still[0]].package}")

    def path(self) -> str:
        """A PATH that finds the tools, the host's own first."""
        return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", str(self._bin)])

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": self.path(), "LC_ALL": "C"}

    def run(self, command: Sequence[str | Path], **more: str) -> None:
        """Run a tool to its end. Raises: PackageError with what it said, if it fails."""
        words = [str(word) for word in command]
        done = subprocess.run(
            words,
            env={**self.environment(), **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())
            raise PackageError(f"{shlex.join(words)} failed with status {done.returncode}: {said[-400:]}")

    def _unpack(self, packages: Sequence[str], progress: Progress) -> None:
        apt = AptRoot(self._directory / "apt", host_architecture(), knows_host=True)
        apt.update(lambda part: progress(part * 0.2))
        for file in apt.download_with_dependencies(packages, lambda part: progress(0.2 + part * 0.6)):
            unpack(file, self._root)
        shutil.rmtree(self._directory / "apt")

    def _wrap(self, name: str) -> None:
        """A shell script that starts an unpacked program with its libraries and data."""
        tool = TOOLS[name]
        program = self._root / tool.path
        if not program.exists():
            return
        libraries = self._libraries()
        placed = {
            key: value.format(root=self._root, libraries=libraries) for key, value in (tool.environment or {}).items()
        }
        settings = {"LD_LIBRARY_PATH": libraries, **placed}
        assignments = [shlex.quote(f"{key}={value}") for key, value in settings.items()]
        arguments = [shlex.quote(word.format(root=self._root)) for word in tool.arguments]
        line = " ".join(["exec env", *assignments, shlex.quote(str(program)), *arguments, '"$@"'])
        self._bin.mkdir(parents=True, exist_ok=True)
        wrapper = self._bin / name
        wrapper.write_text(f"#!/bin/sh\n{line}\n")
        wrapper.chmod(0o755)

    def _libraries(self) -> str:
        """Every directory below the root that holds shared libraries."""
        found = sorted({str(file.parent) for file in self._root.rglob("*.so*")})
        return os.pathsep.join(found)


def open_tools() -> HostTools:
    """The tools in the user's cache."""
    return HostTools(cache_directory("tools"))


def main(names: Sequence[str]) -> int:
    """Prepare tools and print where they are."""
    if unknown := sorted(set(names) - set(TOOLS)):
        print(f"host-tools: unknown tool {unknown[0]!r}; known are {', '.join(sorted(TOOLS))}", file=sys.stderr)
        return 2
    tools = open_tools()
    try:
        tools.prepare(names or sorted(TOOLS), lambda _part: None)
    except PackageError as error:
        print(f"host-tools: {error}", file=sys.stderr)
        return 1
    print(tools.path().rsplit(os.pathsep, 1)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
