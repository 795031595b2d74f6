"""Real boots under --audit: at the start of every block CPL is not 0 and EIP is in the cache."""

import pytest

from tests.boot.conftest import SCRIPTS

pytestmark = pytest.mark.boot


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("grub-legacy-floppy.img", "grub-legacy.script"),
        ("syslinux-disk.img", "syslinux.script"),
    ],
)
def test_the_audit_finds_nothing_in_a_real_boot(vmm, image, name, script):
    run = vmm(image(name), "--audit", "--script", SCRIPTS / script, timeout=300)
    assert (run.status, run.heading) == (0, "the script ended (status 0)")


@pytest.mark.parametrize(("name", "prompt"), [("grub-rescue-floppy.img", "GNU GRUB"), ("grub-cd.iso", "grub>")])
def test_the_audit_finds_nothing_on_the_way_to_grub_2(vmm, image, name, prompt):
    run = vmm(image(name), "--audit", "--until", prompt, timeout=300)
    assert (run.status, run.heading) == (0, f"matched {prompt!r} (status 0)")
