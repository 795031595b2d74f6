"""The 256 words with which an ATA device describes itself.

Source: ATA/ATAPI-6 (T13/1410D), "IDENTIFY DEVICE", "IDENTIFY PACKET DEVICE"; words 51-58 as in ATA-3, words 4 and 5
as in ATA-1 ("Identify drive"), where the Bochs BIOS still looks for the sector size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vmm.devices.ata_drive import ULTRA_DMA
from vmm.devices.block import SECTOR

HEADS: Final = 16
SECTORS_PER_TRACK: Final = 63
MAX_CYLINDERS: Final = 16383
MAX_MULTIPLE: Final = 16

_WORDS: Final = 256
_MODEL: Final = "GLASSVISOR HARD DISK"
_CD_MODEL: Final = "GLASSVISOR CD-ROM"
_FIRMWARE: Final = "1.0"
_VERSIONS: Final = 0x7E  # word 80: ATA-1 to ATA/ATAPI-6
_MAX_LBA28: Final = (1 << 28) - 1
_CYCLE_NS: Final = 120  # words 65-68: multiword DMA mode 2, PIO mode 4
_PIO_3_AND_4: Final = 0x03
_DMA_0_TO_2: Final = 0x07
_VALID: Final = 1 << 14  # words 83, 84, 87: bit 14 set and bit 15 clear say that the words mean something


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """What of a disk IDENTIFY DEVICE shows that is not the same for all."""

    serial: str
    total: int
    heads: int
    sectors_per_track: int
    multiple: int
    write_cache: bool
    look_ahead: bool
    dma_mode: int


def _cylinders(total: int, heads: int, sectors: int) -> int:
    """Whole cylinders of a translation, 1 to 16383 ("CHS translation"); a part of the first counts as one."""
    return max(1, min(total // (heads * sectors), MAX_CYLINDERS))


def identify_disk(disk: DiskIdentity) -> bytes:
    """512 bytes of IDENTIFY DEVICE data."""
    default_cylinders = _cylinders(disk.total, HEADS, SECTORS_PER_TRACK)
    cylinders = _cylinders(disk.total, disk.heads, disk.sectors_per_track)
    capacity = cylinders * disk.heads * disk.sectors_per_track
    lba28 = min(disk.total, _MAX_LBA28)
    enabled = _COMMANDS_BASE | disk.write_cache << 5 | disk.look_ahead << 6
    return _pack(
        {
            0: 0x0040,  # fixed device
            1: default_cylinders,
            3: HEADS,
            4: SECTORS_PER_TRACK * SECTOR,  # unformatted bytes per track
            5: SECTOR,  # unformatted bytes per sector
            6: SECTORS_PER_TRACK,
            **_text(10, 10, disk.serial),
            **_text(23, 4, _FIRMWARE),
            **_text(27, 20, _MODEL),
            47: 0x8000 | MAX_MULTIPLE,
            49: 1 << 8 | 1 << 9 | 1 << 11,  # DMA, LBA, IORDY
            50: _VALID,
            51: 0x0200,  # PIO timing mode 2
            53: 0x0007,  # words 54-58, 64-70 and 88 are valid
            54: cylinders,
            55: disk.heads,
            56: disk.sectors_per_track,
            **_number(57, capacity, 2),
            59: 1 << 8 | disk.multiple if disk.multiple else 0,
            **_number(60, lba28, 2),
            **_dma(disk.dma_mode),
            64: _PIO_3_AND_4,
            67: _CYCLE_NS,
            68: _CYCLE_NS,
            80: _VERSIONS,
            82: _COMMANDS_BASE | 1 << 5 | 1 << 6,
            83: _COMMANDS_MORE,
            84: _VALID,
            85: enabled,
            86: _COMMANDS_MORE & ~_VALID,
            87: _VALID,
            **_number(100, disk.total, 4),
        }
    )


_COMMANDS_BASE: Final = 1 << 3  # power management; NOP, DEVICE RESET, buffers, SMART, security, removable: not
_COMMANDS_MORE: Final = _VALID | 1 << 10 | 1 << 12 | 1 << 13  # 48-bit addresses, FLUSH CACHE, FLUSH CACHE EXT


def identify_cdrom(serial: str, dma_mode: int) -> bytes:
    """512 bytes of IDENTIFY PACKET DEVICE data."""
    supported = 1 << 4 | 1 << 9  # PACKET, DEVICE RESET
    return _pack(
        {
            0: 2 << 14 | 5 << 8 | 1 << 7 | 2 << 5,  # ATAPI, CD-ROM, removable, DRQ within 50 us, 12-byte packets
            **_text(10, 10, serial),
            **_text(23, 4, _FIRMWARE),
            **_text(27, 20, _CD_MODEL),
            49: 1 << 8 | 1 << 9 | 1 << 11,  # DMA, LBA, IORDY
            50: _VALID,
            51: 0x0200,
            53: 0x0006,
            **_dma(dma_mode),
            64: _PIO_3_AND_4,
            67: _CYCLE_NS,
            68: _CYCLE_NS,
            80: _VERSIONS,
            82: supported,
            83: _VALID,
            84: _VALID,
            85: supported,
            87: _VALID,
        }
    )


def _dma(mode: int) -> dict[int, int]:
    """Multiword DMA and Ultra DMA: modes 0-2 of both, and in the high byte which one is selected; cycle times."""
    selected = 1 << 8 + (mode & 7)
    return {
        63: _DMA_0_TO_2 | (0 if mode & ULTRA_DMA else selected),
        65: _CYCLE_NS,
        66: _CYCLE_NS,
        88: _DMA_0_TO_2 | (selected if mode & ULTRA_DMA else 0),
    }


def _pack(words: Mapping[int, int]) -> bytes:
    """Words to bytes, closed by the integrity word: signature A5h, then the byte that makes the sum 0 (word 255)."""
    data = b"".join(words.get(n, 0).to_bytes(2, "little") for n in range(_WORDS - 1)) + b"\xa5"
    return data + bytes((-sum(data) & 0xFF,))


def _text(first: int, words: int, text: str) -> dict[int, int]:
    """An ATA string: padded with spaces, the first character of each pair in the high byte."""
    raw = text.encode("ascii")[: words * 2].ljust(words * 2)
    return {first + n: raw[2 * n] << 8 | raw[2 * n + 1] for n in range(words)}


def _number(first: int, value: int, words: int) -> dict[int, int]:
    return {first + n: value >> 16 * n & 0xFFFF for n in range(words)}
