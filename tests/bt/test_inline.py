"""What stays in the cache does what the guest instruction does, and leaves alone all that it leaves alone.

Every case runs with random registers and every combination of the arithmetic flags and DF; the whole state afterwards
is compared: registers, flags, the vCPU page, the data page, the stack.
"""

import random
from collections.abc import Iterator

import pytest
from cpu_rig import DATA
from inline_rig import (
    ALL_FLAGS,
    GUEST_EIP,
    KERNELS,
    PAGE,
    PROTECTED,
    STACK_POINTER,
    UNMAPPED,
    WORLDS,
    InlineRig,
    State,
    World,
    some_state,
)  # fmt: skip

from bt.assemble import assemble
from bt.cache import Block
from bt.emit import S2, SiteKind
from bt.translate import Options
from vmm.arch.descriptors import Descriptor
from vmm.arch.exceptions import Vector
from vmm.arch.layout import CPUID_BASIC, CPUID_EXTENDED, MASK32, Slot
from vmm.arch.registers import ARITHMETIC, Reg

CF, PF, ZF, SF, TF, IF, DF, OF = (1 << number for number in (0, 2, 6, 7, 8, 9, 10, 11))
FLAGS_16, FLAGS_32 = 0x7000, 0x24_7000  # IOPL and NT; AC and ID too


def params(worlds: dict[str, World]) -> pytest.MarkDecorator:
    """A test for each world."""
    return pytest.mark.parametrize("world", [pytest.param(world, id=name) for name, world in worlds.items()])


SIZES = pytest.mark.parametrize("size", [2, 4])


@pytest.fixture(scope="module")
def one_rig() -> InlineRig:
    return InlineRig()


@pytest.fixture
def rig(one_rig: InlineRig) -> InlineRig:
    one_rig.clear()
    return one_rig


def states() -> Iterator[State]:
    """A random state for each combination of flags."""
    for seed, flags in enumerate(ALL_FLAGS):
        yield some_state(seed, flags)


def sized(code: bytes, size: int, world: World) -> bytes:
    """With the operand-size prefix if this size needs it."""
    return code if world.context.code32 == (size == 4) else b"\x66" + code


def stays(rig: InlineRig, world: World, code: bytes, before: State, after: State) -> None:
    """The instruction runs in the cache, from `before` to `after`, and the guest goes on behind it."""
    outcome = rig.go(world, rig.place(world, code), before)
    assert outcome.site is not None, outcome.fault
    assert (outcome.site.kind, outcome.site.target) == (SiteKind.LINK, GUEST_EIP + len(code))
    assert outcome.state == after


def finishes(rig: InlineRig, world: World, code: bytes, before: State, after: State) -> list[int]:
    """The instruction needs the VMM in the end, with all but the flags as in `after`; returns the scratch words."""
    outcome = rig.go(world, rig.place(world, code), before)
    assert outcome.site is not None, outcome.fault
    assert (outcome.site.kind, outcome.site.insn.raw) == (SiteKind.FINISH, code)
    assert outcome.state.but(flags=0) == after.but(flags=0)
    return outcome.scratch


def faults(rig: InlineRig, world: World, code: bytes, before: State, cr2: int) -> None:
    """The instruction faults as if it had not begun."""
    outcome = rig.go(world, rig.place(world, code), before)
    assert outcome.fault is not None, outcome.site
    assert outcome.mark is not None
    assert (outcome.fault[0], outcome.fault[2], outcome.mark.eip) == (Vector.PF, cr2, GUEST_EIP)
    assert rig.rewound(outcome) == before


# --- PUSHF, POPF, CLI, STI ---------------------------------------------------------------------------------


@SIZES
@params(WORLDS)
def test_pushf_pushes_the_guests_flags(rig: InlineRig, world: World, size: int) -> None:
    code = sized(b"\x9c", size, world)
    for before in states():
        image = before.flags | before.slots[Slot.IF] | before.slots[Slot.FLAGS] | 2
        stays(rig, world, code, before, before.pushed(image, size))


def popf_image(before: State, seed: int) -> int:
    """An image of any bits but TF; the state's own flags are something else."""
    return (before.regs[Reg.EAX] ^ seed * 0x0101_0101) & MASK32 & ~TF


@SIZES
@params(KERNELS)
def test_popf_at_cpl_0_sets_all_flags(rig: InlineRig, world: World, size: int) -> None:
    code = sized(b"\x9d", size, world)
    for seed, before in enumerate(states()):
        image = popf_image(before, seed)
        before = before.stored(STACK_POINTER, image, size, on_stack=True)
        kept = 0 if size == 4 else before.slots[Slot.FLAGS] & (FLAGS_32 & ~FLAGS_16)
        mask = FLAGS_32 if size == 4 else FLAGS_16
        after = before.but(
            esp=STACK_POINTER + size, flags=image & (ARITHMETIC | DF), IF=image & IF, FLAGS=image & mask | kept
        )  # fmt: skip
        stays(rig, world, code, before, after)


