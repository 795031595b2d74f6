"""The translator: what becomes of each instruction, and what holds for a block made from any bytes."""

import os
from pathlib import Path

import capstone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt import emit
from bt.assemble import template
from bt.decode import MAX_LENGTH, Decoder, Insn
from bt.emit import CALLOUT_VECTOR, S3, Emitter, SiteKind, Translation
from bt.fpu_state import STATES
from bt.guest import Context, Mode, Window
from bt.innocuous import INNOCUOUS
from bt.tables import (
    BRANCHES,
    CRITICAL,
    ENDS_BLOCK,
    ENGINE_FLAWS,
    INLINE,
    LEAVING,
    PARTLY,
    TABLE,
    casts_shadow,
    is_sensitive,
)
from bt.translate import BLOCK_LIMIT, BlockTranslator, NeedsMoreBytes, Options

TRANSLATOR = BlockTranslator()
WINDOW = Window(0x7500_0000, 0x7500_0000, 0x7600_0800, 0x7600_0000, 0)
EIP = 0x1000
EXIT = bytes([0xCD, CALLOUT_VECTOR])
MODES = {False: capstone.CS_MODE_16, True: capstone.CS_MODE_32}
REAL = Context(Mode.REAL, 0, False, False)
V86 = Context(Mode.V86, 3, False, False)
KERNEL = Context(Mode.PROTECTED, 0, True, True)
USER = Context(Mode.PROTECTED, 3, True, True)
CONTEXTS = {"real": REAL, "v86": V86, "kernel": KERNEL, "user": USER, "ring 1": Context(Mode.PROTECTED, 1, True, True)}


def translate(code: str | bytes, context: Context = KERNEL, **options: int) -> Translation:
    """Translate code whose page ends in NOPs."""
    raw = bytes.fromhex(code) if isinstance(code, str) else code
    made = Options(**options)  # type: ignore[arg-type]
    return TRANSLATOR.translate(raw + b"\x90" * MAX_LENGTH, EIP, context, WINDOW, made)


def kinds(translation: Translation) -> list[SiteKind]:
    return [site.kind for site in translation.sites]


# --- golden ------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden.txt"


def _golden() -> list[tuple[str, list[str]]]:
    entries: list[tuple[str, list[str]]] = []
    for line in GOLDEN.read_text().splitlines():
        if line.startswith("    "):
            entries[-1][1].append(line.strip())
        else:
            entries.append((line, []))
    return entries


def _listing(heading: str) -> list[str]:
    """What the translator makes of an entry: a name, the bytes, the code size and the CPL."""
    raw, size, cpl = heading.rsplit(":", 1)[1].split()
    code32 = size == "32"
    context = Context(Mode.PROTECTED if code32 else Mode.REAL, int(cpl.removeprefix("cpl")), code32, code32)
    code = TRANSLATOR.translate(bytes.fromhex(raw), EIP, context, WINDOW).code
    insns = list(capstone.Cs(capstone.CS_ARCH_X86, MODES[code32]).disasm(code, 0))
    assert sum(insn.size for insn in insns) == len(code)
    return [f"{insn.mnemonic} {insn.op_str}".strip() for insn in insns]


@pytest.mark.parametrize(("heading", "expected"), [pytest.param(*entry, id=entry[0]) for entry in _golden()])
def test_the_emitted_code_is_what_was_reviewed(heading: str, expected: list[str]) -> None:
    """`golden.txt` is read by people: UPDATE_GOLDEN=1 writes it anew, and the change wants a look."""
    assert _listing(heading) == expected


