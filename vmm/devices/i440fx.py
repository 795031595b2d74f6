"""Intel 82441FX (440FX): the host bridge, PCI function 00:00.0. Which memory shows below 1 MiB.

Source: Intel 440FX PCIset, 82441FX (PMC) data sheet, "PAM-Programmable Attribute Map Registers", "SMRAM-System
Management RAM Control Register"; registers and their default values from "PCI Configuration Registers".
Not modelled: DRAM rows, timing, refresh and ECC, the L2 cache, the turbo reset register (kept and read back, no
effect; the rows too, as their defaults say nothing of the memory there is); system management mode, so that SMRAM is
seen only while it is open.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from vmm.devices.pci import Config, PciFunction, PciIdentity
from vmm.devices.snapshot import wired

IDENTITY: Final = PciIdentity(vendor=0x8086, device=0x1237, class_code=0x060000, revision=0x02)


class Pam(IntFlag):
    """Attributes of one memory segment: which of its accesses go to DRAM. The others go to PCI, where the ROMs are."""

    RE = 1 << 0
    WE = 1 << 1


class Smram(IntFlag):
    """SMRAM control register."""

    G_SMRAME = 1 << 3  # enable
    D_LCK = 1 << 4  # lock, until reset
    D_CLS = 1 << 5
    D_OPEN = 1 << 6  # visible outside system management mode


class Register(IntEnum):
    """Registers of the bridge."""

    PAM0 = 0x59
    SMRAM = 0x72


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of addresses with attributes of its own: PAM register 0-6, and the lowest bit of its field there."""

    base: int
    size: int
    register: int
    shift: int


def _segments() -> tuple[Segment, ...]:
    """PAM0[5:4] is the 64 KiB of the BIOS; PAM1-PAM6 have two fields of 16 KiB each, from C0000h up."""
    parts = [Segment(0xC0000 + 0x4000 * n, 0x4000, 1 + n // 2, 4 * (n % 2)) for n in range(12)]
    return (*parts, Segment(0xF0000, 0x10000, 0, 4))


SEGMENTS: Final = _segments()
_ATTRIBUTES: Final = int(Pam.RE | Pam.WE)
_COMMAND: Final = 0x0006  # memory and bus master
_STATUS: Final = 0x0280  # DEVSEL# medium, fast back-to-back
_SMRAM_BITS: Final = int(Smram.G_SMRAME | Smram.D_LCK | Smram.D_CLS | Smram.D_OPEN)
_SMRAM_SEGMENT: Final = 0x02  # C_BASE_SEG: A0000h, the only choice
_DEFAULTS: Final = {Config.COMMAND: _COMMAND & 0xFF, Config.STATUS: _STATUS & 0xFF, Config.STATUS + 1: _STATUS >> 8}
_KEPT: Final = (
    *range(0x50, 0x59),  # PMCCFG, DETURBO, DBC, AXC, DRT, DRAMC, DRAMT
    *range(0x60, 0x69),  # DRB0-DRB7, FDHC
    0x70, 0x71,  # MTT, CLT
    0x90, 0x91, 0x93,  # ERRCMD, ERRSTS, TRC
)  # fmt: skip
_DRAM_ROWS: Final = range(0x60, 0x68)


@dataclass(slots=True, kw_only=True)
class I440fx(PciFunction):
    """`on_pam(number, attributes)` is told what bits of `Pam` a segment of `SEGMENTS` has now, when they change.

    `on_smram(is_open)` is told when the DRAM at A0000h-BFFFFh begins or ceases to show.
    """

    identity: PciIdentity = wired(default=IDENTITY)
    on_pam: Callable[[int, int], None] = wired()
    on_smram: Callable[[bool], None] = wired()
    shown: list[int] = wired(default_factory=lambda: [0] * len(SEGMENTS))
    smram_open: bool = wired(default=False)

    def __post_init__(self) -> None:
        PciFunction.__post_init__(self)
        self.preset(_DEFAULTS, _KEPT)
        for row in _DRAM_ROWS:
            self.set(row, 1, 0x01)
        self.allow(Register.PAM0, 1, _ATTRIBUTES << 4)
        for register in range(1, 7):
            self.allow(Register.PAM0 + register, 1, _ATTRIBUTES << 4 | _ATTRIBUTES)
        self.set(Register.SMRAM, 1, _SMRAM_SEGMENT)
        self._lock_smram()
        self.power_on()

    def written(self, offset: int, width: int) -> None:
        """Show what the PAM and SMRAM registers say now."""
        for number, segment in enumerate(SEGMENTS):
            attributes = self.config[Register.PAM0 + segment.register] >> segment.shift & _ATTRIBUTES
            if attributes != self.shown[number]:
                self.shown[number] = attributes
                self.on_pam(number, attributes)
        self._lock_smram()
        value = self.config[Register.SMRAM]
        is_open = bool(value & Smram.D_OPEN and value & Smram.G_SMRAME)
        if is_open != self.smram_open:
            self.smram_open = is_open
            self.on_smram(is_open)

    def _lock_smram(self) -> None:
        """D_LCK closes SMRAM and makes all of the register but D_CLS read-only."""
        locked = self.config[Register.SMRAM] & Smram.D_LCK
        if locked:
            self.config[Register.SMRAM] &= ~int(Smram.D_OPEN)
        self.allow(Register.SMRAM, 1, int(Smram.D_CLS) if locked else _SMRAM_BITS)