@SIZES
@params(KERNELS)
@pytest.mark.parametrize("why", ["tf", "pending"])
def test_popf_at_cpl_0_finishes_in_the_vmm(rig: InlineRig, world: World, size: int, why: str) -> None:
    code = sized(b"\x9d", size, world)
    for seed, before in enumerate(states()):
        image = popf_image(before, seed) | (TF if why == "tf" else IF)
        before = before.stored(STACK_POINTER, image, size, on_stack=True).but(PENDING=int(why == "pending"))
        after = before.but(esp=STACK_POINTER + size)
        scratch = finishes(rig, world, code, before, after)
        assert (scratch[S2] ^ image) & ((1 << 8 * size) - 1) == 0


@SIZES
@params({name: world for name, world in WORLDS.items() if world.user})
def test_popf_at_cpl_3_sets_only_what_a_user_may(rig: InlineRig, world: World, size: int) -> None:
    """Neither IF nor IOPL; TF, NT, AC and ID finish in the VMM when they change."""
    code = sized(b"\x9d", size, world)
    suspicious = 0x24_4000 if size == 4 else 0x4000
    for seed, before in enumerate(states()):
        image = popf_image(before, seed) & ~suspicious | before.slots[Slot.FLAGS] & suspicious
        before = before.stored(STACK_POINTER, image, size, on_stack=True)
        after = before.but(esp=STACK_POINTER + size, flags=image & (ARITHMETIC | DF))
        stays(rig, world, code, before, after)
        for bit in (TF, 0x4000, 0x4_0000, 0x20_0000):
            if bit < 1 << 8 * size:
                other = before.stored(STACK_POINTER, image ^ bit, size, on_stack=True)
                scratch = finishes(rig, world, code, other, other.but(esp=STACK_POINTER + size))
                assert (scratch[S2] ^ image ^ bit) & ((1 << 8 * size) - 1) == 0


@params(KERNELS)
def test_cli_clears_the_virtual_if_alone(rig: InlineRig, world: World) -> None:
    for before in states():
        stays(rig, world, b"\xfa", before, before.but(IF=0))


STI_NOP = b"\xfb\x90"  # its shadow reaches over the next instruction, which must be in the same block


@params(KERNELS)
def test_sti_sets_the_virtual_if_alone(rig: InlineRig, world: World) -> None:
    for before in states():
        stays(rig, world, STI_NOP, before, before.but(IF=IF))


@params(KERNELS)
def test_sti_finishes_in_the_vmm_when_an_interrupt_waits(rig: InlineRig, world: World) -> None:
    for before in states():
        waiting = before.but(PENDING=1)
        outcome = rig.go(world, rig.place(world, STI_NOP), waiting)
        assert outcome.site is not None
        assert outcome.site.kind is SiteKind.FINISH
        assert outcome.state == waiting.but(IF=IF)


@params(WORLDS)
@pytest.mark.parametrize(
    "code", [b"\x9c", b"\x66\x9c", b"\x9d", b"\x66\x9d"], ids=["pushf", "66pushf", "popf", "66popf"]
)
def test_a_stack_that_faults_leaves_no_trace(rig: InlineRig, world: World, code: bytes) -> None:
    for before in list(states())[::7]:
        lost = before.but(esp=UNMAPPED)
        outcome = rig.go(world, rig.place(world, code), lost)
        assert outcome.mark is not None
        assert outcome.mark.eip == GUEST_EIP
        assert rig.rewound(outcome) == lost


# --- system registers --------------------------------------------------------------------------------------

REGISTER_SOURCES = [
    pytest.param("smsw", Slot.CR0, WORLDS, id="smsw"),
    pytest.param("sldt", Slot.LDTR, PROTECTED, id="sldt"),
    pytest.param("str", Slot.TR, PROTECTED, id="str"),
]
MODRM = {"smsw": b"\x0f\x01\xe0", "sldt": b"\x0f\x00\xc0", "str": b"\x0f\x00\xc8"}


@SIZES
@pytest.mark.parametrize(("name", "slot", "worlds"), REGISTER_SOURCES)
@pytest.mark.parametrize("reg", [reg for reg in Reg if reg is not Reg.ESP])
def test_a_system_register_goes_to_a_register(
    rig: InlineRig, name: str, slot: Slot, worlds: dict[str, World], reg: Reg, size: int
) -> None:
    """r16 keeps the upper half; r32 takes the whole word."""
    for world in worlds.values():
        code = sized(MODRM[name][:2] + bytes([MODRM[name][2] | reg]), size, world)
        for before in list(states())[reg :: len(Reg)]:
            value = before.slots[slot]
            if size == 2:
                value = before.regs[reg] & 0xFFFF_0000 | value & 0xFFFF
            stays(rig, world, code, before, before.but(**{reg.name: value}))


