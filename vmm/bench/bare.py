"""The yardstick: the same bytes at the same addresses on Unicorn alone, at CPL 0, default mapping, no hooks.

Besides `vmm.hw`, the only importer of unicorn: it must not go through anything of ours.
"""

from time import perf_counter
from typing import Final

import unicorn
from unicorn import unicorn_const, x86_const

from vmm.bench.programs import EXIT, Program

_RAM: Final = 16 << 20


def run_bare(program: Program, size: int) -> float:
    """Seconds that a program takes on the bare engine. Raises: RuntimeError if its result is wrong."""
    code = program.build(size)
    mode = unicorn_const.UC_MODE_32 if program.code32 else unicorn_const.UC_MODE_16
    engine = unicorn.Uc(unicorn_const.UC_ARCH_X86, mode)
    engine.mem_map(0, _RAM)
    engine.mem_write(program.origin, code)
    exit_at = program.origin + code.rindex(EXIT)
    started = perf_counter()
    engine.emu_start(program.origin, exit_at)
    seconds = perf_counter() - started
    if engine.reg_read(x86_const.UC_X86_REG_AL) != 0:
        raise RuntimeError(f"{program.name}: wrong result on the bare engine")
    return seconds
