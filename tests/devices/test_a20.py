"""The A20 gate."""

from vmm.devices.a20 import A20Gate, A20Source


def test_either_source_enables_and_only_changes_are_told():
    log = []
    gate = A20Gate(log.append)
    assert not gate.enabled
    gate.set_source(A20Source.I8042, True)
    gate.set_source(A20Source.PORT_92, True)
    gate.set_source(A20Source.I8042, False)
    assert (gate.enabled, log) == (True, [True])
    gate.set_source(A20Source.PORT_92, False)
    gate.set_source(A20Source.PORT_92, False)
    assert (gate.enabled, log) == (False, [True, False])


def test_round_trip():
    before, after = A20Gate(lambda on: None), A20Gate(lambda on: None)
    before.set_source(A20Source.PORT_92, True)
    after.load(before.save())
    assert after.enabled
    after.set_source(A20Source.PORT_92, False)
    assert not after.enabled