def test_no_template_needs_the_assembler_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `templates.json` lacks, `python -m tools.assemble_templates` puts there."""
    template.cache_clear()
    emit._kept.cache_clear()
    monkeypatch.setattr("bt.assemble.assemble", lambda text, code32: pytest.fail(f"not kept, {code32}: {text}"))
    for heading, _ in _golden():
        _listing(heading)


@pytest.mark.skipif("UPDATE_GOLDEN" not in os.environ, reason="writes golden.txt; only when asked")
def test_golden_is_written_anew() -> None:
    GOLDEN.write_text(
        "".join(f"{name}\n" + "".join(f"    {line}\n" for line in _listing(name)) for name, _ in _golden())
    )


# --- the tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CRITICAL)
def test_every_critical_instruction_has_an_entry(name: str) -> None:
    assert name in TABLE


def test_the_critical_list_is_robin_and_irvines_and_iret() -> None:
    assert len(CRITICAL) == 19
    assert set(CRITICAL) == set(
        "sgdt sidt sldt smsw pushf popf lar lsl verr verw pop push call jmp int ret str mov iret".split()
    )


PRIVILEGED = {
    "lgdt": "0f0113", "lidt": "0f011b", "lldt": "0f00d0", "ltr": "0f00d8", "lmsw": "0f01f0", "clts": "0f06",
    "invlpg": "0f0138", "invd": "0f08", "wbinvd": "0f09", "hlt": "f4", "rdmsr": "0f32", "wrmsr": "0f30",
    "rdpmc": "0f33", "rdtsc": "0f31", "mov cr0": "0f22c0", "mov dr": "0f23c0", "mov from dr": "0f21c0",
    "in": "ec", "in imm": "e460", "out": "ee", "out imm": "e660", "insb": "6c", "rep insd": "f36d", "outsb": "6e",
    "rep outsw": "f3666f", "cli": "fa", "sti": "fb", "iret": "cf", "iretd 66": "66cf", "int3": "cc", "into": "ce",
    "int": "cd80", "sysenter": "0f34", "sysexit": "0f35", "retf": "cb", "retf imm": "ca0400",
    "far call": "9a000000000800", "far jmp": "ea000000000800", "far call m": "ff18", "far jmp m": "ff28",
    "lar": "0f02c1", "lsl": "0f03c1", "verr": "0f00e1", "verw": "0f00e9", "arpl": "63c8", "cpuid": "0fa2",
    "sgdt": "0f0103", "sidt": "0f010b", "sldt": "0f00c0", "str": "0f00c8", "smsw": "0f01e0", "pushf": "9c",
    "popf": "9d", "mov from cr": "0f20c0", "icebp": "f1", "ud2": "0f0b", "rsm": "0faa",
}  # fmt: skip


@pytest.mark.parametrize("context", [pytest.param(context, id=name) for name, context in CONTEXTS.items()])
@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw in PRIVILEGED.items()])
@pytest.mark.parametrize("inline", [True, False])
def test_no_sensitive_instruction_ever_gets_into_the_cache_as_it_is(raw: str, context: Context, inline: bool) -> None:
    translation = translate(raw, context, limit=2, inline=inline)
    code = bytes.fromhex(raw)
    if context.code32 or not raw.startswith(("9a", "ea")):  # a far pointer has another length in 16-bit code
        assert insns_of(translation)[0].raw == code
    assert not translation.code.startswith(code)
    assert len(translation.rewritten) == 1
    if not inline:
        assert kinds(translation)[0] is SiteKind.CALLOUT


def test_the_tables_do_not_overlap() -> None:
    assert INNOCUOUS.isdisjoint(TABLE)
    assert len(TABLE) == len(INLINE) + len(PARTLY) + len(BRANCHES) + len(LEAVING) + len({"lzcnt", "tzcnt"}) + len(
        ENGINE_FLAWS
    ) + len(STATES)
    assert TABLE.keys() >= ENDS_BLOCK


SEGMENT_LOADS = {
    "mov es": "8ec0", "mov ss": "8ed0", "mov ds": "8ed8", "mov fs": "8ee0", "mov gs": "8ee8", "mov ds, m": "8e18",
    "pop es": "07", "pop ss": "17", "pop ds": "1f", "pop fs": "0fa1", "pop gs": "0fa9",
    "les": "c403", "lds": "c503", "lss": "0fb203", "lfs": "0fb403", "lgs": "0fb503",
}  # fmt: skip


@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw in SEGMENT_LOADS.items()])
def test_segment_loads_are_native_in_v86_and_leave_in_protected_mode(raw: str) -> None:
    for context in (REAL, V86):
        assert translate(raw, context, limit=2).code.startswith(bytes.fromhex(raw))
    for context in (KERNEL, USER):
        assert kinds(translate(raw, context, limit=2))[0] is SiteKind.CALLOUT


@pytest.mark.parametrize("raw", ["8ed0", "17"], ids=["mov ss", "pop ss"])
def test_a_real_mode_load_of_a_big_stack_segment_leaves(raw: str) -> None:
    """V86 would clear SS.B."""
    assert kinds(translate(raw, Context(Mode.REAL, 0, False, True), limit=2))[0] is SiteKind.CALLOUT


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_mov_to_cs_leaves_everywhere(context: Context) -> None:
    assert kinds(translate("8ec8", context, limit=1))[0] is SiteKind.CALLOUT


SELECTOR_READS = ["8cd8", "8cc8", "8c1b", "06", "0e", "16", "1e", "0fa0", "0fa8"]


@pytest.mark.parametrize("raw", SELECTOR_READS)
@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_reads_of_a_selector_stay(raw: str, context: Context) -> None:
    """The hidden register holds the guest's own selector, RPL included."""
    assert translate(raw, context, limit=1).code.startswith(bytes.fromhex(raw))


