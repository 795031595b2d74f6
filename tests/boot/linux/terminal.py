"""A person at a terminal: `vmm run` on one end of a pseudo-terminal, what is typed and seen on the other."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.boot.conftest import environment

_CHUNK: Final = 65536


class Terminal:
    """A command on a terminal of 24 lines; use it as a context manager."""

    def __init__(self, words: Sequence[str], directory: Path) -> None:
        self.seen = ""
        self._read_up_to = 0
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            words,
            cwd=directory,
            env=environment() | {"TERM": "vt100"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        """Strike keys, all at once."""
        os.write(self._master, text.encode())

    def expect(self, pattern: str, limit: float = 120) -> re.Match[str]:
        """Wait until what came since the last match has a match."""
        deadline = time.monotonic() + limit
        while not (found := re.compile(pattern, re.MULTILINE).search(self.seen, self._read_up_to)):
            assert self._more(deadline), f"no {pattern!r} in {self.seen[self._read_up_to :]!r}"
        self._read_up_to = found.end()
        return found

    def status(self, limit: float = 60) -> int:
        """The command's exit status, once it ends."""
        deadline = time.monotonic() + limit
        while self._more(deadline):
            pass
        return self.process.wait(max(0.0, deadline - time.monotonic()))

    def _more(self, deadline: float) -> bool:
        """Read what there is; false at the end or when the time is over."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        try:
            data = os.read(self._master, _CHUNK) if ready else b""
        except OSError:  # Linux says EIO when nobody has the other end open any more
            return False
        self.seen += data.decode("latin-1")
        return bool(data)