FORMS_32 = [
    # text, registers, offset, on the stack
    pytest.param("[ebx]", {"ebx": 0x120}, 0x120, False, id="ebx"),
    pytest.param("[ecx]", {"ecx": 0x123}, 0x123, False, id="ecx"),
    pytest.param("[edx + 8]", {"edx": 0x200}, 0x208, False, id="edx"),
    pytest.param("[eax - 1]", {"eax": 0x200}, 0x1FF, False, id="eax"),
    pytest.param("[ebx + ecx*4 + 0x10]", {"ebx": 0x100, "ecx": 3}, 0x11C, False, id="sib"),
    pytest.param("[edi*8 + 0x10300]", {"edi": 0x1FFF_E010}, 0x380, False, id="index alone, wraps"),
    pytest.param("[0x345]", {}, 0x345, False, id="absolute"),
    pytest.param("[esp + 4]", {"esp": 0x400}, 0x404, True, id="esp"),
    pytest.param("[ebp - 4]", {"ebp": 0x404}, 0x400, True, id="ebp"),
    pytest.param(">[ebp]", {"ebp": 0x404}, 0x404, False, id="ds override"),
    pytest.param("ss:[ebx]", {"ebx": 0x404}, 0x404, True, id="ss override"),
    pytest.param("fs:[esi + 1]", {"esi": MASK32}, 0, False, id="fs, wraps"),
]
FORMS_16 = [
    pytest.param("[bx + si]", {"ebx": 0xABCD_0100, "esi": 0x1234_0020}, 0x120, False, id="bx+si"),
    pytest.param("[bp + si]", {"ebp": 0xABCD_0100, "esi": 0x1234_0020}, 0x120, True, id="bp+si"),
    pytest.param("[bp + di + 2]", {"ebp": 0xABCD_0100, "edi": 0x1234_0020}, 0x122, True, id="bp+di"),
    pytest.param("[di - 1]", {"edi": 0xFFFF_0101}, 0x100, False, id="di"),
    pytest.param("[bx + 0x7000]", {"ebx": 0x9100}, 0x100, False, id="wraps at 64 KiB"),
    pytest.param("[0x234]", {}, 0x234, False, id="absolute"),
    pytest.param("es:[bp]", {"ebp": 0x100}, 0x100, False, id="es override"),
]
STORES = {
    "smsw word ptr": ((Slot.CR0, 2),),
    "sgdt": ((Slot.GDT_LIMIT, 2), (Slot.GDT_BASE, 4)),
    "sidt": ((Slot.IDT_LIMIT, 2), (Slot.IDT_BASE, 4)),
    "sldt word ptr": ((Slot.LDTR, 2),),
    "str word ptr": ((Slot.TR, 2),),
}


def _worlds_of(name: str) -> dict[str, World]:
    return PROTECTED if name.startswith(("sldt", "str")) else WORLDS


def _assemble(name: str, text: str, world: World) -> bytes:
    """`>` is DS: in front of a base whose default is SS, a prefix that Keystone drops."""
    prefix = b"\x3e" if text.startswith(">") else b""
    return prefix + assemble(f"{name} {text.removeprefix('>')}", world.context.code32)


def _check_store(rig: InlineRig, name: str, form: tuple[str, dict[str, int], int, bool], narrow: bool) -> None:
    text, regs, offset, on_stack = form
    for world in _worlds_of(name).values():
        if narrow and world.context.code32:
            continue
        code = _assemble(name, text, world)
        for before in list(states())[::5]:
            before = before.but(**regs)
            after, at = before, offset
            for slot, size in STORES[name]:
                after = after.stored(at, before.slots[slot], size, on_stack)
                at += size
            stays(rig, world, code, before, after)


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize(("text", "regs", "offset", "on_stack"), FORMS_32)
def test_a_system_register_goes_to_memory(
    rig: InlineRig, name: str, text: str, regs: dict[str, int], offset: int, on_stack: bool
) -> None:
    _check_store(rig, name, (text, regs, offset, on_stack), narrow=False)


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize(("text", "regs", "offset", "on_stack"), FORMS_16)
def test_a_system_register_goes_to_memory_by_a_16_bit_address(
    rig: InlineRig, name: str, text: str, regs: dict[str, int], offset: int, on_stack: bool
) -> None:
    _check_store(rig, name, (text, regs, offset, on_stack), narrow=True)


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_faults_leaves_no_trace(rig: InlineRig, name: str) -> None:
    for world in _worlds_of(name).values():
        code = assemble(f"{name} [ecx + edx]", world.context.code32)
        for before in list(states())[::9]:
            faults(rig, world, code, before.but(ecx=UNMAPPED - 4, edx=4), 0x30_8000)


@pytest.mark.parametrize("register", [0, 2, 3, 4])
@params(KERNELS)
def test_a_control_register_is_the_guests_own(rig: InlineRig, world: World, register: int) -> None:
    slot = {0: Slot.CR0, 2: Slot.CR2, 3: Slot.CR3, 4: Slot.CR4}[register]
    for reg in Reg:
        if reg is Reg.ESP:
            continue
        code = b"\x0f\x20" + bytes([0xC0 | register << 3 | reg])
        for before in list(states())[reg::8]:
            stays(rig, world, code, before, before.but(**{reg.name: before.slots[slot]}))


