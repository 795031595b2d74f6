"""A kernel file given by the user: recognised by its content and laid out by its boot protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from firmware import elf, linux, linux_header, multiboot, pvh
from firmware.bootimage import BootImage, MemoryRange
from vmm.errors import ConfigError

_LOOKED_FOR: Final = (
    f"a Linux setup header (HdrS at {linux_header.MAGIC_AT:X}h), a Multiboot header (in the first {multiboot.SEARCH} "
    "bytes), an ELF file with a PVH note (Xen, type 18)"
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel with what the user gives it; a module is a pair of contents and command line.

    A Multiboot kernel is told its own `name` in front of its command line, as modules are told theirs. An initrd is its
    first module.
    """

    image: bytes
    command_line: str = ""
    initrd: bytes | None = None
    modules: tuple[tuple[bytes, str], ...] = ()
    name: str = ""
    initrd_name: str = ""

    def lay_out(self, memory: Sequence[MemoryRange]) -> BootImage:
        """Put it into memory as its boot protocol says. Raises: ConfigError: it is no kernel, or does not fit."""
        image = self.image
        if linux_header.has_header(image):
            if self.modules:
                raise ConfigError("--module goes with Multiboot and PVH kernels; this is a Linux image, give --initrd")
            return linux.load(image, self.initrd, self.command_line, memory)
        if multiboot.has_header(image):
            words = " ".join(filter(None, (self.name, self.command_line)))
            return multiboot.load(image, self._all_modules(self.initrd_name), words, memory)
        if image.startswith(elf.MAGIC) and pvh.entry_of(image) is not None:
            return pvh.load(image, self._all_modules(""), self.command_line, memory)
        raise self._problem()

    def _all_modules(self, initrd_line: str) -> tuple[tuple[bytes, str], ...]:
        first = () if self.initrd is None else ((self.initrd, initrd_line),)
        return (*first, *self.modules)

    def _problem(self) -> ConfigError:
        """What is wrong with a file that is none of the kernels that we know."""
        if multiboot.has_magic(self.image):
            try:
                multiboot.find_header(self.image)
            except ConfigError as error:
                return error
        what = "an ELF file" if self.image.startswith(elf.MAGIC) else f"a file of {len(self.image)} bytes"
        return ConfigError(f"the kernel is {what} that has none of: {_LOOKED_FOR}")
