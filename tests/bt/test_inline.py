"""What stays in the cache does what the guest instruction does, and leaves alone all that it leaves alone.

Every case runs with random registers and every combination of the arithmetic flags and DF; the whole state afterwards
is compared: registers, flags, the vCPU page, the data page, the stack.
"""

from collections.abc import Callable, Iterator

import pytest
from inline_rig import (
    ALL_FLAGS, GUEST_EIP, KERNELS, PROTECTED, STACK_POINTER, UNMAPPED, WORLDS, InlineRig, State, World, some_state,
)  # fmt: skip

from bt.assemble import assemble
from bt.emit import S2, SiteKind
from vmm.arch.exceptions import Vector
from vmm.arch.layout import MASK32, Slot
from vmm.arch.registers import ARITHMETIC, Reg

CF, PF, AF, ZF, SF, TF, IF, DF, OF = (1 << number for number in (0, 2, 4, 6, 7, 8, 9, 10, 11))
PAGE_FLAGS = 0x24_7000  # IOPL, NT, AC, ID
KERNEL_PARAMS = [pytest.param(world, id=name) for name, world in KERNELS.items()]
WORLD_PARAMS = [pytest.param(world, id=name) for name, world in WORLDS.items()]
PROTECTED_PARAMS = [pytest.param(world, id=name) for name, world in PROTECTED.items()]


@pytest.fixture(scope="module")
def one_rig() -> InlineRig:
    return InlineRig()


@pytest.fixture
def rig(one_rig: InlineRig) -> Iterator[InlineRig]:
    one_rig.clear()
    yield one_rig


def states(change: Callable[[State, int], State] = lambda state, _seed: state) -> Iterator[State]:
    """A random state for each combination of flags."""
    for seed, flags in enumerate(ALL_FLAGS):
        yield change(some_state(seed, flags), seed)


def sized(code: bytes, size: int, code32: bool) -> bytes:
    """With the operand-size prefix if this size needs it."""
    return code if code32 == (size == 4) else b"\x66" + code


def stays(rig: InlineRig, world: World, code: bytes, before: State, after: State) -> None:
    """The instruction runs in the cache, from `before` to `after`, and the guest goes on behind it."""
    block = rig.cache.spaces[world.cs_base, world.context].blocks.get(hash(code)) if False else _placed(rig, world, code)
    outcome = rig.go(world, block, before)
    assert outcome.site is not None, outcome.fault
    assert (outcome.site.kind, outcome.site.target) == (SiteKind.LINK, GUEST_EIP + len(code))
    assert outcome.state == after


_BLOCKS: dict[tuple[int, World, bytes], object] = {}


def _placed(rig: InlineRig, world: World, code: bytes):  # type: ignore[no-untyped-def]
    key = (rig.cache.flushes, world, code)
    if key not in _BLOCKS:
        _BLOCKS[key] = rig.place(world, code)
    return _BLOCKS[key]