# --- branches ----------------------------------------------------------------------------------------------

TARGET = 0x4321


def _condition(number: int, flags: int) -> bool:
    """SDM Vol. 1, "EFLAGS Condition Codes"."""
    cf, pf, zf, sf, of = (bool(flags & bit) for bit in (CF, PF, ZF, SF, OF))
    return (of, cf, zf, cf or zf, sf, pf, sf != of, zf or sf != of)[number >> 1] != bool(number & 1)


@params(WORLDS)
@pytest.mark.parametrize("condition", range(16))
def test_a_conditional_jump_goes_where_the_flags_say(rig: InlineRig, world: World, condition: int) -> None:
    code = bytes([0x70 | condition, 0x20])
    for before in states():
        outcome = rig.go(world, rig.place(world, code), before)
        assert outcome.site is not None
        taken = _condition(condition, before.flags)
        assert outcome.site.target == GUEST_EIP + 2 + (0x20 if taken else 0)
        assert outcome.state == before


LOOPS = [(0xE0, "loopne"), (0xE1, "loope"), (0xE2, "loop"), (0xE3, "jcxz")]


@params(WORLDS)
@pytest.mark.parametrize(("opcode", "name"), LOOPS)
@pytest.mark.parametrize("other_size", [False, True])
def test_a_loop_counts_in_the_register_that_its_address_size_names(
    rig: InlineRig, world: World, opcode: int, name: str, other_size: bool
) -> None:
    code = (b"\x67" if other_size else b"") + bytes([opcode, 0xF0])
    mask = MASK32 if world.context.code32 != other_size else 0xFFFF
    for seed, before in enumerate(states()):
        before = before.but(ecx=(0, 1, 2, 0x1_0000, 0x1_0001, MASK32, 0xFFFF)[seed % 7])
        outcome = rig.go(world, rig.place(world, code), before)
        assert outcome.site is not None
        count = before.regs[Reg.ECX] & mask
        if name == "jcxz":
            taken, after = count == 0, before
        else:
            left = count - 1 & mask
            zf = bool(before.flags & ZF)
            taken = left != 0 and {"loop": True, "loope": zf, "loopne": not zf}[name]
            after = before.but(ecx=before.regs[Reg.ECX] & ~mask | left)
        assert outcome.site.target == GUEST_EIP + len(code) - (0x10 if taken else 0)
        assert outcome.state == after


@params(WORLDS)
@SIZES
def test_a_direct_call_pushes_the_guests_return_address(rig: InlineRig, world: World, size: int) -> None:
    code = sized(b"\xe8" + (0x100).to_bytes(size, "little"), size, world)
    for before in list(states())[::3]:
        outcome = rig.go(world, rig.place(world, code), before)
        assert outcome.site is not None
        assert outcome.site.target == GUEST_EIP + len(code) + 0x100
        assert outcome.state == before.pushed(GUEST_EIP + len(code), size)


def _indirect(rig: InlineRig, world: World, code: bytes, before: State, after: State) -> None:
    """Nowhere while the branch table does not have the target, to its block while it does."""
    table = rig.table(world)
    block, target = rig.place(world, code), rig.place(world, b"\x90", TARGET)
    _misses(rig, world, block, before, after)
    table.remember(TARGET, target.entry)
    found = rig.go(world, block, before)
    assert (found.site, found.state) == (target.translation.sites[0], after)
    table.forget(TARGET)
    _misses(rig, world, block, before, after)


def _misses(rig: InlineRig, world: World, block: Block, before: State, after: State) -> None:
    outcome = rig.go(world, block, before)
    assert (outcome.missed, outcome.scratch[S2], outcome.state) == (True, TARGET, after)


INDIRECT_REGS = [reg for reg in Reg if reg is not Reg.ESP]


@params(WORLDS)
@SIZES
@pytest.mark.parametrize("is_call", [False, True], ids=["jmp", "call"])
@pytest.mark.parametrize("reg", INDIRECT_REGS)
def test_an_indirect_branch_by_register(rig: InlineRig, world: World, size: int, is_call: bool, reg: Reg) -> None:
    code = sized(bytes([0xFF, 0xC0 | (2 if is_call else 4) << 3 | reg]), size, world)
    for seed in range(4):
        rig.clear()
        before = some_state(seed, ALL_FLAGS[seed * 37 % 128])
        garbage = before.regs[reg] & 0xFFFF_0000 if size == 2 else 0
        before = before.but(**{reg.name: garbage | TARGET})
        after = before.pushed(GUEST_EIP + len(code), size) if is_call else before
        _indirect(rig, world, code, before, after)