DECIDED = [
    # code, context, does it leave
    ("9c", V86, True), ("9d", V86, True), ("9c", KERNEL, False), ("9d", KERNEL, False), ("9c", USER, False),
    ("9d", USER, False), ("9d", Context(Mode.PROTECTED, 1, True, True), True),
    ("9d", Context(Mode.PROTECTED, 3, True, True, iopl3=True), True), ("fa", USER, True), ("fb", USER, True),
    ("fa", KERNEL, False), ("fb", KERNEL, False), ("fa", REAL, False), ("fb", V86, True),
    ("0f00c0", REAL, True), ("0f00c8", V86, True), ("0f00c0", USER, False), ("0f01e0", V86, False),
    ("0f20c0", USER, True), ("0f20c0", V86, True), ("0f20c0", REAL, False), ("0f20c8", KERNEL, True),
    ("0f20e8", KERNEL, True), ("0f0100", USER, False), ("0f0108", V86, False),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "context", "leaves"), DECIDED)
def test_what_needs_a_decision_leaves_the_cache(raw: str, context: Context, leaves: bool) -> None:
    """And what needs none stays: no exit but the link behind it, and the finish of STI and POPF."""
    found = kinds(translate(raw, context, limit=2))
    assert (SiteKind.CALLOUT in found) == leaves


UNKNOWN = ["0f3800c1", "0f0f00bf", "f30fb8c1", "0f05", "0f07", "0fb9", "0fff", "66900f3a0fc101", "0f01d0", "0fc7f0"]


@pytest.mark.parametrize("raw", UNKNOWN)
def test_an_instruction_that_this_processor_lacks_leaves_and_ends_the_block(raw: str) -> None:
    translation = translate(raw + "9090")
    assert translation.sites[-1].kind is SiteKind.CALLOUT
    assert translation.code.endswith(EXIT)
    assert insns_of(translation)[-1].name not in INNOCUOUS


def test_bytes_that_are_no_instruction_are_one_that_does_not_exist() -> None:
    translation = translate("8fc8")
    assert insns_of(translation)[0].mnemonic == "(undefined)"
    assert (insns_of(translation)[0].raw, translation.source_size, translation.code) == (b"\x8f", 1, EXIT)
    assert kinds(translation) == [SiteKind.CALLOUT]


# --- blocks ------------------------------------------------------------------------------------------------


def test_a_block_ends_at_a_control_transfer() -> None:
    translation = translate("9040eb0090")
    assert [insn.mnemonic for insn in insns_of(translation)] == ["nop", "inc", "jmp"]
    assert (translation.source_size, kinds(translation)) == (4, [SiteKind.LINK])


def test_a_block_goes_on_behind_a_call_and_knows_where_it_returns() -> None:
    """By displacement, by register and by memory, each with and without an operand-size prefix."""
    translation = translate("e800010000 40 66e80001 40 ffd1 40 66ff13 40 c3 40")
    names = [insn.mnemonic for insn in insns_of(translation)]
    assert names == ["call", "inc"] * 4 + ["ret"]
    assert [eip - EIP for _, eip in translation.returns] == [5, 10, 13, 17]
    assert [translation.offset_of(eip) for _, eip in translation.returns] == [at for at, _ in translation.returns]


@pytest.mark.parametrize("call", ["e800010000", "66e80001", "ffd1", "ff13"])
@pytest.mark.parametrize(
    ("before", "behind", "options"),
    [
        pytest.param("90", "", {}, id="at the end of the page"),
        pytest.param("90", "b80000", {}, id="before an instruction that the page cuts off"),
        pytest.param("90", "40", {"limit": 2}, id="at the limit"),
        pytest.param("90fb", "40", {"limit": 2}, id="in a shadow, behind the limit"),
        pytest.param("", "40", {"limit": 1, "step": True}, id="in a step"),
        pytest.param("90", "40", {"self_check": True}, id="in a block that checks itself"),
    ],
)
def test_a_call_ends_its_block(call: str, before: str, behind: str, options: dict[str, int]) -> None:
    made = Options(**options)  # type: ignore[arg-type]
    translation = TRANSLATOR.translate(bytes.fromhex(before + call + behind), EIP, KERNEL, WINDOW, made)
    assert (translation.source, translation.returns) == (bytes.fromhex(before + call), [])


