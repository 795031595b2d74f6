"""Debian's kernels from their file to the first process, and the ways to end."""

from typing import Final

import pytest

from tests.boot.conftest import by
from tests.boot.linux.guests import BASE, INITRAMFS, READY, linux_image, serial

pytestmark = pytest.mark.boot


def test_a_bzimage_with_pae_reaches_its_init_and_powers_off(boot):
    """The other two kernels do in `test_linux_work.py`."""
    run = boot("vmlinuz-686-pae", f"{BASE} gv.run=true")
    assert READY in serial(run)
    assert run.status == 0, run.err


@pytest.mark.parametrize("engine", ["bare", "svm", "svm --npt"])
@pytest.mark.parametrize("kernel", ["vmlinux-686-pae", "vmlinuz-686-pae"])
def test_the_other_engines_run_pae_kernels(boot, kernel, engine):
    """The kernel without PAE is in `test_linux_work.py`."""
    run = boot(kernel, f"{BASE} gv.run=true", *by(engine))
    assert READY in serial(run)
    assert run.status == 0, run.err


def test_a_reboot_by_triple_fault_ends_the_run_with_status_3_if_asked(boot):
    """One by the keyboard controller ends it with status 0, in `test_linux_disk.py`."""
    run = boot("vmlinux-686-pae", f"{BASE} reboot=t gv.run=true gv.end=reboot", "--on-reset", "exit")
    assert READY in serial(run)
    assert run.status == 3, run.err


def test_a_reset_machine_boots_the_same_kernel_again(vmm, tmp_path):
    script = tmp_path / "twice.txt"
    script.write_text(f"expect serial {READY}\nexpect serial {READY}\n")
    files = ("--kernel", linux_image("vmlinux-686-pae"), "--initrd", linux_image(INITRAMFS))
    run = vmm(*files, "--append", f"{BASE} gv.run=true gv.end=reboot", "--serial", "serial.txt", "--script", script)
    assert run.status == 0, run.err


SIZES: Final = (48, 50, 56, 63, 64, 65, 80, 96, 100, 127, 128, 160, 192, 255, 256, 300, 384, 512, 768, 1024)


@pytest.mark.slow
@pytest.mark.parametrize("mebibytes", SIZES)
def test_any_memory_size_boots(boot, mebibytes):
    run = boot("vmlinuz-686", f"{BASE} gv.run=free", "--memory", f"{mebibytes}M")
    assert READY in serial(run)
    assert run.status == 0, run.err


@pytest.mark.parametrize("seconds", [0.7, 1.5, 2.5, 4.0])
def test_a_time_out_in_the_middle_of_anything_ends_cleanly(boot, seconds):
    run = boot("vmlinuz-686", f"{BASE} gv.run=work", timeout=seconds)
    assert run.status == 124
