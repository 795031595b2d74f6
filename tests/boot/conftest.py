"""`vmm run` as a user starts it: a process of its own, judged by its status, what it wrote, and what it left alone.

Guests are the images that `make images` fetches, and programs of ours in `guests/`, assembled by GNU as.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from vmm.fetch.debian import cache_directory

ROOT: Final = Path(__file__).parents[2]
SCRIPTS: Final = Path(__file__).parent / "scripts"
GUESTS: Final = Path(__file__).parent / "guests"
SECTOR: Final = 512
TIMEOUT: Final = 90
"""Host seconds a guest gets: many times what it needs, for a machine that is busy."""
ENGINES: Final = ("translate", "bare", "svm", "svm --npt")
"""Those that run guests without changing what they see; see `by`."""
GRACE: Final = 30
"""Seconds beyond a guest's time-out after which the VMM itself counts as hanging."""


@dataclass(frozen=True)
class Run:
    """A `vmm run` that is over. `directory` is where it ran and where its files are."""

    status: int
    out: str
    err: str
    directory: Path

    @property
    def heading(self) -> str:
        """Why it ended, or what was wrong: the first line on stderr."""
        return self.err.partition("\n")[0]

    def text(self, name: str) -> str:
        """A screenshot or a log as text, one character a byte."""
        return (self.directory / name).read_bytes().decode("latin-1")

    def stats(self) -> dict[str, Any]:
        """What `--stats stats.json` wrote."""
        loaded: dict[str, Any] = json.loads((self.directory / "stats.json").read_text())
        return loaded


Vmm = Callable[..., Run]


def by(engine: str) -> tuple[str, ...]:
    """The words that choose one of `ENGINES`."""
    return ("--engine", *engine.split())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def command(*arguments: object) -> list[str]:
    """The words of a `vmm run`."""
    return [sys.executable, "-m", "vmm", "run", *map(str, arguments)]


def images_in(arguments: tuple[object, ...]) -> dict[Path, str]:
    """The files among the arguments with their digests."""
    return {word: digest(word) for word in arguments if isinstance(word, Path) and word.is_file()}


@pytest.fixture
def vmm(tmp_path: Path) -> Vmm:
    """Return `run(*arguments, timeout=TIMEOUT)`; no run may change a file that it was given, nor end in a traceback."""

    def run(*arguments: object, timeout: float = TIMEOUT) -> Run:
        before = images_in(arguments)
        done = subprocess.run(
            command(*arguments, "--timeout", timeout),
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout + GRACE,
            check=False,
        )
        assert "--write" in arguments or before == images_in(arguments)
        err = done.stderr.decode()
        assert "Traceback" not in err, err
        return Run(done.returncode, done.stdout.decode(), err, tmp_path)

    return run


@pytest.fixture(scope="session")
def image() -> Callable[[str], Path]:
    """Return `image(name)`: an image that `make images` fetched."""

    def find(name: str) -> Path:
        path = cache_directory("images") / name
        if not path.exists():
            pytest.skip(f"no {path}; make images fetches it")
        return path

    return find


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return `guest(name)`: `guests/NAME.s` assembled, as a boot sector or a Multiboot ELF."""
    directory = tmp_path_factory.mktemp("guests")

    def build(name: str) -> Path:
        source = GUESTS / f"{name}.s"
        product = directory / f"{name}.img"
        if not product.exists():
            _assemble(source, directory, product)
        return product

    return build


def _assemble(source: Path, directory: Path, product: Path) -> None:
    binary = source.read_text().startswith("# Boot sector")
    layout = ["-Ttext=0x7c00", "--oformat=binary"] if binary else ["-Ttext=0x100000"]
    made = directory / f"{source.stem}.o"
    _tool("as", "--32", "-I", GUESTS, "-o", made, source)
    _tool("ld", "-m", "elf_i386", "-z", "norelro", "-N", "--entry=start", *layout, "-o", product, made)
    if binary:
        content = product.read_bytes()
        product.write_bytes(content.ljust(-(-len(content) // (18 * SECTOR)) * 18 * SECTOR, b"\0"))


def _tool(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def sector(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return `sector(code)`: a floppy whose boot sector is this 16-bit code, in Intel syntax."""
    count = 0

    def build(code: str) -> Path:
        nonlocal count
        count += 1
        source = tmp_path / f"sector{count}.s"
        product = tmp_path / f"sector{count}.img"
        source.write_text(
            f"# Boot sector\n.intel_syntax noprefix\n.code16\n.globl start\nstart:\n{code}\n.org 510\n.word 0xaa55\n"
        )
        _assemble(source, tmp_path, product)
        return product

    return build