def test_the_code_of_an_instruction_is_found_by_its_eip_alone() -> None:
    """Not by an EIP inside it, nor by the one behind the block."""
    translation = translate("b8000000009c9d0fa2eb00")
    starts = {EIP, EIP + 5, EIP + 6, EIP + 7, EIP + 9}
    for eip in range(EIP - 1, EIP + translation.source_size + 1):
        offset = translation.offset_of(eip)
        assert (offset is not None) == (eip in starts)
        assert offset is None or translation.starts[offset] == eip


def test_a_block_goes_on_behind_a_callout_that_returns() -> None:
    translation = translate("0fa2ec0f31eb00")
    assert [insn.mnemonic for insn in insns_of(translation)] == ["cpuid", "in", "rdtsc", "jmp"]


def test_a_block_ends_at_its_limit_and_links_to_what_follows() -> None:
    translation = TRANSLATOR.translate(b"\x90" * 100, EIP, KERNEL, WINDOW)
    assert len(insns_of(translation)) == BLOCK_LIMIT
    assert [(site.kind, site.target) for site in translation.sites] == [(SiteKind.LINK, EIP + BLOCK_LIMIT)]


def test_a_block_goes_on_from_a_shadow_to_what_it_covers() -> None:
    translation = TRANSLATOR.translate(b"\x90" * (BLOCK_LIMIT - 1) + b"\xfb" + b"\x90" * 9, EIP, KERNEL, WINDOW)
    assert len(insns_of(translation)) == BLOCK_LIMIT + 1
    assert SiteKind.CALLOUT not in {site.kind for site in translation.sites}


def test_a_block_ends_before_an_instruction_that_its_page_cuts_off() -> None:
    translation = TRANSLATOR.translate(b"\x90\x90\xe8\x00", EIP, KERNEL, WINDOW)
    assert (len(insns_of(translation)), translation.source_size) == (2, 2)
    assert translation.sites[-1].target == EIP + 2


@pytest.mark.parametrize("source", [b"\xe8", b"\x66", b"\x0f", b""])
def test_a_first_instruction_that_is_cut_off_needs_more_bytes(source: bytes) -> None:
    with pytest.raises(NeedsMoreBytes):
        TRANSLATOR.translate(source, EIP, KERNEL, WINDOW)


def test_with_all_its_bytes_there_it_is_undefined_instead() -> None:
    translation = TRANSLATOR.translate(b"\x66" * MAX_LENGTH, EIP, KERNEL, WINDOW)
    assert kinds(translation) == [SiteKind.CALLOUT]


def test_a_step_runs_one_instruction_and_leaves() -> None:
    translation = translate("9090", limit=1, step=True)
    assert (translation.code, kinds(translation)) == (b"\x90" + EXIT, [SiteKind.STEP_END])
    assert translation.sites[0].insn.next_eip == EIP + 1


def test_a_self_checking_block_ends_behind_a_store() -> None:
    translation = translate("90891890", self_check=True)
    assert [insn.mnemonic for insn in insns_of(translation)] == ["nop", "mov"]
    assert SiteKind.STALE in kinds(translation)


@pytest.mark.parametrize(("raw", "shadowed"), [("fb90", True), ("8ed090", True), ("1790", True), ("0fb20390", False)])
def test_the_instruction_behind_sti_and_mov_ss_stands_in_a_shadow(raw: str, shadowed: bool) -> None:
    """SDM Vol. 3A, "Masking Exceptions and Interrupts When Switching Stacks"; LSS has no need of it."""
    translation = translate(raw, REAL, limit=2)
    second = next(offset for offset, eip in translation.starts.items() if eip == insns_of(translation)[1].eip)
    assert (second in translation.shadowed) == shadowed
    assert 0 not in translation.shadowed


@pytest.mark.parametrize("raw", ["fb", "8ed0", "17"])
def test_what_casts_a_shadow_over_the_next_block_leaves(raw: str) -> None:
    """The block behind it cannot know; the VMM does."""
    translation = translate(raw, REAL, limit=1)
    assert kinds(translation) == [SiteKind.CALLOUT, SiteKind.LINK]


