"""The names of the boards: for those who choose one without loading it."""

from enum import StrEnum


class BoardName(StrEnum):
    """What `--machine` takes."""

    PC = "pc"
    PC_TEST = "pc-test"  # with APICs, fw_cfg, a debug exit and a test device
