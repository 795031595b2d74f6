"""The boot suite: the same files and memory on both sides, and what is missing is said."""

from dataclasses import replace
from pathlib import Path

import pytest

from vmm.bench import boot
from vmm.bench.rows import Results


def _case(name: str) -> boot.BootCase:
    return next(case for case in boot.cases() if case.name == name)


def test_both_sides_get_the_same_kernel_and_words() -> None:
    ours, qemus = boot.sides_of(_case("work"), ["translate", "qemu"])
    for option in ("kernel", "initrd", "append"):
        assert (
            ours.command[ours.command.index(f"--{option}") + 1] == qemus.command[qemus.command.index(f"-{option}") + 1]
        )
    assert ours.command[ours.command.index("--memory") + 1] == qemus.command[qemus.command.index("-m") + 1] + "M"


def test_both_sides_get_the_same_cd() -> None:
    case = _case("grub")
    ours, qemus = boot.sides_of(case, ["svm", "qemu"])
    assert ours.command[ours.command.index("--cdrom") + 1] == str(case.files[0])
    assert ours.command[ours.command.index("--engine") + 1] == "svm"
    assert f"file={case.files[0]},format=raw,if=ide,media=cdrom" in qemus.command


def test_files_that_are_missing_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(boot.linux, "directory", lambda: tmp_path / "linux")
    results, _ = boot.take(boot.Order(["grub"], ["translate"], ["bochs"], 1), lambda _what: None)
    assert results.rows == {}
    assert results.notes == [
        "bochs: it offers no way to see its screen: without it",
        f"grub: no {tmp_path}/grub-cd.iso (make images): without it",
    ]


def _side(words: str) -> boot.Side:
    case = boot.BootCase("echo", "", (), (), (), boot.idle)
    return boot.Side(case, "qemu", ["sh", "-c", words])


def test_the_time_between_two_lines() -> None:
    seconds = boot.until_line("END", "BEGIN")(_side("echo BEGIN; sleep 0.2; echo no END; echo END; sleep 9"))
    assert 0.1 < seconds < 5


def test_processor_time_leaves_sleep_out() -> None:
    side = replace(_side("sleep 0.5; echo END; sleep 9"), cpu_time=True)
    assert 0 < boot.until_line("END")(side) < 0.5


def test_a_line_that_never_comes_is_a_failure_with_the_last_words() -> None:
    with pytest.raises(boot.BootFailed, match="no END; the last words: hello"):
        boot.until_line("END")(_side("echo hello"))


def test_one_engine_that_fails_does_not_stop_the_others() -> None:
    def run(side: boot.Side) -> float:
        if side.engine == "trap":
            raise boot.BootFailed("it sleeps")
        return 2.0

    results = Results()
    case = boot.BootCase("grub", "", (), (), (), run)
    boot._measure(results, case, boot.Order((), ["translate", "trap"], (), 2), lambda _what: None)
    assert results.ns("grub", "translate") == 2e9
    assert results.notes == ["grub on trap: it sleeps"]
    assert results.engines == ["translate"]