def test_probes_frame_what_stays_and_nothing_else() -> None:
    """CLI and MOV stay, CPUID does as a rule, IN never."""
    translation = translate("90fa0fa2ec8cd8eb00", probe_critical=True)
    framed = [site.insn.mnemonic for site in translation.sites if site.kind is SiteKind.TRACE]
    assert framed == ["cli", "cli", "cpuid", "cpuid", "mov", "mov"]
    plain = translate("90fa0fa2ec8cd8eb00")
    assert plain.code == _without_probes(translation)


def _without_probes(translation: Translation) -> bytes:
    code = bytearray(translation.code)
    for site in reversed(translation.sites):
        if site.kind is SiteKind.TRACE:
            del code[site.offset - len(EXIT) : site.offset]
    return bytes(code)


TARGETS = [
    ("eb10", KERNEL, 0x1012), ("ebfe", KERNEL, 0x1000), ("e900010000", KERNEL, 0x1105), ("66e90001", KERNEL, 0x1104),
    ("66e900f0", KERNEL, 0x0004), ("e900f0", REAL, 0x0003), ("66e900f0ffff", REAL, 0x0006), ("7480", KERNEL, 0x0F82),
    ("0f8400f0ffff", KERNEL, 0x0006), ("e3fe", REAL, 0x1000), ("ebef", Context(Mode.REAL, 0, False, False), 0x0FF1),
    ("e8fbefffff", KERNEL, 0), ("e9f0efffff", KERNEL, 0xFFFF_FFF5), ("e9f0ef", REAL, 0xFFF3),
    ("f2e900010000", KERNEL, 0x1106),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "context", "target"), TARGETS)
def test_a_direct_branch_knows_its_target(raw: str, context: Context, target: int) -> None:
    assert target in [site.target for site in translate(raw, context, limit=1).sites]


# --- any bytes ---------------------------------------------------------------------------------------------

ANY_CONTEXT = st.builds(
    lambda mode, cpl, code32, stack32, iopl3: Context(
        mode, cpl if mode is Mode.PROTECTED else 3 * (mode is Mode.V86), code32, stack32, iopl3
    ),
    st.sampled_from(list(Mode)), st.sampled_from([0, 1, 3]), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
ANY_OPTIONS = st.builds(
    Options, st.sampled_from([1, 2, BLOCK_LIMIT]), st.just(False), st.booleans(), st.booleans(), st.booleans()
)
# Bytes that mean something to the tables come up more often than chance has it.
ANY_CODE = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=6),
        st.sampled_from([bytes.fromhex(raw) for raw in (*PRIVILEGED.values(), *SEGMENT_LOADS.values(), "ffe0", "c3")]),
    ),
    min_size=1, max_size=20,
).map(b"".join)  # fmt: skip
WINDOWS = [
    WINDOW,
    Window(0xF500_0000, 0xF500_1000, 0xF600_0800, 0xF600_0000, 0xF_FFF0),
    Window(0xF500_0000, 0xF500_1000, 0xF600_0000, 0xF600_0000, 0),
]


@settings(max_examples=500, deadline=None)
@given(code=ANY_CODE, eip=st.sampled_from([0, EIP, 0xFFF0, 0xFFFF_FF00]), context=ANY_CONTEXT, options=ANY_OPTIONS,
       window=st.sampled_from(WINDOWS))  # fmt: skip
def test_any_bytes_make_a_sound_block(
    code: bytes, eip: int, context: Context, options: Options, window: Window
) -> None:
    try:
        translation = TRANSLATOR.translate(code, eip, context, window, options)
    except NeedsMoreBytes:
        assert len(code) < MAX_LENGTH
        return
    assert translation == TRANSLATOR.translate(code, eip, context, window, options)
    _check_coverage(translation, code, eip, options)
    _check_marks(translation)
    _check_sites(translation, window)
    _check_returns(translation, options)
    _check_rewritten(translation, context)
    insns = Decoder().decode(translation.code, 0, context.code32)
    assert sum(len(insn.raw) for insn in insns) == len(translation.code)


def insns_of(translation: Translation) -> list[Insn]:
    return TRANSLATOR.instructions(translation)


