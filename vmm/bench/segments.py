"""`python -m vmm.bench.segments`: what segment checks cost: 16-bit programs translated with them and without.

Each program is a flat binary in a whole machine that starts at its first instruction; every run has a machine and a
block cache of its own, the two sides take turns, and the time is that of this process.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import process_time
from typing import Final

from bt.assemble import assemble
from bt.translate import Options
from vmm.bench.report import console, show_values
from vmm.machine import MachineConfig, build_vm
from vmm.monitor import Monitor
from vmm.outcome import ExitPort, Outcome

ORIGIN: Final = 0x7C00
BAR: Final = 2.5
"""The largest ratio that is promised."""
_SLICE_S: Final = 0.1
_MEMORY: Final = 16 << 20

PROGRAMS: Final = {
    "words": """
        mov cx, 0
    next:
        mov bx, cx
        and bx, 0xffe
        inc word ptr [bx]
        call leaf
        loop next
        jmp done
    leaf:
        push ds
        pop es
        ret
    done:
    """,
    "frames": """
        mov cx, 0x4000
    next:
        push cx
        push dx
        call middle
        add sp, 4
        loop next
        jmp done
    middle:
        push bp
        mov bp, sp
        sub sp, 4
        mov bx, [bp + 4]
        mov [bp - 2], bx
        add bx, [bp + 6]
        mov [bp - 4], bx
        mov bx, [bp - 2]
        cmp bx, [bp + 4]
        mov sp, bp
        pop bp
        ret
    done:
    """,
    "strings": """
        cld
        xor di, di
        mov cx, 0x1000
        mov ax, dx
        rep stosw
        xor si, si
        mov di, 0x4000
        mov cx, 0x1000
    copy:
        lodsw
        stosw
        loop copy
        xor si, si
        mov di, 0x8000
        mov cx, 0x800
        rep movsw
    """,
}
"""A round of each: words and CALLs; procedures as a compiler makes them, nearly all stack; string instructions."""

_FRAME: Final = """
    mov ax, 0x2000
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0xfffe
    mov dx, {rounds}
round:
    {body}
    dec dx
    jne round
    mov al, 0
    out 0xf4, al
    hlt
"""


def run(name: str, rounds: int, checks: bool) -> float:
    """Seconds of one run of a program. Raises: RuntimeError if it did not come to its end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.bin"
        path.write_bytes(assemble(_FRAME.format(rounds=rounds, body=PROGRAMS[name]), False))
        vm = build_vm(MachineConfig(memory=_MEMORY, flat=(path, ORIGIN), exit_port=True))
    vm.enter_kernel()
    monitor = Monitor(translation=Options(segment_checks=checks))
    outcome: Outcome | None = None
    started = process_time()
    while outcome is None:
        outcome = monitor.run_slice(vm, _SLICE_S)
    seconds = process_time() - started
    if outcome != ExitPort(0):
        raise RuntimeError(f"{name}: {outcome}")
    return seconds


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m vmm.bench.segments", description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="measurements of each side (%(default)s)")
    parser.add_argument("--rounds", type=int, default=100, help="how much work (%(default)s)")
    options = parser.parse_args(arguments)
    if options.turns < 1 or not 0 < options.rounds < 1 << 16:
        parser.error("--turns must be positive, --rounds 1 to 65535")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and leave the verdict to the reader."""
    options = parse(arguments)
    rows = []
    for name in PROGRAMS:
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(options.turns):
            for checks, found in times.items():
                found.append(run(name, options.rounds, checks))
        without, checked = median(times[False]), median(times[True])
        rows.append((name, f"{without:.3f} s", f"{checked:.3f} s", f"{checked / without:.2f}", f"{BAR:g}"))
    show_values(console(), "segment checks", rows, ("program", "without", "with", "ratio", "bar"))


if __name__ == "__main__":
    main()
