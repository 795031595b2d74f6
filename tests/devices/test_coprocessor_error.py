"""FERR#, IRQ 13, port F0h and IGNNE#, as the PIIX3 data sheet has them."""

from vmm.devices.coprocessor_error import CoprocessorError


def make() -> tuple[CoprocessorError, list[bool]]:
    levels: list[bool] = []
    return CoprocessorError(levels.append), levels


def test_the_rise_of_ferr_asks_for_an_interrupt_once() -> None:
    chip, levels = make()
    chip.set_ferr(True)
    chip.set_ferr(True)
    assert (levels, chip.ignne) == ([True], False)


def test_a_write_takes_the_interrupt_back_and_lets_errors_be_ignored_until_ferr_falls() -> None:
    chip, levels = make()
    chip.set_ferr(True)
    chip.write(0, 0x55)
    assert (levels, chip.ignne) == ([True, False], True)
    chip.set_ferr(True)
    assert (levels, chip.ignne) == ([True, False], True)
    chip.set_ferr(False)
    assert not chip.ignne
    chip.set_ferr(True)
    assert (levels, chip.ignne) == ([True, False, True], False)


def test_a_write_without_an_error_lets_nothing_be_ignored() -> None:
    chip, _ = make()
    chip.write(0, 0)
    chip.set_ferr(True)
    assert not chip.ignne


def test_a_reset_forgets_the_error() -> None:
    chip, levels = make()
    chip.set_ferr(True)
    chip.reset()
    assert (levels, chip.ferr, chip.ignne) == ([True, False], False, False)


def test_its_state_can_be_saved() -> None:
    chip, _ = make()
    chip.set_ferr(True)
    chip.write(0, 0)
    other, _ = make()
    other.load(chip.save())
    assert (other.ferr, other.ignne) == (True, True)