@params(WORLDS)
@SIZES
@pytest.mark.parametrize("is_call", [False, True], ids=["jmp", "call"])
@pytest.mark.parametrize("form", ["[ebx + ecx*4]", "[ecx]", "ss:[edx + 8]", "[ebp]", "es:[0x100]"])
def test_an_indirect_branch_by_memory(rig: InlineRig, world: World, size: int, is_call: bool, form: str) -> None:
    name = "call" if is_call else "jmp"
    code = assemble(f"{name} {'dword' if size == 4 else 'word'} ptr {form}", world.context.code32)
    at = {"[ebx + ecx*4]": 0x10C, "[ecx]": 3, "ss:[edx + 8]": 0x208, "[ebp]": 0x300, "es:[0x100]": 0x100}[form]
    for seed in range(3):
        rig.clear()
        before = some_state(seed, ALL_FLAGS[seed * 37 % 128]).but(ebx=0x100, ecx=3, edx=0x200, ebp=0x300)
        before = before.stored(at, TARGET, size, form.startswith(("ss", "[ebp")))
        after = before.pushed(GUEST_EIP + len(code), size) if is_call else before
        _indirect(rig, world, code, before, after)


@params(WORLDS)
@SIZES
@pytest.mark.parametrize("release", [0, 4, 0xFFFC], ids=["ret", "ret 4", "ret fffc"])
def test_a_return_releases_its_arguments(rig: InlineRig, world: World, size: int, release: int) -> None:
    plain = b"\xc3" if not release else b"\xc2" + release.to_bytes(2, "little")
    code = sized(plain, size, world)
    for seed in range(6):
        rig.clear()
        before = some_state(seed, ALL_FLAGS[seed * 37 % 128]).stored(STACK_POINTER, TARGET, size, on_stack=True)
        sp = STACK_POINTER + size + release & world.stack_mask
        _indirect(rig, world, code, before, before.but(esp=sp))


@params(WORLDS)
@pytest.mark.parametrize(
    "text", ["jmp dword ptr [ecx]", "call dword ptr [ecx]", "call word ptr [ecx + edx]", "jmp word ptr [ecx]"]
)
def test_a_branch_whose_operand_faults_leaves_no_trace(rig: InlineRig, world: World, text: str) -> None:
    code = assemble(text, world.context.code32)
    for before in list(states())[::9]:
        faults(rig, world, code, before.but(ecx=UNMAPPED, edx=0), 0x30_8000)


@params(WORLDS)
@pytest.mark.parametrize(
    "code", [b"\xff\xd2", b"\xff\x13", b"\xc3", b"\xc2\x08\x00"], ids=["reg", "mem", "ret", "ret 8"]
)
def test_a_branch_whose_stack_faults_leaves_no_trace(rig: InlineRig, world: World, code: bytes) -> None:
    """CALL by register and by memory, and RET: the target is known, or not, when the stack faults."""
    for before in list(states())[::9]:
        before = before.but(esp=UNMAPPED + 0x800, ebx=0x10)
        outcome = rig.go(world, rig.place(world, code), before)
        assert outcome.mark is not None
        assert (outcome.fault is not None, outcome.mark.eip) == (True, GUEST_EIP)
        assert rig.rewound(outcome) == before


@params(WORLDS)
@SIZES
@pytest.mark.parametrize("code", [b"\xc3", b"\xff\xe2"], ids=["ret", "jmp edx"])
def test_the_branch_of_a_step_goes_nowhere_whatever_the_table_holds(
    rig: InlineRig, world: World, size: int, code: bytes
) -> None:
    step = rig.place(world, sized(code, size, world), options=Options(limit=1, step=True))
    rig.table(world).remember(TARGET, rig.place(world, b"\x90", TARGET).entry)
    for before in list(states())[::8]:
        before = before.but(edx=TARGET).stored(STACK_POINTER, TARGET, size, on_stack=True)
        _misses(rig, world, step, before, before.but(esp=STACK_POINTER + (size if code == b"\xc3" else 0)))


FLAT_KERNELS = {name: world for name, world in KERNELS.items() if world.context.is_flat_kernel}
CODE_SEGMENT = 0x18
GDT_AT = 0x800


@params(FLAT_KERNELS)
def test_iretd_to_the_code_segment_that_is_loaded_branches_by_the_table(rig: InlineRig, world: World) -> None:
    for seed in range(16):
        rig.clear()
        before = some_state(seed, ALL_FLAGS[seed * 37 % 128])
        image = before.regs[Reg.EAX] & ~0x1B_4100  # NT, TF, RF, VM and their like are for the VMM
        before = before.but(GDT_BASE=DATA + GDT_AT, CS=CODE_SEGMENT, FLAGS=before.slots[Slot.FLAGS] & ~0x4000)
        for at, value in enumerate((TARGET, 0xDEAD_0000 | CODE_SEGMENT, image)):
            before = before.stored(STACK_POINTER + 4 * at, value, 4, on_stack=True)
        for at, slot in enumerate((Slot.CS_LOW, Slot.CS_HIGH)):
            before = before.stored(GDT_AT + CODE_SEGMENT + 4 * at, before.slots[slot], 4)
        after = before.but(
            esp=STACK_POINTER + 12, flags=image & (ARITHMETIC | DF), IF=image & IF, FLAGS=image & FLAGS_32
        )  # fmt: skip
        _indirect(rig, world, b"\xcf", before, after)


