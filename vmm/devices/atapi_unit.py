"""The logical unit behind an ATAPI CD-ROM drive: what each command packet means.

Source: SFF-8020i rev. 2.6, "Packet Commands"; MMC-3 (T10/1363D) for GET CONFIGURATION, GET EVENT STATUS NOTIFICATION,
READ DISC INFORMATION, READ CD.
The disc is one session with one mode 1 data track.
Not modelled: audio, raw sectors, MODE SELECT, and the unit attention after power-on: the POST of the firmware is taken
to have read it, as it has on a real machine by the time that an operating system starts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from vmm.devices.block import BlockDevice, MediumError
from vmm.devices.snapshot import load_fields, save_fields, wired

CD_BLOCK: Final = 2048


class Key(IntEnum):
    """Sense keys (SFF-8020i, "Sense Key Descriptions")."""

    NO_SENSE = 0x0
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6


class Sense(IntEnum):
    """Additional sense code in bits 15:8, qualifier in bits 7:0 (SFF-8020i, "ASC and ASCQ Assignments")."""

    NONE = 0x0000
    UNRECOVERED_READ_ERROR = 0x1100
    INVALID_COMMAND = 0x2000
    LBA_OUT_OF_RANGE = 0x2100
    INVALID_FIELD = 0x2400
    MEDIUM_CHANGED = 0x2800
    SAVING_NOT_SUPPORTED = 0x3900
    MEDIUM_NOT_PRESENT = 0x3A00
    REMOVAL_PREVENTED = 0x5302
    ILLEGAL_MODE_FOR_TRACK = 0x6400


class MediaEvent(IntEnum):
    """What GET EVENT STATUS NOTIFICATION has to report (MMC-3, "Media Class Events")."""

    NONE = 0
    NEW_MEDIA = 2
    REMOVAL = 3


class CheckCondition(Exception):
    """A packet that ends with CHECK CONDITION; the unit keeps the sense data for REQUEST SENSE."""

    def __init__(self, key: Key, sense: Sense) -> None:
        super().__init__(key, sense)
        self.key = key
        self.sense = sense


def _illegal(sense: Sense) -> CheckCondition:
    return CheckCondition(Key.ILLEGAL_REQUEST, sense)


@dataclass(slots=True)
class CdromUnit:
    """A CD-ROM unit with the disc `medium`, or empty.

    The answer to the last packet is `answer`, or `disc_count` bytes of the disc from byte `disc_start` on.
    """

    medium: BlockDevice | None = wired(default=None)
    tray_open: bool = False
    locked: bool = False
    key: Key = Key.NO_SENSE
    sense: Sense = Sense.NONE
    attention: bool = False  # the disc has been changed and the host not told yet
    event: MediaEvent = MediaEvent.NONE
    answer: bytes = b""
    disc_start: int = 0
    disc_count: int = 0
    last_block: int = 0

    def save(self) -> dict[str, Any]:
        return save_fields(self)

    def load(self, state: dict[str, Any]) -> None:
        load_fields(self, state)

    # -- the host's hand -----------------------------------------------------------------------------------------

    def insert(self, disc: BlockDevice) -> None:
        """Put a disc in and close the tray."""
        self.medium = disc
        self._close_tray()

    def remove(self) -> None:
        """Take the disc out by force, as with a paper clip: a lock does not hold it."""
        self.medium = None
        self.event = MediaEvent.REMOVAL

    def _close_tray(self) -> None:
        self.tray_open = False
        if self.medium is not None:
            self.attention = True
            self.event = MediaEvent.NEW_MEDIA

    # -- packets -------------------------------------------------------------------------------------------------

    def execute(self, packet: bytes) -> int:
        """Run a 12-byte packet; the length of the answer, whose bytes `answer_bytes` gives.

        Raises: CheckCondition, its sense data kept.
        """
        self.answer, self.disc_start, self.disc_count = b"", 0, 0
        opcode = packet[0]
        try:
            self._check_attention(opcode)
            if opcode != REQUEST_SENSE:
                self.key, self.sense = Key.NO_SENSE, Sense.NONE
            PACKETS.get(opcode, CdromUnit.invalid)(self, packet)
        except CheckCondition as condition:
            self._keep(condition)
            raise
        return len(self.answer) or self.disc_count

    def answer_bytes(self, offset: int, count: int) -> bytes:
        """Bytes of the answer. Raises: CheckCondition if the disc cannot be read."""
        if not self.disc_count:
            return self.answer[offset : offset + count]
        try:
            return self.disc().read(self.disc_start + offset, count)
        except MediumError:
            condition = CheckCondition(Key.MEDIUM_ERROR, Sense.UNRECOVERED_READ_ERROR)
            self._keep(condition)
            raise condition from None
        except CheckCondition as condition:
            self._keep(condition)
            raise

    def _keep(self, condition: CheckCondition) -> None:
        self.key, self.sense = condition.key, condition.sense

    def _check_attention(self, opcode: int) -> None:
        """Report a change of disc once (SFF-8020i, "Unit Attention Condition")."""
        if self.attention and opcode not in _DESPITE_ATTENTION:
            self.attention = False
            raise CheckCondition(Key.UNIT_ATTENTION, Sense.MEDIUM_CHANGED)

    def disc(self) -> BlockDevice:
        """The disc in the closed tray. Raises: CheckCondition, NOT READY."""
        if self.tray_open or self.medium is None:
            raise CheckCondition(Key.NOT_READY, Sense.MEDIUM_NOT_PRESENT)
        return self.medium

    def blocks(self) -> int:
        return self.disc().size // CD_BLOCK

    def invalid(self, packet: bytes) -> None:
        raise _illegal(Sense.INVALID_COMMAND)

    def test_unit_ready(self, packet: bytes) -> None:
        self.disc()

    def request_sense(self, packet: bytes) -> None:
        """REQUEST SENSE: report and clear; a pending unit attention if there is nothing else."""
        if self.key is Key.NO_SENSE and self.attention:
            self.attention = False
            self.key, self.sense = Key.UNIT_ATTENTION, Sense.MEDIUM_CHANGED
        data = bytes((0x70, 0, self.key, 0, 0, 0, 0, 10, 0, 0, 0, 0)) + self.sense.to_bytes(2, "big") + bytes(4)
        self.key, self.sense = Key.NO_SENSE, Sense.NONE
        self.answer = data[: packet[4]]

    def inquiry(self, packet: bytes) -> None:
        if packet[1] & 3 or packet[2]:  # vital product data, command support data
            raise _illegal(Sense.INVALID_FIELD)
        head = bytes((0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0))  # CD-ROM, removable, ATAPI response format
        names = b"GLASSVSR" + b"CD-ROM".ljust(16) + b"1.0".ljust(4)
        self.answer = (head + names)[: packet[4]]

    def start_stop(self, packet: bytes) -> None:
        """START STOP UNIT: LoEj moves the tray, which PREVENT ALLOW can lock."""
        start, eject = bool(packet[4] & 1), bool(packet[4] & 2)
        if not eject:
            if start:
                self.disc()
        elif start:
            if self.tray_open:
                self._close_tray()
        elif self.locked:
            raise _illegal(Sense.REMOVAL_PREVENTED)
        else:
            self.event = MediaEvent.REMOVAL if self.medium is not None else self.event
            self.tray_open = True

    def prevent_allow(self, packet: bytes) -> None:
        self.locked = bool(packet[4] & 1)

    def read_capacity(self, packet: bytes) -> None:
        self.answer = (self.blocks() - 1).to_bytes(4, "big") + CD_BLOCK.to_bytes(4, "big")

    def seek(self, packet: bytes) -> None:
        self._locate(int.from_bytes(packet[2:6], "big"), 1)

    def read_10(self, packet: bytes) -> None:
        self._stream(packet, int.from_bytes(packet[7:9], "big"))

    def read_12(self, packet: bytes) -> None:
        self._stream(packet, int.from_bytes(packet[6:10], "big"))

    def read_cd(self, packet: bytes) -> None:
        """READ CD, user data only: the other parts of a sector are not in an image."""
        wanted, sector_type = packet[9] & 0xF8, packet[1] >> 2 & 7
        if sector_type not in (0, 2):
            raise _illegal(Sense.ILLEGAL_MODE_FOR_TRACK)
        if packet[10] & 7 or wanted not in (0, 0x10):
            raise _illegal(Sense.INVALID_FIELD)
        self._stream(packet, int.from_bytes(packet[6:9], "big") if wanted else 0)

    def _stream(self, packet: bytes, count: int) -> None:
        block = int.from_bytes(packet[2:6], "big")
        self._locate(block, count)
        self.disc_start, self.disc_count = block * CD_BLOCK, count * CD_BLOCK

    def _locate(self, block: int, count: int) -> None:
        if block + count > self.blocks():
            raise _illegal(Sense.LBA_OUT_OF_RANGE)
        self.last_block = block

    def read_toc(self, packet: bytes) -> None:
        """READ TOC: format 0 the tracks, 1 the last session, 2 the Q channel of the lead-in."""
        lead_out, msf = self.blocks(), bool(packet[1] & 2)
        form = packet[2] & 0x0F or packet[9] >> 6  # MMC; SFF-8020i had it in the last byte
        if form == 0:
            data = _toc_tracks(packet[6], lead_out, msf=msf)
        elif form == 1:
            data = bytes((1, 1, 0, _DATA_TRACK, 1, 0)) + address(0, msf=msf)
        elif form == 2:
            data = _toc_raw(lead_out)
        else:
            raise _illegal(Sense.INVALID_FIELD)
        self.answer = (len(data).to_bytes(2, "big") + data)[: _allocation(packet)]

    def read_subchannel(self, packet: bytes) -> None:
        """READ SUB-CHANNEL: the position, and no catalogue numbers; nothing ever plays."""
        form = packet[3]
        if not packet[2] & 0x40:
            data = b""
        elif form == 1:
            msf = bool(packet[1] & 2)
            place = address(self.last_block, msf=msf)
            data = bytes((1, _DATA_TRACK, 1, 1)) + place + (address(self.last_block, msf=msf, gap=0) if msf else place)
        elif form in (2, 3):
            data = bytes((form,)) + bytes(19)
        else:
            raise _illegal(Sense.INVALID_FIELD)
        self.disc()
        header = bytes((0, _NO_AUDIO_STATUS)) + len(data).to_bytes(2, "big")
        self.answer = (header + data)[: _allocation(packet)]

    def get_configuration(self, packet: bytes) -> None:
        """GET CONFIGURATION: the features of a CD-ROM drive, from the asked number on."""
        kind, first = packet[1] & 3, int.from_bytes(packet[2:4], "big")
        numbers = [n for n in _FEATURES if (n == first if kind == 2 else n >= first)]
        profile = _PROFILE_CD_ROM if self.medium is not None and not self.tray_open else 0
        data = bytes((0, 0)) + profile.to_bytes(2, "big") + b"".join(_FEATURES[n] for n in numbers)
        self.answer = (len(data).to_bytes(4, "big") + data)[: _allocation(packet)]

    def get_event_status(self, packet: bytes) -> None:
        """GET EVENT STATUS NOTIFICATION, polled, media class only."""
        if not packet[1] & 1:
            raise _illegal(Sense.INVALID_FIELD)
        if packet[4] & _MEDIA_CLASS:
            present = 0 if self.medium is None else 2
            data = bytes((0, 6, 4, _MEDIA_CLASS, self.event, present | self.tray_open, 0, 0))
            self.event = MediaEvent.NONE
        else:
            data = bytes((0, 2, 0x80, _MEDIA_CLASS))
        self.answer = data[: _allocation(packet)]

    def read_disc_information(self, packet: bytes) -> None:
        """READ DISC INFORMATION: one complete session, finished disc."""
        self.disc()
        data = bytes((0, 32, 0x0E, 1, 1, 1, 1, 0x20)) + bytes(8) + b"\xff" * 8 + bytes(10)
        self.answer = data[: _allocation(packet)]

    def mode_sense(self, packet: bytes) -> None:
        """MODE SENSE(10); there are no changeable values."""
        control, page = packet[2] >> 6, packet[2] & 0x3F
        if control == 3:
            raise _illegal(Sense.SAVING_NOT_SUPPORTED)
        pages = {**_MODE_PAGES, 0x2A: self._capabilities()}
        wanted = pages.values() if page == 0x3F else [pages[page]] if page in pages else None
        if wanted is None:
            raise _illegal(Sense.INVALID_FIELD)
        body = b"".join(text[:2] + bytes(len(text) - 2) if control == 1 else text for text in wanted)
        medium = 0x71 if self.tray_open else 0x70 if self.medium is None else 0x01
        data = (len(body) + 6).to_bytes(2, "big") + bytes((medium, 0, 0, 0, 0, 0)) + body
        self.answer = data[: _allocation(packet)]

    def _capabilities(self) -> bytes:
        """Page 2Ah: a tray that can be locked and moved, 4x speed, 128 KB of buffer, and no more."""
        speed = (706).to_bytes(2, "big")
        lock = 0x29 | self.locked << 1
        return bytes((0x2A, 18, 0, 0, 0, 0, lock, 0)) + speed + bytes(2) + b"\x00\x80" + speed + bytes(4)

    def mechanism_status(self, packet: bytes) -> None:
        data = bytes((0, 0x10 * self.tray_open)) + self.last_block.to_bytes(3, "big") + bytes(3)
        self.answer = data[: int.from_bytes(packet[8:10], "big")]

    def accept(self, packet: bytes) -> None:
        """A command that changes nothing here."""


def _allocation(packet: bytes) -> int:
    return int.from_bytes(packet[7:9], "big")


def address(block: int, *, msf: bool, gap: int = 150) -> bytes:
    """A CD address in four bytes, as a block or as minute, second, frame after the two-second gap."""
    if not msf:
        return block.to_bytes(4, "big")
    seconds, frame = divmod(block + gap, 75)
    return bytes((0, seconds // 60 & 0xFF, seconds % 60, frame))


def _toc_tracks(start: int, lead_out: int, *, msf: bool) -> bytes:
    if start > 1 and start != _LEAD_OUT:
        raise _illegal(Sense.INVALID_FIELD)
    tracks = [(1, 0), (_LEAD_OUT, lead_out)] if start <= 1 else [(_LEAD_OUT, lead_out)]
    return bytes((1, 1)) + b"".join(bytes((0, _DATA_TRACK, n, 0)) + address(at, msf=msf) for n, at in tracks)


def _toc_raw(lead_out: int) -> bytes:
    """The points A0h (first track), A1h (last track), A2h (lead-out) and track 1; addresses are always MSF."""
    points = [
        (0xA0, bytes((0, 1, 0, 0))),
        (0xA1, bytes((0, 1, 0, 0))),
        (0xA2, address(lead_out, msf=True)),
        (1, address(0, msf=True)),
    ]
    return bytes((1, 1)) + b"".join(bytes((1, _DATA_TRACK, 0, point, 0, 0, 0)) + place for point, place in points)


_DATA_TRACK: Final = 0x14  # ADR 1, control 4: data, no copying
_LEAD_OUT: Final = 0xAA
_NO_AUDIO_STATUS: Final = 0x15
_MEDIA_CLASS: Final = 1 << 4
_PROFILE_CD_ROM: Final = 0x0008

# MMC-3, "Features": code, version/persistent/current, additional length, body.
_FEATURES: Final[Mapping[int, bytes]] = {
    0x0000: bytes.fromhex("0000 03 04 0008 01 00"),  # profile list: CD-ROM
    0x0001: bytes.fromhex("0001 03 04 00000002"),  # core: ATAPI
    0x0003: bytes.fromhex("0003 03 04 29 000000"),  # removable medium: tray, eject, lock
    0x0010: bytes.fromhex("0010 01 08 00000800 0001 00 00"),  # random readable: 2048-byte blocks
    0x001E: bytes.fromhex("001E 01 04 00 000000"),  # CD read
}
_MODE_PAGES: Final[Mapping[int, bytes]] = {
    0x01: bytes.fromhex("01 06 00 05 00 00 00 00"),  # read error recovery: five retries
    0x0D: bytes.fromhex("0D 06 00 00 003C 004B"),  # CD-ROM: 60 seconds a minute, 75 frames a second
}

REQUEST_SENSE: Final = 0x03
_INQUIRY: Final = 0x12
_GET_CONFIGURATION: Final = 0x46
_GET_EVENT_STATUS: Final = 0x4A
_DESPITE_ATTENTION: Final = frozenset({REQUEST_SENSE, _INQUIRY, _GET_CONFIGURATION, _GET_EVENT_STATUS})

PACKETS: Final[Mapping[int, Callable[[CdromUnit, bytes], None]]] = {
    0x00: CdromUnit.test_unit_ready,
    REQUEST_SENSE: CdromUnit.request_sense,
    _INQUIRY: CdromUnit.inquiry,
    0x1B: CdromUnit.start_stop,
    0x1E: CdromUnit.prevent_allow,
    0x25: CdromUnit.read_capacity,
    0x28: CdromUnit.read_10,
    0x2B: CdromUnit.seek,
    0x42: CdromUnit.read_subchannel,
    0x43: CdromUnit.read_toc,
    _GET_CONFIGURATION: CdromUnit.get_configuration,
    _GET_EVENT_STATUS: CdromUnit.get_event_status,
    0x51: CdromUnit.read_disc_information,
    0x5A: CdromUnit.mode_sense,
    0xA8: CdromUnit.read_12,
    0xBB: CdromUnit.accept,  # SET CD SPEED
    0xBD: CdromUnit.mechanism_status,
    0xBE: CdromUnit.read_cd,
}
