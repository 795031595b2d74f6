"""QEMU's TCG as the yardstick for a boot: the same image, the screen read through QMP until a pattern shows.

Source: QEMU documentation, "QEMU Machine Protocol Specification", "QEMU QMP Reference Manual" (`pmemsave`).
"""

import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from vmm.bench.peers import QEMU

_TEXT_MEMORY: Final = 0xB8000
_TEXT_SIZE: Final = 80 * 25 * 2
_POLL_SECONDS: Final = 0.02


class QemuError(Exception):
    """QEMU is not there, ended, or never showed what was waited for."""


def command_line(memory: int, *arguments: str) -> list[str]:
    """QEMU's command: no network (its boot ROM costs time), no window, `memory` in MiB."""
    machine = [QEMU, "-accel", "tcg", "-m", str(memory), "-display", "none", "-vga", "std", "-nic", "none"]
    return [*machine, "-monitor", "none", "-no-reboot", *arguments]


def cdrom(image: Path) -> list[str]:
    """Arguments that boot a CD."""
    return ["-drive", f"file={image},format=raw,if=ide,media=cdrom", "-boot", "d"]


def seconds_until(
    command: list[str], pattern: re.Pattern[str], limit: float, clock: Callable[[int], float] | None = None
) -> float:
    """Seconds from QEMU's command until its text screen matches: of the wall, or by the `clock` of a process.

    Raises: QemuError.
    """
    with tempfile.TemporaryDirectory() as folder:
        qmp = str(Path(folder) / "qmp")
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "-qmp", f"unix:{qmp},server=on,wait=off"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            with _Screen(process, qmp, started + limit) as screen:
                while not pattern.search(screen.text()):
                    if time.perf_counter() > started + limit:
                        raise QemuError(f"{pattern.pattern!r} did not show within {limit:g} s")
                    time.sleep(_POLL_SECONDS)
                return clock(process.pid) if clock else time.perf_counter() - started
        finally:
            process.kill()
            process.communicate()


class _Screen:
    """QEMU's text memory, through QMP."""

    def __init__(self, process: subprocess.Popen[str], path: str, deadline: float) -> None:
        self._process = process
        self._dump = Path(path).with_name("screen")
        self._socket = self._connect(path, deadline)
        self._lines = self._socket.makefile("rw", encoding="utf-8")
        self._answer()  # the greeting
        self._call("qmp_capabilities")

    def __enter__(self) -> "_Screen":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._lines.close()
        self._socket.close()

    def text(self) -> str:
        """The characters on the screen; line ends are not marked."""
        self._call("pmemsave", val=_TEXT_MEMORY, size=_TEXT_SIZE, filename=str(self._dump))
        return self._dump.read_bytes()[::2].decode("cp437")

    def _connect(self, path: str, deadline: float) -> socket.socket:
        while time.perf_counter() < deadline:
            if self._process.poll() is not None:
                raise QemuError(f"ended with status {self._process.returncode}: {self._said()}")
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(path)
            except OSError:
                connection.close()
                time.sleep(_POLL_SECONDS)
            else:
                return connection
        raise QemuError("its monitor never answered")

    def _said(self) -> str:
        return self._process.stderr.read().strip() if self._process.stderr else ""

    def _call(self, name: str, **arguments: Any) -> None:
        self._lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self._lines.flush()
        self._answer()

    def _answer(self) -> None:
        """Read up to the next answer; events in between are of no interest."""
        for line in self._lines:
            said = json.loads(line)
            if "error" in said:
                raise QemuError(said["error"]["desc"])
            if "return" in said or "QMP" in said:
                return
        raise QemuError(f"closed its monitor: {self._said()}")