def _check_coverage(translation: Translation, code: bytes, eip: int, options: Options) -> None:
    """The block is made from consecutive bytes, all of them, and no more than asked for."""
    raw = b"".join(insn.raw for insn in insns_of(translation))
    assert raw == code[: translation.source_size]
    assert len(insns_of(translation)) >= 1
    beyond = insns_of(translation)[options.limit - 1 : -1]  # a block does not end between a shadow and what it covers
    assert all(casts_shadow(insn) for insn in beyond)
    at = eip
    for insn in insns_of(translation):
        assert insn.eip == at & 0xFFFF_FFFF
        at += len(insn.raw)
    assert all(insn.name == "call" or insn.name not in ENDS_BLOCK for insn in insns_of(translation)[:-1])


def _check_marks(translation: Translation) -> None:
    """Marks and starts ascend, and each instruction has both."""
    offsets = [mark.offset for mark in translation.marks]
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    starts = list(translation.starts)
    assert starts == sorted(starts)
    assert starts[-1] < len(translation.code)
    eips = [insn.eip for insn in insns_of(translation)]
    known = list(dict.fromkeys(translation.starts.values()))
    assert known[: len(eips)] == eips
    assert known[len(eips) :] in ([], [insns_of(translation)[-1].next_eip])
    assert {mark.eip for mark in translation.marks} == set(known)
    assert translation.shadowed <= translation.starts.keys()


def _check_returns(translation: Translation, options: Options) -> None:
    """Every CALL but the last instruction returns into the block, unless that checks itself."""
    calls = [insn.next_eip for insn in insns_of(translation)[:-1] if insn.name == "call"]
    assert [eip for _, eip in translation.returns] == calls
    assert all(translation.starts[offset] == eip for offset, eip in translation.returns)
    assert not (options.self_check and calls)


def _check_sites(translation: Translation, window: Window) -> None:
    """Each site stands behind an exit, each link's branch goes to it, no two are in one place. The block ends in an
    exit or in the jump of an indirect branch."""
    offsets = [site.offset for site in translation.sites]
    assert len(set(offsets)) == len(offsets)
    for site in translation.sites:
        assert translation.code[site.offset - len(EXIT) : site.offset] == EXIT
        assert site.insn in insns_of(translation)
        if site.kind is SiteKind.LINK:
            displacement = int.from_bytes(translation.code[site.patch : site.patch + 4], "little", signed=True)
            assert site.patch + 4 + displacement == site.offset - len(EXIT)
    away = b"\xff\x25" + window.scratch_word(4 * S3).to_bytes(4, "little")
    is_indirect = insns_of(translation)[-1].name in ("call", "iretd", "jmp", "ret")
    assert translation.code.endswith(EXIT) or (is_indirect and translation.code.endswith(away))


def _check_rewritten(translation: Translation, context: Context) -> None:
    """What is sensitive in this mode was rewritten; what is not listed as rewritten has its bytes in the block."""
    changed = {insn.eip for insn, _, _ in translation.rewritten}
    for insn in insns_of(translation):
        name = insn.name
        if insn.eip in changed or name not in {*TABLE, *INNOCUOUS}:
            continue
        assert insn.raw in translation.code
        if is_sensitive(insn):
            assert name in ("mov", "push", "pop", "lds", "les", "lfs", "lgs", "lss"), insn
            reads_selector = name == "push" or (name == "mov" and insn.opcode == 0x8C)
            assert reads_selector or context.mode is not Mode.PROTECTED, insn


DIRECT_BRANCHES = [*(f"{0x70 + cc:02x}{d}" for cc in range(16) for d in ("05", "f0")), "eb7f", "eb80", "e900010000",
                   *(f"0f{0x80 + cc:02x}00f0ffff" for cc in range(16)), "e800100000", "e8fbffffff"]  # fmt: skip


@pytest.mark.parametrize("raw", DIRECT_BRANCHES)
def test_the_short_way_for_direct_branches_gives_what_their_own_functions_give(raw: str) -> None:
    """32-bit code without prefixes is translated in one go; `bt.branches` has the rules."""
    code = bytes.fromhex(raw)
    made = TRANSLATOR.translate(code + b"\xc3", EIP, KERNEL, WINDOW, Options(limit=1))
    insn = insns_of(made)[0]
    emit = Emitter(KERNEL, WINDOW)
    emit.begin(insn)
    TABLE[insn.name](emit, insn)
    if insn.name not in ENDS_BLOCK:
        emit.begin_end(insn, insn.next_eip)
        emit.jump(insn.next_eip)
    expected = emit.finish(EIP, code, 1)
    assert (made.code, made.positions, made.sites) == (expected.code, expected.positions, expected.sites)
