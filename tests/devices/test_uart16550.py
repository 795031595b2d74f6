"""The 16550 against its data sheet."""

import json

import pytest

from vmm.devices.uart16550 import Uart16550

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
FCR = IIR
OUT2, LOOP = 0x08, 0x10
RDI, THRI, RLSI, MSI = 1, 2, 4, 8
NONE = 0x01
CHARACTER_NS = 10 * 16 * 1_000_000_000 // 1_843_200  # 8N1, divisor 1


class Bench:
    def __init__(self, ier=0, fcr=0, mcr=OUT2, lcr=0x03):
        self.irqs, self.sent = [], bytearray()
        self.uart = Uart16550(self.irqs.append, self.sent.append)
        for offset, value in ((LCR, lcr), (FCR, fcr), (MCR, mcr), (IER, ier)):
            self.uart.write(offset, value)
        self.read, self.write, self.receive = self.uart.read, self.uart.write, self.uart.receive

    @property
    def irq(self):
        return self.uart.irq

    def iir(self):
        return self.read(IIR) & 0x0F

    def drain(self):
        out = bytearray()
        while self.read(LSR) & 0x01:
            out.append(self.read(DATA))
        return bytes(out)


# Registers


@pytest.mark.parametrize(
    ("offset", "value"),
    [(IER, 0x00), (IIR, 0x01), (LCR, 0x00), (MCR, 0x00), (LSR, 0x60), (MSR, 0xB0), (SCR, 0x00)],
)
def test_register_after_reset(offset, value):
    uart = Uart16550(pytest.fail, pytest.fail)
    uart.reset()
    assert uart.read(offset) == value


@pytest.mark.parametrize(
    ("offset", "written", "read"),
    [(IER, 0xF5, 0x05), (LCR, 0x7B, 0x7B), (MCR, 0xE3, 0x03), (SCR, 0xA5, 0xA5), (LSR, 0xFF, 0x60), (MSR, 0xFF, 0xB0)],
)
def test_register_keeps_the_bits_it_has(offset, written, read):
    bench = Bench()
    bench.write(offset, written)
    assert bench.read(offset) == read


def test_dlab_gives_access_to_the_divisor_and_hides_data_and_ier():
    bench = Bench(ier=RDI)
    bench.write(LCR, 0x83)
    bench.write(DATA, 0x80)
    bench.write(IER, 0x01)
    assert (bench.read(DATA), bench.read(IER), bench.uart.divisor) == (0x80, 0x01, 0x0180)
    bench.write(LCR, 0x03)
    assert bench.read(IER) == RDI
    assert bench.sent == b""


@pytest.mark.parametrize(("lcr", "sent"), [(0, 0x1F), (1, 0x3F), (2, 0x7F), (3, 0xFF)])
def test_the_word_length_cuts_what_is_sent(lcr, sent):
    bench = Bench(lcr=lcr)
    bench.write(DATA, 0xFF)
    assert bench.sent == bytes([sent])


# Transmitter


def test_thre_and_temt_are_set_after_each_byte():
    bench = Bench()
    for byte in b"hello":
        assert bench.read(LSR) & 0x60 == 0x60
        bench.write(DATA, byte)
    assert bench.sent == b"hello"


def test_enabling_thre_raises_it_and_reading_iir_clears_it():
    bench = Bench(ier=THRI)
    assert bench.irq
    assert bench.iir() == 0x02
    assert not bench.irq
    assert bench.iir() == NONE


def test_each_write_to_thr_makes_a_new_edge():
    bench = Bench(ier=THRI)
    bench.irqs.clear()
    bench.write(DATA, 0x41)
    bench.write(DATA, 0x42)
    assert bench.irqs == [False, True, False, True]


def test_writing_ier_again_does_not_raise_thre_again():
    bench = Bench(ier=THRI)
    bench.iir()
    bench.write(IER, THRI)
    assert not bench.irq
    bench.write(IER, 0)
    bench.write(IER, THRI)
    assert bench.irq


def test_reading_iir_for_another_source_leaves_thre_pending():
    bench = Bench(ier=THRI | RDI)
    bench.receive(b"x")
    assert bench.iir() == 0x04
    assert bench.read(DATA) == ord("x")
    assert bench.iir() == 0x02


# Receiver


