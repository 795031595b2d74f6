"""C programs for the cases: compiled for the guest as flat code, and for the host to say what they must return."""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from vmm.bench.image import GUEST

COMPILER: Final = "gcc"
_COMMON: Final = ("-O2", "-Wall", "-Werror", "-ffreestanding", "-fno-stack-protector", "-fcf-protection=none")
_GUEST: Final = ("-m32", "-march=pentium3", "-mno-sse", "-fno-pic", "-fno-asynchronous-unwind-tables", "-fno-builtin",
          "-fno-tree-loop-distribute-patterns")  # fmt: skip
_LINK: Final = ("-static", "-nostdlib", "-no-pie", "-Wl,--build-id=none", "-Wl,--oformat=binary")


class CompilerError(Exception):
    """There is no compiler, or it cannot compile for the guest."""


def compile_for_guest(name: str, address: int) -> bytes:
    """The program `guest/NAME.c` as machine code for an address, where its function `run` begins.

    Raises: CompilerError.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / name
        script = f"-Wl,-T,{GUEST / 'flat.ld'}"
        _compile(*_COMMON, *_GUEST, *_LINK, script, f"-Wl,--defsym=START={address:#x}", _source(name), "-o", str(out))
        return out.read_bytes()


def result_on_the_host(name: str) -> int:
    """What `run` of a program returns when the host runs it: 32 bits. Raises: CompilerError."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"{name}.so"
        _compile(*_COMMON, "-shared", "-fPIC", _source(name), "-o", str(out))
        function = ctypes.CDLL(str(out)).run
        function.restype = ctypes.c_uint32
        return int(function())


def _source(name: str) -> str:
    return str(GUEST / f"{name}.c")


def _compile(*arguments: str) -> None:
    if shutil.which(COMPILER) is None:
        raise CompilerError(f"{COMPILER} is not installed")
    done = subprocess.run([COMPILER, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = next(iter(done.stderr.strip().splitlines()), f"status {done.returncode}")
        raise CompilerError(f"{COMPILER} cannot compile {arguments[-3]}: {said}")