TARGETS = (
    0, 1, 0xFF, 0x100, 0xFFFF, 0x1_0000, 0x1_0100, 0x2_0100, 0x8000_0100, 0xFFFF_0000, 0xFFFF_FF00, MASK32,
)  # fmt: skip
"""Some that share their low byte, their low half, their high half or all but one bit."""


@SIZES
@params(WORLDS)
def test_the_table_never_answers_for_another_target(rig: InlineRig, world: World, size: int) -> None:
    """16-bit operands cut the target; 16-bit code has no entry for one above FFFFh."""
    table, before = rig.table(world), some_state(1, 0)
    block, target = rig.place(world, sized(b"\xff\xe0", size, world)), rig.place(world, b"\x90", TARGET)
    for told in TARGETS:
        table.remember(told, target.entry)
        for eax in TARGETS:
            outcome = rig.go(world, block, before.but(eax=eax))
            asked = eax & ((1 << 8 * size) - 1)
            answers = asked == told and (world.context.code32 or told <= 0xFFFF)
            assert (outcome.site is target.translation.sites[0], outcome.missed) == (answers, not answers)
            assert outcome.state == before.but(eax=eax)
            assert answers or outcome.scratch[S2] == asked
        table.forget(told)


@SIZES
@params(WORLDS)
def test_an_empty_table_leads_every_target_nowhere(rig: InlineRig, world: World, size: int) -> None:
    block, before = rig.place(world, sized(b"\xff\xe0", size, world)), some_state(2, 0)
    for eax in TARGETS:
        outcome = rig.go(world, block, before.but(eax=eax))
        assert (outcome.missed, outcome.scratch[S2]) == (True, eax & ((1 << 8 * size) - 1))


def test_a_table_answers_in_its_own_space_only(rig: InlineRig) -> None:
    """The same target in code of several CS bases and contexts."""
    jump, before = {True: b"\xff\xe0", False: b"\x66\xff\xe0"}, some_state(3, 0).but(eax=TARGET)
    for one in WORLDS.values():
        rig.table(one).remember(TARGET, rig.place(one, b"\x90", GUEST_EIP + 8).entry)
        for other in WORLDS.values():
            outcome = rig.go(other, rig.place(other, jump[other.context.code32]), before)
            assert outcome.missed == (other is not one)
        rig.table(one).forget(TARGET)


CALLEE = GUEST_EIP + 0x100


def _call(world: World, size: int) -> bytes:
    """CALL CALLEE, and behind it an instruction that shows that it ran."""
    length = size + 1 if world.context.code32 == (size == 4) else size + 2
    call = sized(b"\xe8" + (CALLEE - GUEST_EIP - length).to_bytes(size, "little"), size, world)
    return call + assemble("lea eax, [eax + 1]", world.context.code32)


@SIZES
@params(WORLDS)
def test_a_return_goes_on_in_the_middle_of_the_block_that_called(rig: InlineRig, world: World, size: int) -> None:
    code = _call(world, size)
    caller, callee = rig.place(world, code), rig.place(world, sized(b"\xc3", size, world), CALLEE)
    ((_, back),) = caller.translation.returns
    rig.cache.publish(caller)
    call, behind = sorted(caller.translation.sites, key=lambda site: site.insn.eip)
    rig.cache.link(caller, call, rig.cache.publish(callee))
    for before in list(states())[::8]:
        outcome = rig.go(world, caller, before)
        assert (outcome.site, behind.target) == (behind, GUEST_EIP + len(code))
        after = before.pushed(back, size).but(esp=STACK_POINTER, eax=before.regs[Reg.EAX] + 1)
        assert outcome.state == after


@SIZES
@params(WORLDS)
def test_who_comes_back_to_a_dropped_block_leaves_and_then_goes_to_the_one_in_its_place(
    rig: InlineRig, world: World, size: int
) -> None:
    """By a branch that was linked to the return site, and by the branch table."""
    caller = rig.place(world, _call(world, size))
    ((offset, back),) = caller.translation.returns
    rig.cache.publish(caller)
    jump, by_table = rig.place(world, b"\xeb\x00", back - 2), rig.place(world, sized(b"\xff\xe0", size, world), CALLEE)
    rig.cache.link(jump, jump.translation.sites[0], caller.page.entrances[back])
    rig.cache.drop(caller)
    before = some_state(4, ALL_FLAGS[77]).but(eax=back)
    linked, missed = rig.go(world, jump, before), rig.go(world, by_table, before)
    assert linked.site is not None
    assert (linked.site.kind, linked.site.target, linked.state) == (SiteKind.LINK, back, before)
    assert (missed.missed, missed.scratch[S2], missed.state) == (True, back, before)
    assert rig.cache.sites[caller.address + offset + 2] == (linked.site, caller)
    heir = rig.place(world, b"\x90", back)
    rig.cache.redirect(caller, linked.site, rig.cache.publish(heir))
    outcome = rig.go(world, jump, before)
    assert (outcome.site, outcome.state) == (heir.translation.sites[0], before)


