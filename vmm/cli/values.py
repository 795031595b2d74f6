"""Single values of the command line, each checked by itself."""

import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vmm.engines.names import EngineName
from vmm.errors import ConfigError
from vmm.trace import KINDS, OF_TRANSLATION

MIB: Final = 1 << 20
MEMORY_MIN: Final = MIB
MEMORY_MAX: Final = 2048 * MIB
MEMORY_STEP: Final = 4096  # RAM comes in pages
SIZE_UNITS: Final[Mapping[str, int]] = {"": MIB, "K": 1 << 10, "M": MIB, "G": 1 << 30}
ADDRESS_MAX: Final = 1 << 32


def parse_size(text: str) -> int:
    """Guest RAM in bytes: `64M`, `1G`, `1536K`, or a bare number of MiB.

    Raises: ConfigError: no size, not whole pages, or outside 1M to 2G.
    """
    match = re.fullmatch(r"(-?\d{1,18})([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"--memory: expected a size such as 64M or 1G, not {text!r}")
    size = int(match[1]) * SIZE_UNITS[match[2].upper()]
    if not MEMORY_MIN <= size <= MEMORY_MAX or size % MEMORY_STEP:
        raise ConfigError(f"--memory: expected 1M to 2G in steps of 4K, not {text!r}")
    return size


def parse_flat(text: str) -> tuple[Path, int]:
    """`FILE@ADDR`, the address as Python writes numbers (0x7C00, 31744).

    Raises: ConfigError: no `@`, no number, beyond 4 GiB, or no such file.
    """
    name, at, address = text.rpartition("@")
    try:
        value = int(address, 0)
    except ValueError:
        at = ""
    if not at or not 0 <= value < ADDRESS_MAX:
        raise ConfigError(
            f"--flat: expected FILE@ADDR with an address below 4 GiB, such as kernel.bin@0x100000, not {text!r}"
        )
    return input_file(name, "--flat"), value


def parse_trace_kinds(text: str | None, engine: EngineName) -> frozenset[str]:
    """A comma-separated list of trace kinds; `all` stands for every one that the engine has.

    Raises: ConfigError: an unknown kind, or one that the engine does not have; the message lists them.
    """
    if text is None:
        return frozenset()
    kinds = [kind for kind in KINDS if engine.has_translation or kind not in OF_TRANSLATION]
    given = {word.strip() for word in text.split(",")} - {""}
    if given == {"all"}:
        return frozenset(kinds)
    if unknown := sorted(given - set(KINDS)):
        raise ConfigError(f"--trace: unknown kind {unknown[0]!r}; known are {', '.join(KINDS)}, or all")
    if missing := sorted(given - set(kinds)):
        raise ConfigError(
            f"--trace {missing[0]} with --engine {engine}: nothing is rewritten there; --engine translate expected"
        )
    if not given:
        raise ConfigError(f"--trace: expected any of {', '.join(KINDS)}, or all")
    return frozenset(given)


def input_file(name: str, option: str) -> Path:
    """A file or block device that can be read and is not empty. A pipe is not opened: that could wait for ever.

    Raises: ConfigError: it is none.
    """
    path = Path(name)
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise ConfigError(f"{option}: {name} is a directory, expected a file")
        if not (stat.S_ISREG(facts.st_mode) or stat.S_ISBLK(facts.st_mode)):
            raise ConfigError(f"{option}: {name} is neither a file nor a block device")
        if stat.S_ISREG(facts.st_mode) and not facts.st_size:
            raise ConfigError(f"{option}: {name} is empty")
        with path.open("rb"):
            return path
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"{option}: cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from None


def output_file(name: str | None, option: str) -> Path | None:
    """A file that could be written: nothing is created here.

    Raises: ConfigError: its directory is missing or read-only, or it is a directory itself.
    """
    if name is None:
        return None
    path = Path(name)
    if not name or path.is_dir():
        raise ConfigError(f"{option}: {name!r} is a directory, expected a file name")
    if not path.parent.is_dir():
        raise ConfigError(f"{option}: there is no directory {str(path.parent)!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{option}: cannot write {name!r}: permission denied")
    return path


def choice(value: str, option: str, allowed: tuple[str, ...]) -> str:
    """One of a few words. Raises: ConfigError: another one."""
    if value not in allowed:
        raise ConfigError(f"{option}: expected {' or '.join(allowed)}, not {value!r}")
    return value


def parse_seconds(text: str | None) -> float | None:
    """`--timeout`: seconds above 0, fractions allowed. Raises: ConfigError: no such number."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"--timeout: expected a number of seconds above 0, not {text!r}")
    return seconds
