"""`--profile`: every moment of a run belongs to one part."""

import json
from pathlib import Path

import pytest

from vmm.cli.main import main
from vmm.engines.names import EngineName
from vmm.machine import MachineConfig, build_vm
from vmm.monitor import Monitor
from vmm.profile import BESIDES, CODE, DEVICES, IDLE, Profile

PROGRAM = bytes.fromhex("b93000 e480 e2fc fa f4")  # mov cx, 48; again: in al, 80h; loop again; cli; hlt
SECTOR = PROGRAM.ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture
def floppy(tmp_path: Path) -> Path:
    """It reads port 80h 48 times and halts."""
    file = tmp_path / "guest.img"
    file.write_bytes(SECTOR.ljust(1440 << 10, b"\0"))
    return file


def test_parts_within_parts_get_their_own_time_and_all_adds_up():
    now = [100.0]

    def take(seconds: float, then: object = None) -> None:
        now[0] += seconds
        if callable(then):
            then()

    profile = Profile(lambda: now[0])
    inner = profile.timed("inner", lambda: take(2))
    outer = profile.timed("outer", lambda: (take(1), inner(), take(4)))
    take(8)
    outer()
    report = profile.report()
    assert report["wall_s"] == 15
    assert [(part["name"], part["s"], part["count"]) for part in report["parts"]] == [
        (BESIDES, 8, 0), ("outer", 5, 1), ("inner", 2, 1),
    ]  # fmt: skip


def test_a_part_that_raises_is_left_all_the_same():
    now = iter(range(100))
    profile = Profile(lambda: next(now))
    with pytest.raises(ZeroDivisionError):
        profile.timed("part", lambda: 1 // 0)()
    names = {part["name"] for part in profile.report()["parts"]}
    assert names == {BESIDES, "part"}


@pytest.mark.parametrize("engine", [EngineName.TRANSLATE, EngineName.BARE])
def test_a_run_is_accounted_for(floppy: Path, engine: EngineName):
    profile = Profile()
    vm = build_vm(MachineConfig(floppies=(floppy,), memory=2 << 20, engine=engine))
    try:
        monitor = Monitor(profile=profile)
        while monitor.run_slice(vm, 1) is None:
            pass
        report = vm.stats_json()["profile"]
    finally:
        vm.close()
    parts = {part["name"]: part for part in report["parts"]}
    assert sum(part["s"] for part in parts.values()) == pytest.approx(report["wall_s"], abs=1e-3)
    assert parts[CODE]["count"]
    assert parts[DEVICES]["count"] >= 48
    assert IDLE not in parts or parts[IDLE]["count"]
    if engine is EngineName.TRANSLATE:
        assert parts["callout in"]["count"] >= 48
        assert all(site["count"] and site["s"] >= 0 for site in report["sites"])


def test_the_command_line_shows_and_writes_it(floppy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    stats = tmp_path / "stats.json"
    status = main(["run", str(floppy), "--profile", "--stats", str(stats), "--display", "none"])
    assert status == 0
    assert json.loads(stats.read_text())["profile"]["parts"]
    shown = capsys.readouterr().err
    assert "where host time went" in shown
    assert "slowest exits" in shown