# --- RDTSC -------------------------------------------------------------------------------------------------


@params(WORLDS)
def test_rdtsc_is_the_processors_own_once_the_page_says_so(rig: InlineRig, world: World) -> None:
    for before in states():
        outcome = rig.go(world, rig.place(world, b"\x0f\x31"), before.but(TSC=1))
        assert outcome.site is not None
        assert (outcome.site.kind, outcome.site.target) == (SiteKind.LINK, GUEST_EIP + 2)
        eax, edx = outcome.state.regs[Reg.EAX], outcome.state.regs[Reg.EDX]
        assert outcome.state == before.but(TSC=1, eax=eax, edx=edx)
        assert (eax, edx) != (before.regs[Reg.EAX], before.regs[Reg.EDX])


@params(WORLDS)
def test_rdtsc_is_the_vmms_until_then(rig: InlineRig, world: World) -> None:
    for before in states():
        outcome = rig.go(world, rig.place(world, b"\x0f\x31"), before.but(TSC=0))
        assert outcome.site is not None
        assert (outcome.site.kind, outcome.state) == (SiteKind.CALLOUT, before.but(TSC=0))


# --- CPUID -------------------------------------------------------------------------------------------------


def cpuid_number(leaf: int) -> int:
    """The number of the answer that a leaf has."""
    if 0x8000_0000 <= leaf <= 0x8000_0000 + CPUID_EXTENDED:
        return leaf - 0x8000_0000 + CPUID_BASIC + 1
    return min(leaf, CPUID_BASIC)


LEAVES = [
    *range(CPUID_BASIC + 3), 0x100, 0x4000_0000, 0x7FFF_FFFF, *range(0x8000_0000, 0x8000_000A), 0x8860_0000, MASK32,
]  # fmt: skip


@params(WORLDS)
def test_cpuid_gives_the_answers_that_are_there(rig: InlineRig, world: World) -> None:
    """Each answer alone, and all but it: then the VMM is asked, with everything as it was."""
    answers = CPUID_BASIC + CPUID_EXTENDED + 2
    assert answers <= 32
    for number in range(4 * answers):
        rig.put(PAGE + Slot.CPUID + 4 * number, (0x1234_5678 * (number + 1) & MASK32).to_bytes(4, "little"))
    before_all = [state.but(CPUID=0x1234_5678) for state in states()]
    for leaf in LEAVES:
        number = cpuid_number(leaf)
        eax, ebx, ecx, edx = (0x1234_5678 * (4 * number + at) for at in range(1, 5))
        before = before_all[leaf * 5 % len(before_all)].but(eax=leaf, CPUID_KNOWN=1 << number)
        stays(rig, world, b"\x0f\xa2", before, before.but(eax=eax, ebx=ebx, ecx=ecx, edx=edx))
        before = before.but(CPUID_KNOWN=MASK32 ^ 1 << number)
        outcome = rig.go(world, rig.place(world, b"\x0f\xa2"), before)
        assert outcome.site is not None
        assert (outcome.site.kind, outcome.state) == (SiteKind.CALLOUT, before)


# --- LAR LSL VERR VERW -------------------------------------------------------------------------------------

RIGHTS_WORLDS = {name: world for name, world in KERNELS.items() if world.context.code32}
RIGHTS = {"lar": b"\x0f\x02", "lsl": b"\x0f\x03", "verr": b"\x0f\x00", "verw": b"\x0f\x00"}
TABLE_AT, TABLE_LIMIT = 0x803, 0x2FF


def _rights(name: str, size: int, reg: int, rm: int) -> bytes:
    """One of them with a register operand; VERR and VERW have no destination."""
    field = {"verr": 4, "verw": 5}.get(name, reg)
    return (b"\x66" if size == 2 else b"") + RIGHTS[name] + bytes([0xC0 | field << 3 | rm])


def _answer(name: str, found: Descriptor, rpl: int) -> int | None:
    """What ring 0 gets: a value, 1 for a plain yes; None where the VMM has to be asked."""
    if found.is_system or found.dpl < rpl:
        return None
    yes = {"lar": True, "lsl": True, "verr": found.is_readable, "verw": found.is_writable}[name]
    return {"lar": found.flags, "lsl": found.limit}.get(name, 1) if yes else None


