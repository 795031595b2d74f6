"""The host's side of an ATA cable, as a driver would write it, for the tests of the devices."""

from collections.abc import Sequence

from vmm.devices.ata import AtaDisk
from vmm.devices.ata_channel import AtaChannel
from vmm.devices.ata_drive import AtaDrive
from vmm.devices.atapi import AtapiCdrom
from vmm.devices.atapi_unit import CdromUnit
from vmm.devices.block import BlockDevice, MediumError, RamDisk

DATA, ERROR, COUNT, LOW, MID, HIGH, DEVICE, STATUS = range(8)
BSY, DRDY, DF, DSC, DRQ, ERR = 0x80, 0x40, 0x20, 0x10, 0x08, 0x01
READY = DRDY | DSC
NIEN, SRST, HOB = 0x02, 0x04, 0x80


def sectors(count: int) -> RamDisk:
    """A disk each of whose sectors is full of its own number."""
    return RamDisk(bytearray(b"".join(n.to_bytes(4, "little") * 128 for n in range(count))))


class BadSectors(RamDisk):
    """A disk that fails from one byte on, like an image that has shrunk."""

    __slots__ = ("good",)

    def __init__(self, size: int, good: int) -> None:
        super().__init__(bytearray(size))
        self.good = good

    def read(self, offset: int, count: int) -> bytes:
        if offset + count > self.good:
            raise MediumError("gone")
        return super().read(offset, count)

    def write(self, offset: int, data: bytes) -> None:
        if offset + len(data) > self.good:
            raise MediumError("gone")
        super().write(offset, data)

    def flush(self) -> None:
        raise MediumError("gone")


class Host:
    """A channel with its devices; `irqs` collects the levels of INTRQ."""

    def __init__(self, device0: AtaDrive | None = None, device1: AtaDrive | None = None) -> None:
        self.irqs: list[bool] = []
        self.channel = AtaChannel(self.irqs.append, device0, device1)
        self.now = 0

    def wait(self) -> None:
        """Let virtual time run until nothing is due."""
        while (deadline := self.channel.next_deadline()) is not None:
            self.now = max(self.now, deadline)
            self.channel.advance(self.now)

    def inb(self, register: int) -> int:
        return self.channel.read(register, 1)

    def outb(self, register: int, value: int) -> None:
        self.channel.write(register, 1, value)

    def control(self, value: int) -> None:
        self.channel.write_control(0, 1, value)

    def alternate(self) -> int:
        return self.channel.read_control(0, 1)

    def task_file(self) -> tuple[int, ...]:
        """Error, count, the three LBA registers, device."""
        return tuple(self.inb(register) for register in range(ERROR, STATUS))

    def command(
        self, code: int, *, count: int = 0, lba: int | None = None, device: int = 0xE0, features: int = 0
    ) -> int:
        """Issue a command with an LBA28 address and wait; the alternate status."""
        self.outb(DEVICE, device | (0 if lba is None else lba >> 24 & 0xF))
        self.outb(ERROR, features)
        self.outb(COUNT, count & 0xFF)
        for register in (LOW, MID, HIGH) if lba is not None else ():
            self.outb(register, lba >> 8 * (register - LOW) & 0xFF)
        self.outb(STATUS, code)
        self.wait()
        return self.alternate()

    def command48(self, code: int, *, count: int, lba: int) -> int:
        self.outb(DEVICE, 0x40)
        for value, low in ((count >> 8, lba >> 24), (count, lba)):
            self.outb(COUNT, value & 0xFF)
            for n, register in enumerate((LOW, MID, HIGH)):
                self.outb(register, low >> 8 * n & 0xFF)
        self.outb(STATUS, code)
        self.wait()
        return self.alternate()

    def data_in(self, size: int, width: int = 2) -> bytes:
        data = self.channel.read_block(DATA, width, size // width)
        self.wait()
        return data

    def data_out(self, data: bytes, width: int = 2) -> None:
        self.channel.write_block(DATA, width, data)
        self.wait()

    def edges(self) -> int:
        """Rising edges of INTRQ since the last call."""
        count = sum(self.irqs)
        self.irqs.clear()
        return count

    def packet(self, packet: Sequence[int] | bytes, limit: int = 0xFFFE) -> tuple[bytes, int]:
        """Send a command packet and fetch its data; the data and the last status."""
        self.outb(DEVICE, 0xA0)
        self.outb(ERROR, 0)
        self.outb(MID, limit & 0xFF)
        self.outb(HIGH, limit >> 8)
        self.outb(STATUS, 0xA0)
        self.wait()
        assert (self.inb(STATUS), self.inb(COUNT)) == (READY | DRQ, 0x01)
        self.data_out(bytes(packet).ljust(12, b"\0"))
        data = b""
        while (status := self.inb(STATUS)) & DRQ:
            assert self.inb(COUNT) == 0x02
            size = self.inb(MID) | self.inb(HIGH) << 8
            data += self.data_in(size + 1 & ~1)[:size]
        assert self.inb(COUNT) & 0x03 == 0x03
        return data, status

    def sense(self) -> tuple[int, int, int]:
        """Sense key, additional sense code and qualifier."""
        data, _ = self.packet([0x03, 0, 0, 0, 18])
        return data[2], data[12], data[13]


def disk_host(disk: BlockDevice, latency_ns: int = 20_000) -> Host:
    return Host(AtaDisk(disk=disk, latency_ns=latency_ns))


def cd_host(disc: BlockDevice | None, latency_ns: int = 20_000) -> Host:
    return Host(AtapiCdrom(unit=CdromUnit(disc), latency_ns=latency_ns))
