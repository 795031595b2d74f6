"""SYSLINUX from a FAT floppy and from a partitioned disk."""

import pytest

from tests.boot.conftest import SCRIPTS

pytestmark = pytest.mark.boot


@pytest.mark.parametrize(
    ("name", "greeting"),
    [
        pytest.param("syslinux-floppy.img", "second boot sector", id="a_file_on_the_floppy"),
        pytest.param("syslinux-disk.img", "hello from the second sector", id="a_partition_of_two_sectors"),
    ],
)
def test_syslinux_shows_help_and_chain_loads(vmm, image, name, greeting):
    run = vmm(image(name), "--script", SCRIPTS / "syslinux.script")
    assert (run.status, run.heading) == (0, "the script ended (status 0)")
    assert greeting in run.text("second.txt")