@params(RIGHTS_WORLDS)
@pytest.mark.parametrize("name", RIGHTS)
def test_what_ring_0_may_see_is_answered_in_the_cache(rig: InlineRig, world: World, name: str) -> None:
    """Every type, S, DPL and RPL, with random bases and limits; and each pair of registers comes up."""
    rng = random.Random(name)
    for number, access in enumerate(range(0x100)):
        index, rpl, size = 8 * rng.randrange(1, (TABLE_LIMIT + 1) // 8), rng.randrange(4), rng.choice((2, 4))
        raw = bytearray(rng.randbytes(8))
        raw[5] = access
        selector = index | rpl
        reg, rm = rng.randrange(8), rng.choice([at for at in range(8) if at != Reg.ESP])
        before = some_state(number, ALL_FLAGS[number * 37 % 128]).but(GDT_BASE=DATA + TABLE_AT, GDT_LIMIT=TABLE_LIMIT)
        before = before.stored(TABLE_AT + index, int.from_bytes(raw, "little"), 8)
        before = before.but(**{Reg(rm).name.lower(): before.regs[rm] & 0xFFFF_0000 | selector})
        code = _rights(name, size, reg, rm)
        answer = _answer(name, Descriptor.from_bytes(bytes(raw)), rpl)
        if answer is None:
            _asks(rig, world, code, before)
            continue
        after = before.but(flags=before.flags | ZF)
        if name in ("lar", "lsl"):
            kept = before.regs[reg] & 0xFFFF_0000 if size == 2 else 0
            after = after.but(**{Reg(reg).name.lower(): kept | answer & ((1 << 8 * size) - 1)})
        stays(rig, world, code, before, after)


def _asks(rig: InlineRig, world: World, code: bytes, before: State) -> None:
    outcome = rig.go(world, rig.place(world, code), before)
    assert outcome.site is not None, outcome.fault
    assert (outcome.site.kind, outcome.state) == (SiteKind.CALLOUT, before)


@params(RIGHTS_WORLDS)
@pytest.mark.parametrize("name", RIGHTS)
def test_null_selectors_the_ldt_and_what_lies_beyond_are_for_the_vmm(rig: InlineRig, world: World, name: str) -> None:
    raw = int.from_bytes(Descriptor(0, 0xFFF, 0xF300).to_bytes(), "little")
    for seed, before in enumerate(states()):
        before = before.but(GDT_BASE=DATA + TABLE_AT, GDT_LIMIT=TABLE_LIMIT - seed % 8)
        for index in (0, 8, TABLE_LIMIT & ~7):
            before = before.stored(TABLE_AT + index, raw, 8)
        for selector in (0, 1, 3, 0xC, TABLE_LIMIT + 1, 0xFFF8, TABLE_LIMIT & ~7):
            asked = before.but(ebx=before.regs[Reg.EBX] & 0xFFFF_0000 | selector)
            if selector != TABLE_LIMIT & ~7 or seed % 8:
                _asks(rig, world, _rights(name, 4, Reg.EDX, Reg.EBX), asked)


@params(RIGHTS_WORLDS)
@pytest.mark.parametrize("name", RIGHTS)
def test_a_fault_of_the_table_or_the_operand_leaves_no_trace(rig: InlineRig, world: World, name: str) -> None:
    """The table is missing, or only the upper half of the descriptor, or the operand in memory."""
    code = _rights(name, 4, Reg.EDX, Reg.EBX)
    in_memory = code[:-1] + bytes([code[-1] & 0x38 | Reg.EBX])  # [EBX]
    for before in list(states())[::9]:
        before = before.but(ebx=0x10, GDT_LIMIT=0xFFFF)
        faults(rig, world, code, before.but(GDT_BASE=DATA + UNMAPPED), DATA + UNMAPPED + 0x10)
        faults(rig, world, code, before.but(GDT_BASE=DATA + 0x2000 - 0x14), DATA + 0x2000)
        faults(rig, world, in_memory, before.but(ebx=UNMAPPED), DATA + UNMAPPED)


@params({name: world for name, world in WORLDS.items() if name not in RIGHTS_WORLDS})
@pytest.mark.parametrize("name", RIGHTS)
def test_elsewhere_rights_are_for_the_vmm(rig: InlineRig, world: World, name: str) -> None:
    for before in list(states())[::9]:
        _asks(rig, world, _rights(name, 4, Reg.EDX, Reg.EBX), before)


# --- self-checking blocks ----------------------------------------------------------------------------------


@params(KERNELS)
def test_a_self_checking_block_runs_while_its_source_is_the_same(rig: InlineRig, world: World) -> None:
    """Seven bytes of source, each changed once: flags and registers survive both ways."""
    code = assemble("lea eax, [eax + 0x12345678]", world.context.code32)
    source_at = 0x30_0000 + 0x100
    eip = source_at - world.cs_base & MASK32
    for before in list(states())[::4]:
        data = bytearray(before.data)
        data[0x100 : 0x100 + len(code)] = code
        before = before.but(data=bytes(data))
        block = rig.place(world, code, eip, Options(self_check=True))
        outcome = rig.go(world, block, before)
        assert outcome.site is not None
        assert outcome.site.kind is SiteKind.LINK
        assert outcome.state == before.but(eax=before.regs[Reg.EAX] + 0x1234_5678)
        for at in range(len(code)):
            data[0x100 + at] ^= 0x80 >> at
            changed = before.but(data=bytes(data))
            outcome = rig.go(world, block, changed)
            assert outcome.site is not None
            assert (outcome.site.kind, outcome.state) == (SiteKind.STALE, changed)
            data[0x100 + at] ^= 0x80 >> at
