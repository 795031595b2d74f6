"""Boot loaders under ring deprivileging: which come to their prompt, and that the rest ends with one line."""

import pytest

from tests.boot.conftest import SCRIPTS

pytestmark = pytest.mark.boot

TRAP = ("--engine", "trap")


@pytest.mark.parametrize("rings", ["0/1/3", "0/3"])
def test_grub_legacy_answers_and_syslinux_comes_to_its_prompt(vmm, image, rings):
    run = vmm(image("grub-legacy-floppy.img"), *TRAP, "--rings", rings, "--script", SCRIPTS / "grub-legacy.script")
    assert (run.status, run.heading) == (0, "the script ended (status 0)")
    assert vmm(image("syslinux-floppy.img"), *TRAP, "--rings", rings, "--until", "boot:").status == 0


def test_grub_2_goes_wrong_over_sidt_and_the_run_ends_at_its_time(vmm, image):
    """It saves IDTR by SIDT on its way to protected mode, and real mode gets back what the VMM's is."""
    run = vmm(image("grub-cd.iso"), *TRAP, "--stats", "stats.json", timeout=10)
    assert (run.status, run.heading) == (124, "time-out after 10 s (status 124)")
    assert "Traceback" not in run.err
    assert run.stats()["exceptions"].get("6", 0) > 0
