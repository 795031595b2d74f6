"""Where the host's time goes in a run: `--profile`.

Every moment belongs to one part: what was entered last and not left yet. So the parts add up to the whole. The parts
are entered and left by wrapping a few methods of the monitor, the engine and the board; a run without `--profile` has
none of that. Two looks at the clock, 0.1 us, come with each exit.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, Protocol

from bt.emit import CALLOUT_VECTOR, SiteKind
from vmm.arch.layout import MASK32
from vmm.engines.engine import Engine
from vmm.engines.translate import TranslateEngine
from vmm.hw import state as hw

BESIDES: Final = "the VMM besides"
CODE: Final = "guest code"
TRANSLATION: Final = "translation"
SHADOW: Final = "shadow faults"
DEVICES: Final = "devices"
IDLE: Final = "idle"
_SITES: Final = 10
_DEVICE_METHODS: Final = (
    "take_inputs", "run_due", "port_read", "port_write", "port_read_block", "port_write_block", "acknowledge_interrupt",
)  # fmt: skip


class Idler(Protocol):
    """Who waits while the guest does."""

    def _wait(self, vm: Any, end: float) -> Any: ...


class Profile:
    """Seconds and counts by part, and by site of an exit. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._started = self._since = clock()
        self._stack = [BESIDES]
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._counts: Counter[str] = Counter()
        self._site_seconds: defaultdict[tuple[str, int], float] = defaultdict(float)
        self._site_counts: Counter[tuple[str, int]] = Counter()

    # --- the clock -------------------------------------------------------------------------------------

    def _charge(self) -> float:
        """What has passed goes to the part that runs. Returns: now."""
        now = self._clock()
        self._seconds[self._stack[-1]] += now - self._since
        self._since = now
        return now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time goes to a part."""

        def wrapper(*arguments: Any, **options: Any) -> Any:
            self._charge()
            self._stack.append(part)
            self._counts[part] += 1
            try:
                return function(*arguments, **options)
            finally:
                self._charge()
                self._stack.pop()

        return wrapper

    # --- what is timed ---------------------------------------------------------------------------------

    def follow(self, monitor: Idler, board: object, engine: Engine) -> None:
        """Time what a monitor does with a machine."""
        parts: list[tuple[Any, str, str]] = [(monitor, "_wait", IDLE), (engine, "run", CODE)]
        parts += [(board, name, DEVICES) for name in _DEVICE_METHODS]
        name_of: Callable[[int], tuple[str, int]] = _by_vector
        if isinstance(engine, TranslateEngine):
            parts += [(engine.code, "_place", TRANSLATION), (engine.code.shadow, "fill", SHADOW)]
            name_of = _by_site(engine)
        for owner, name, part in parts:
            setattr(owner, name, self.timed(part, getattr(owner, name)))
        engine.phys.on_exit = self._timed_exit(engine.phys.on_exit, name_of)

    def _timed_exit(
        self, on_exit: Callable[[int], None], name_of: Callable[[int], tuple[str, int]]
    ) -> Callable[[int], None]:
        def wrapper(vector: int) -> None:
            began = self._charge()
            site = name_of(vector)
            self._stack.append(site[0])
            self._counts[site[0]] += 1
            self._site_counts[site] += 1
            try:
                on_exit(vector)
            finally:
                self._site_seconds[site] += self._charge() - began
                self._stack.pop()

        return wrapper

    # --- what came of it -------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """All parts, longest first, whose seconds add up to `wall_s`; the sites that took longest, parts within them
        included."""
        wall = self._charge() - self._started
        parts = [
            {"name": name, "s": round(seconds, 6), "count": self._counts[name]}
            for name, seconds in sorted(self._seconds.items(), key=lambda item: -item[1])
        ]
        longest = sorted(self._site_seconds.items(), key=lambda item: -item[1])[:_SITES]
        sites = [
            {"exit": name, "eip": eip, "s": round(seconds, 6), "count": self._site_counts[name, eip]}
            for (name, eip), seconds in longest
        ]
        return {"wall_s": round(wall, 6), "parts": parts, "sites": sites}


def _by_vector(vector: int) -> tuple[str, int]:
    return f"exit {vector:#x}", 0


def _by_site(engine: TranslateEngine) -> Callable[[int], tuple[str, int]]:
    """The kind of an exit from cached code, and the EIP of its instruction."""
    state, code = engine.phys.state, engine.code

    def name_of(vector: int) -> tuple[str, int]:
        address = state.q[hw.Q_EIP] + code.space.cs_base & MASK32
        if vector != CALLOUT_VECTOR:
            block = code.cache.block_at(address)
            return ("indirect", 0) if block is None else (f"fault {vector}", block.mark_at(address).eip)
        found = code.cache.sites.get(address)
        if found is None:
            return "exit", 0
        site, _ = found
        name = f"callout {site.insn.name}" if site.kind is SiteKind.CALLOUT else site.kind.name.lower()
        return name, site.insn.eip

    return name_of
