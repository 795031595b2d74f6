"""`python -m vmm.bench.profile IMAGE`: where host time goes while an image or a kernel boots.

The engine is the usual one with a clock around each exit. "cache" is what remains of a run when its exits are taken
away: cached code, what the engine below needs to translate it, and the way into the interrupt hook and back.
Translation happens inside exits and is shown again by itself. The clocks cost about a microsecond an exit;
`--functions` adds Python's own profiler, which costs far more, and lists the functions that took longest.
"""

import argparse
import cProfile
import pstats
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

from rich.console import Console

from bt.emit import CALLOUT_VECTOR, SiteKind
from vmm import monitor as monitor_module
from vmm.arch.layout import MASK32
from vmm.bench import report
from vmm.engines.engine import Leave
from vmm.engines.names import EngineName
from vmm.engines.translate import TranslateEngine
from vmm.hw import state as hw
from vmm.machine import MachineConfig, build_vm

_SLICE = 0.05
_FUNCTIONS = 30


class ProfiledEngine(TranslateEngine):
    """Clocks around runs and exits; `latest` is the engine that a monitor made last."""

    latest: "ProfiledEngine"
    clock: Callable[[], float] = staticmethod(perf_counter)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.run_seconds = 0.0
        self.exit_seconds: defaultdict[str, float] = defaultdict(float)
        self.exit_counts: Counter[str] = Counter()
        ProfiledEngine.latest = self

    def run(self) -> Leave:
        """As ever, timed."""
        started = self.clock()
        try:
            return super().run()
        finally:
            self.run_seconds += self.clock() - started

    def _on_exit(self, vector: int) -> None:
        name = self._name_of_exit(vector)
        started = self.clock()
        super()._on_exit(vector)
        self.exit_seconds[name] += self.clock() - started
        self.exit_counts[name] += 1

    def _name_of_exit(self, vector: int) -> str:
        if vector != CALLOUT_VECTOR:
            return f"fault {vector}"
        address = self._phys.state.q[hw.Q_EIP] + self.code.space.cs_base & MASK32
        site, _ = self.code.cache.sites[address]
        return f"callout {site.insn.name}" if site.kind is SiteKind.CALLOUT else site.kind.name.lower()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m vmm.bench.profile", description=__doc__)
    parser.add_argument("image", type=Path, help="boot medium, or with --as kernel a kernel")
    parser.add_argument("--as", dest="kind", choices=("floppy", "disk", "cdrom", "kernel"), default="floppy",
                        help="%(default)s")  # fmt: skip
    parser.add_argument("--initrd", type=Path, help="for a Linux kernel")
    parser.add_argument("--append", default="", metavar="TEXT", help="command line of a kernel")
    parser.add_argument("--memory", type=int, default=64, metavar="MIB", help="RAM in MiB (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of host time, at the most (%(default)s)")
    parser.add_argument("--until", metavar="REGEX", help="end when the screen or the serial line matches")
    parser.add_argument("--clock", choices=("realtime", "warp"), default="realtime", help="%(default)s")
    parser.add_argument("--cpu-time", action="store_true", help="of our thread, for a machine that is busy otherwise")
    parser.add_argument("--functions", action="store_true", help="Python's own profiler as well")
    options = parser.parse_args(arguments)
    if not options.image.is_file():
        parser.error(f"{options.image}: no such file")
    return options


def config_of(options: argparse.Namespace) -> MachineConfig:
    """The machine that boots the image."""
    chosen: dict[str, Any] = {
        "floppy": {"floppies": (options.image,)},
        "disk": {"disks": (options.image,)},
        "cdrom": {"cdrom": options.image},
        "kernel": {"kernel": options.image, "initrd": options.initrd, "append": options.append},
    }[options.kind]
    return MachineConfig(clock=options.clock, memory=options.memory << 20, **chosen)


def boot(options: argparse.Namespace, profiler: cProfile.Profile | None = None) -> tuple[ProfiledEngine, float]:
    """Boot for so long, or until the screen matches; the engine with its clocks, and the seconds that it took."""
    vm = build_vm(config_of(options))
    pattern = re.compile(options.until) if options.until else None
    serial = bytearray()
    vm.serial_out.append(serial.extend)
    monitor_module.ENGINES = {EngineName.TRANSLATE: ProfiledEngine.on_a_cpu}  # type: ignore[attr-defined]
    monitor = monitor_module.Monitor()
    run: Callable[..., Any] = (
        monitor.run_slice if profiler is None else lambda *a: profiler.runcall(monitor.run_slice, *a)
    )
    ProfiledEngine.clock = staticmethod(thread_time if options.cpu_time else perf_counter)
    started = ProfiledEngine.clock()
    while ProfiledEngine.clock() - started < options.seconds:
        if run(vm, _SLICE) is not None:
            break
        shown = "\n".join(vm.screen().lines()) + serial.decode("latin-1")
        if pattern is not None and pattern.search(shown):
            break
    seconds = ProfiledEngine.clock() - started
    vm.close()
    return ProfiledEngine.latest, seconds


def breakdown(engine: ProfiledEngine, seconds: float) -> list[tuple[str, float, int]]:
    """What took how long, how often: the whole, then its parts, then exits by kind, longest first."""
    in_exits = sum(engine.exit_seconds.values())
    parts = [
        ("all", seconds, 1),
        ("outside the engine: idle, devices, screen", seconds - engine.run_seconds, 0),
        ("cache", engine.run_seconds - in_exits, engine.exit_counts.total()),
        ("exits", in_exits, engine.exit_counts.total()),
        ("of these: translation", engine.stats.translate_seconds, engine.stats.blocks),
    ]
    by_time = sorted(engine.exit_seconds.items(), key=lambda item: -item[1])
    return parts + [(name, took, engine.exit_counts[name]) for name, took in by_time]


def show(console: Console, rows: list[tuple[str, float, int]]) -> None:
    """The breakdown as a table."""
    whole = rows[0][1]
    cells = [
        (name, f"{took:.3f} s", f"{took / whole:.0%}", f"{count:,} x {took / count * 1e6:.1f} us" if count > 1 else "")
        for name, took, count in rows
    ]
    report.show_values(console, "where host time goes", cells, ("what", "time", "share", "each"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Boot and print."""
    options = parse(arguments)
    profiler = cProfile.Profile() if options.functions else None
    engine, seconds = boot(options, profiler)
    show(Console(), breakdown(engine, seconds))
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(_FUNCTIONS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
