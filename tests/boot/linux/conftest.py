"""Linux guests under `vmm run`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boot.conftest import Run
from tests.boot.linux.guests import INITRAMFS, LIMIT, linux_image

Linux = Callable[..., Run]


@pytest.fixture
def boot(vmm) -> Linux:
    """Return `boot(kernel, append, *arguments)`: a `vmm run` of a kernel with the serial port in `serial.txt`."""

    def run(kernel: str, append: str, *more: object, initrd: Path | None = None, timeout: float = LIMIT) -> Run:
        files = ("--kernel", linux_image(kernel), "--initrd", initrd or linux_image(INITRAMFS))
        memory = () if "--memory" in more else ("--memory", "128M")
        return vmm(*files, "--append", append, "--serial", "serial.txt", *memory, *more, timeout=timeout)

    return run
