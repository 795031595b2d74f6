"""The BIOS in assembly, its builder, and the boot protocols."""
