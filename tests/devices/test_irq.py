"""Shared interrupt lines."""

from vmm.devices.irq import IrqLine


def test_the_line_is_the_or_of_its_sources_and_tells_changes_only():
    log = []
    line = IrqLine(log.append)
    first, second = line.source(), line.source()
    first(True)
    second(True)
    first(True)
    first(False)
    assert log == [True]
    assert line.level
    second(False)
    second(False)
    assert log == [True, False]
    assert not line.level


def test_a_restored_line_still_knows_which_source_holds_it():
    saved = IrqLine(lambda level: None)
    saved.source()
    saved.source()(True)
    log = []
    line = IrqLine(log.append)
    first, second = line.source(), line.source()
    line.load(saved.save())
    first(False)
    assert line.level
    second(False)
    assert log == [False]
