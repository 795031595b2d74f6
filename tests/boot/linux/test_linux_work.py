"""What programs compute and see under Linux: against QEMU, and against known answers."""

from pathlib import Path
from typing import Final

import pytest

from tests.boot.conftest import ENGINES, by
from tests.boot.linux.guests import (
    BASE,
    HERE,
    INITRAMFS,
    READY,
    between,
    build,
    linux_image,
    masked,
    on_qemu,
    serial,
    with_files,
)

pytestmark = pytest.mark.boot


@pytest.mark.parametrize("engine", ENGINES)
def test_the_work_script_says_what_it_says_on_qemu(boot, engine):
    told = on_qemu(linux_image("vmlinuz-686"), linux_image(INITRAMFS), f"{BASE} gv.run=work gv.end=reboot")
    run = boot("vmlinuz-686", f"{BASE} gv.run=work", "--memory", "256M", *by(engine))
    ours, theirs = (masked(between(text, "WORK-BEGIN", "WORK-END")) for text in (serial(run), told))
    assert ours == theirs
    assert run.status == 0, run.err


@pytest.fixture
def checks(tmp_path) -> Path:
    """An initial file system with `linux/checks.c` in it."""
    return with_files(tmp_path, linux_image(INITRAMFS), checks=build(HERE / "checks.c", tmp_path))


ANSWERS: Final = (HERE / "checks.txt").read_text().splitlines()


def test_the_known_answers_are_qemus(checks):
    told = on_qemu(linux_image("vmlinuz-686"), checks, f"{BASE} gv.run=checks gv.end=reboot")
    assert between(told, "CHECKS-BEGIN", "CHECKS-END") == ANSWERS


MODELS = [
    pytest.param("vmlinuz-686", BASE, id="686"),
    pytest.param("vmlinux-686-pae", BASE, id="pae"),
    pytest.param("vmlinux-686-pae", BASE.replace("mitigations=off", "pti=on"), id="pae_with_page_table_isolation"),
]


@pytest.mark.parametrize(("kernel", "append"), MODELS)
def test_a_c_program_gets_the_known_answers(boot, checks, kernel, append):
    run = boot(kernel, f"{append} gv.run=checks", initrd=checks)
    assert READY in serial(run)
    assert between(serial(run), "CHECKS-BEGIN", "CHECKS-END") == ANSWERS
    assert run.status == 0, run.err
