"""Debian's kernels from their file to the first process, and the ways to end."""

from typing import Final

import pytest

from tests.boot.linux.guests import BASE, INITRAMFS, READY, linux_image, serial

pytestmark = pytest.mark.boot

KERNELS: Final = ("vmlinuz-686", "vmlinuz-686-pae", "vmlinux-686-pae")


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_reaches_its_init_and_powers_off(boot, kernel):
    run = boot(kernel, f"{BASE} gv.run=true")
    assert READY in serial(run)
    assert run.status == 0, run.err


RESETS = [
    pytest.param("reboot=t", 3, id="a_triple_fault"),
    pytest.param("reboot=k", 0, id="the_keyboard_controller"),
]


@pytest.mark.parametrize(("how", "status"), RESETS)
def test_reboot_resets_the_machine(boot, how, status):
    run = boot("vmlinux-686-pae", f"{BASE} {how} gv.run=true gv.end=reboot", "--on-reset", "exit")
    assert READY in serial(run)
    assert run.status == status, run.err


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