def test_without_fifo_one_byte_is_taken():
    bench = Bench(ier=RDI)
    assert bench.receive(b"ab") == 1
    assert (bench.irq, bench.iir(), bench.read(LSR)) == (True, 0x04, 0x61)
    assert bench.uart.room() == 0
    assert bench.read(DATA) == ord("a")
    assert (bench.irq, bench.read(LSR), bench.uart.room()) == (False, 0x60, 1)


def test_an_empty_receiver_reads_as_zero():
    assert Bench().read(DATA) == 0


def test_the_fifo_takes_sixteen():
    bench = Bench(fcr=0x01)
    assert bench.receive(bytes(range(40))) == 16
    assert bench.receive(b"x") == 0
    assert bench.drain() == bytes(range(16))


@pytest.mark.parametrize(("fcr", "trigger"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_the_trigger_level_raises_and_drops_received_data(fcr, trigger):
    bench = Bench(ier=RDI, fcr=fcr)
    bench.receive(bytes(trigger - 1))
    assert not bench.irq
    bench.receive(b"x")
    assert bench.read(IIR) == 0xC4
    bench.read(DATA)
    assert not bench.irq


def test_the_time_out_comes_four_characters_after_the_last_event():
    bench = Bench(ier=RDI, fcr=0xC1)
    bench.uart.advance(1000)
    bench.receive(b"ab")
    due = 1000 + 4 * CHARACTER_NS
    assert bench.uart.next_deadline() == due
    bench.uart.advance(due - 1)
    assert not bench.irq
    bench.uart.advance(due)
    assert bench.iir() == 0x0C
    bench.read(DATA)
    assert not bench.irq
    assert bench.uart.next_deadline() == due + 4 * CHARACTER_NS
    bench.read(DATA)
    assert bench.uart.next_deadline() is None


@pytest.mark.parametrize(
    ("lcr", "divisor", "bits"),
    [(0x03, 1, 10), (0x03, 12, 10), (0x1B, 1, 11), (0x07, 1, 11), (0x02, 1, 9)],
)
def test_the_time_out_follows_the_line_settings(lcr, divisor, bits):
    bench = Bench(ier=RDI, fcr=0xC1)
    bench.write(LCR, 0x80)
    bench.write(DATA, divisor)
    bench.write(LCR, lcr)
    bench.receive(b"x")
    assert bench.uart.next_deadline() == 4 * (bits * 16 * divisor * 1_000_000_000 // 1_843_200)


def test_no_time_out_without_fifo():
    bench = Bench(ier=RDI)
    bench.receive(b"x")
    assert bench.uart.next_deadline() is None


@pytest.mark.parametrize("fcr", [0x03, 0x00], ids=["reset_bit", "disable"])
def test_fcr_empties_the_receiver(fcr):
    bench = Bench(fcr=0x01)
    bench.receive(b"abc")
    bench.write(FCR, fcr)
    assert bench.read(LSR) == 0x60


def test_fcr_bits_without_enable_are_not_programmed():
    bench = Bench()
    bench.write(FCR, 0xC0)
    assert (bench.uart.fcr, bench.read(IIR)) == (0, NONE)


def test_on_room_is_told_when_the_guest_has_read_and_nothing_is_lost():
    sent = bytearray(range(100))
    bench = Bench(fcr=0x01)

    def feed():
        del sent[: bench.receive(bytes(sent))]

    bench.uart.on_room = feed
    feed()
    assert bench.drain() == bytes(range(100))


# Errors


def test_a_break_is_a_zero_with_bi_and_fe_at_the_top_of_the_fifo():
    bench = Bench(ier=RLSI | RDI, fcr=0x01)
    bench.receive(b"a")
    assert bench.uart.receive_break()
    assert bench.read(LSR) == 0xE1  # an error in the FIFO, not at its top
    assert bench.read(DATA) == ord("a")
    assert bench.iir() == 0x06
    assert bench.read(LSR) == 0xF9
    assert bench.read(LSR) == 0x61
    assert bench.iir() == 0x04
    assert bench.read(DATA) == 0


def test_a_break_without_room_is_refused():
    bench = Bench()
    bench.receive(b"a")
    assert not bench.uart.receive_break()


def test_overrun_without_fifo_replaces_the_byte():
    bench = Bench(mcr=LOOP)
    bench.write(DATA, 0x41)
    bench.write(DATA, 0x42)
    assert bench.read(LSR) == 0x63
    assert bench.read(LSR) == 0x61
    assert bench.read(DATA) == 0x42


def test_overrun_with_fifo_loses_the_new_byte():
    bench = Bench(mcr=LOOP, fcr=0x01, ier=RLSI)
    for byte in range(17):
        bench.write(DATA, byte)
    assert bench.iir() == 0x06
    assert bench.drain() == bytes(range(16))


# Modem


def test_loopback_connects_the_outputs_to_the_inputs_and_sends_nothing():
    bench = Bench(mcr=LOOP)
    bench.write(DATA, 0x55)
    assert (bench.read(DATA), bench.sent, bench.uart.room(), bench.receive(b"x")) == (0x55, b"", 0, 0)


@pytest.mark.parametrize(("mcr", "msr"), [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80), (0x0A, 0x90)])
def test_loopback_crosses_the_modem_lines(mcr, msr):
    bench = Bench()
    bench.write(MCR, LOOP | mcr)
    assert bench.read(MSR) & 0xF0 == msr


@pytest.mark.parametrize(
    ("before", "after", "msr"),
    [
        pytest.param(0x00, 0x10, 0x11, id="dcts"),
        pytest.param(0x20, 0x00, 0x02, id="ddsr"),
        pytest.param(0x00, 0x40, 0x40, id="ri_leading_edge_is_no_change"),
        pytest.param(0x40, 0x00, 0x04, id="teri"),
        pytest.param(0x00, 0x80, 0x88, id="ddcd"),
        pytest.param(0xB0, 0xB0, 0xB0, id="no_change"),
    ],
)
def test_modem_changes_interrupt_and_reading_msr_clears_them(before, after, msr):
    bench = Bench()
    bench.uart.set_modem_lines(before)
    bench.read(MSR)
    bench.write(IER, MSI)
    bench.uart.set_modem_lines(after)
    assert bench.irq == bool(msr & 0x0F)
    assert bench.iir() == (0x00 if msr & 0x0F else NONE)
    assert bench.read(MSR) == msr
    assert not bench.irq
    assert bench.read(MSR) == after


# Interrupts


def test_priorities():
    bench = Bench(ier=0x0F, fcr=0x01)
    bench.uart.set_modem_lines(0)
    bench.uart.receive_break()
    seen = []
    for clear in (lambda: bench.read(LSR), lambda: bench.read(DATA), lambda: None, lambda: bench.read(MSR)):
        seen.append(bench.iir())
        clear()
    assert seen == [0x06, 0x04, 0x02, 0x00]
    assert bench.iir() == NONE
    assert bench.irqs[-1] is False


@pytest.mark.parametrize("mcr", [0x00, OUT2 | LOOP])
def test_the_line_is_cut_off_without_out2(mcr):
    bench = Bench(ier=THRI, mcr=mcr)
    assert not bench.irq
    assert bench.iir() == 0x02


def test_out2_lets_a_pending_interrupt_through():
    bench = Bench(ier=THRI, mcr=0)
    bench.write(MCR, OUT2)
    assert bench.irqs == [True]


@pytest.mark.parametrize("source", [RDI, THRI, RLSI, MSI])
def test_a_disabled_source_does_not_interrupt(source):
    bench = Bench(fcr=0x01, ier=0x0F & ~source)
    if source != THRI:
        bench.iir()
    {
        RDI: lambda: bench.receive(b"x"),
        THRI: lambda: bench.write(DATA, 0),
        RLSI: lambda: setattr(bench.uart, "errors", 0x02),
        MSI: lambda: bench.uart.set_modem_lines(0),
    }[source]()
    assert bench.iir() == NONE


def test_round_trip_with_a_full_fifo_and_a_break():
    before, after = Bench(ier=0x0F, fcr=0x81), Bench()
    before.receive(bytes(range(10)))
    before.uart.receive_break()
    before.uart.set_modem_lines(0x10)
    before.uart.advance(5)
    after.uart.load(json.loads(json.dumps(before.uart.save())))
    assert after.uart.save() == before.uart.save()
    assert [after.read(LSR), *after.drain()] == [before.read(LSR), *before.drain()]


@pytest.mark.parametrize(
    ("fcr", "mcr", "write"),
    [
        pytest.param(0x01, OUT2, (FCR, 0x03), id="fifo_reset"),
        pytest.param(0x01, OUT2 | LOOP, (MCR, OUT2), id="end_of_loopback"),
    ],
)
def test_on_room_is_told_when_a_register_makes_room(fcr, mcr, write):
    bench, told = Bench(fcr=fcr, mcr=mcr), []
    bench.receive(bytes(16))
    bench.uart.on_room = lambda: told.append(bench.uart.room())
    bench.write(*write)
    assert told == [16]
