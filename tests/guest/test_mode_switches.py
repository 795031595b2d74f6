"""From mode to mode and ring to ring, as boot loaders and kernels go: all state carried over, none of the VMM's."""

import pytest
from guest_bench import (
    ARITHMETIC,
    CODE,
    CODE_RE,
    DATA,
    DATA_RW,
    ENTRY,
    FREE,
    GDT,
    HANDLERS,
    IDT,
    IF,
    MAIN_TSS,
    OTHER_TSS,
    P16,
    P32,
    PAGE_DIRECTORY,
    PAGE_TABLE,
    PE,
    PG,
    REAL,
    STACK,
    STACK0,
    TSS,
    TSS_B,
    V86_3,
    VM,
    Bench,
    asm,
    descriptor,
    flat_code,
    interrupt_gate,
    little,
)  # fmt: skip

from vmm.arch.descriptors import Gate, SystemType
from vmm.arch.registers import Eflags, Reg, Seg
from vmm.engines.engine import Leave

CODE16, DATA16 = FREE, FREE + 8
NT = int(Eflags.NT)


def tables_for_16_bit(bench: Bench) -> None:
    """16-bit code and data segments based at CODE, as a boot loader's way back to real mode needs them."""
    bench.poke(GDT + CODE16, descriptor(CODE, 0xFFFF, CODE_RE))
    bench.poke(GDT + DATA16, descriptor(CODE, 0xFFFF, DATA_RW))


# --- real mode and back -------------------------------------------------------------------------------------------

ROUND_TRIPS = {False: 2000, True: 250}
"""Unpaged as GRUB does; with paging on and off again each trip empties the shadow twice, so fewer of those."""


def grub_style_loop(paging: bool) -> bytes:
    """Real mode -> protected -> [paging ->] real mode, CX times; INT 80h in real mode each time, as BIOS calls are."""
    first = CODE + ENTRY
    enter = asm(f"a: cli; lgdt cs:[{ENTRY + 0x200}]; mov eax, cr0; or al, 1; mov cr0, eax", False)
    jump_in = b"\x66\xea" + little(first + len(enter) + 8, 4) + little(8, 2)
    turn_on = (
        f"mov eax, {PAGE_DIRECTORY:#x}; mov cr3, eax; mov eax, cr0; or eax, 0x80000000; mov cr0, eax;" if paging else ""
    )
    turn_off = "mov eax, cr0; and eax, 0x7fffffff; mov cr0, eax; xor eax, eax; mov cr3, eax;" if paging else ""
    wide = asm(
        (
            f"mov eax, 0x10; mov ds, eax; mov es, eax; mov ss, eax; {turn_on} mov esp, 0x50000; "
            f"inc dword ptr [0x20000]; push ebx; pop ebx; {turn_off}"
        ),
        True,
    )
    start16 = ENTRY + len(enter) + 8 + len(wide) + 7
    jump_16 = b"\xea" + little(start16, 4) + little(CODE16, 2)
    leave = asm(
        f"mov ax, {DATA16}; mov ds, ax; mov es, ax; mov ss, ax; mov eax, cr0; and al, 0xfe; mov cr0, eax", False
    )
    after = start16 + len(leave) + 5
    jump_real = b"\xea" + little(after, 2) + little(CODE >> 4, 2)
    real = asm(
        (
            f"mov ax, 0x3000; mov ss, ax; mov sp, 0x800; mov ax, {DATA >> 4}; mov ds, ax; mov es, ax; "
            f"lidt cs:[{ENTRY + 0x208}]; sti; int 0x80; inc bx; dec cx"
        ),
        False,
    )
    code = enter + jump_in + wide + jump_16 + leave + jump_real + real
    back = b"\x0f\x85" + little(-(len(code) + 4), 2)
    return code + back


@pytest.mark.parametrize("paging", [False, True], ids=["unpaged", "paged"])
def test_thousands_of_round_trips_between_real_and_protected_mode(bench, paging):
    code, trips = grub_style_loop(paging), ROUND_TRIPS[paging]
    assert len(code) < 0x200
    bench.start(REAL, code, ebx=0, ecx=trips)
    tables_for_16_bit(bench)
    bench.poke(CODE + ENTRY + 0x200, little(0x3FF, 2) + little(GDT, 4))
    bench.poke(CODE + ENTRY + 0x208, little(0x3FF, 2) + little(0, 4))
    bench.poke(0x8000, asm("inc dx; iret", False))
    bench.poke(4 * 0x80, 0x8000)
    bench.poke(DATA, 0)
    bench.set(edx=0)
    for page in range(1024):
        bench.poke(PAGE_TABLE + 4 * page, page << 12 | 3)
    bench.poke(PAGE_DIRECTORY, PAGE_TABLE | 3)
    result = bench.run(10_000_000)
    assert result["eip"] == "end"
    assert (result["ebx"], result["ecx"] & 0xFFFF, result["edx"], bench.word(DATA)) == (trips, 0, trips, trips)
    assert (result["cr0"] & (PE | PG), result["ss"], result["ds"]) == (0, (0x3000, 0x3_0000), (DATA >> 4, DATA))


def test_big_real_mode_reaches_4_gib_until_the_segment_is_loaded_in_protected_mode(bench):
    """DS keeps the limit that protected mode gave it; a load in real mode changes its base alone."""
    bench.start(REAL, b"")
    code = asm(
        (
            f"lgdt cs:[{ENTRY + 0x200}]; mov eax, cr0; or al, 1; mov cr0, eax; mov bx, 0x10; mov ds, bx; "
            "and al, 0xfe; mov cr0, eax; "
            "mov ebx, 0x300000; mov dword ptr [ebx], 0x12345678; mov cx, 0x10; mov ds, cx; "
            "mov edx, dword ptr [ebx - 0x100]"
        ),
        False,
    )
    bench.start(REAL, code)
    bench.poke(CODE + ENTRY + 0x200, little(0x3FF, 2) + little(GDT, 4))
    result = bench.run()
    assert (result["eip"], bench.word(0x30_0000), result["edx"], result["ds"]) == (
        "end",
        0x1234_5678,
        0x1234_5678,
        (0x10, 0x100),
    )


def test_protected_mode_before_the_far_jump_runs_with_the_old_segments(bench):
    """CR0.PE alone changes no segment register: CS keeps its base, and its size, until it is loaded."""
    bench.start(
        REAL, "mov eax, cr0; or al, 1; mov cr0, eax; mov bx, cs; mov cx, ds; smsw dx; mov si, [0x40]; mov ax, 0x7777"
    )
    bench.poke(DATA + 0x40, 0x4321, 2)
    bench.vcpu.gdtr = (GDT, 0x3FF)
    result = bench.run()
    shown = {name: result[name] & 0xFFFF for name in ("eax", "ebx", "ecx", "edx", "esi")}
    assert shown == {"eax": 0x7777, "ebx": CODE >> 4, "ecx": DATA >> 4, "edx": 0x11, "esi": 0x4321}
    assert result["eip"] == "end"


def test_paging_goes_on_and_off_under_running_code(bench):
    bench.start(
        P32[0],
        (
            f"mov eax, {PAGE_DIRECTORY:#x}; mov cr3, eax; mov eax, cr0; or eax, 0x80000000; mov cr0, eax; "
            f"mov ebx, [0x400000 + {DATA}]; and eax, 0x7fffffff; mov cr0, eax; mov ecx, [{DATA}]"
        ),
    )
    bench.map_pages(alias=0x40_0000)
    bench.vcpu.cr0 &= ~PG
    bench.vcpu.cr3 = 0
    bench.poke(DATA, 0x1357_9BDF)
    result = bench.run()
    assert (result["eip"], result["ebx"], result["ecx"]) == ("end", 0x1357_9BDF, 0x1357_9BDF)


def test_cr3_changes_what_lies_under_running_code(bench):
    """Two directories, two pages at one address, switched from a page that both share."""
    other = 0x20_2000
    bench.start(
        P32[0],
        (
            f"mov ebx, [0x400000]; mov eax, {other}; mov cr3, eax; mov ecx, [0x400000]; "
            f"mov eax, {PAGE_DIRECTORY}; mov cr3, eax; mov edx, [0x400000]"
        ),
    )
    bench.map_pages(alias=0x40_0000)
    bench.poke(other, PAGE_TABLE | 7)
    bench.poke(other + 4, 0x20_3000 | 7)
    bench.poke(0x20_3000, 0x30_0000 | 7)
    bench.poke(0, 0x1111_1111)
    bench.poke(0x30_0000, 0x2222_2222)
    result = bench.run()
    assert [result[n] for n in ("eip", "ebx", "ecx", "edx")] == ["end", 0x1111_1111, 0x2222_2222, 0x1111_1111]


def test_invlpg_makes_a_changed_entry_seen(bench):
    bench.start(
        P32[0],
        f"mov ebx, [0x30000]; mov dword ptr [{PAGE_TABLE + 0x30 * 4}], 0x300007; invlpg [0x30000]; mov ecx, [0x30000]",
    )
    bench.map_pages()
    bench.poke(0x3_0000, 0x1111_1111)
    bench.poke(0x30_0000, 0x2222_2222)
    result = bench.run()
    assert [result[n] for n in ("eip", "ebx", "ecx")] == ["end", 0x1111_1111, 0x2222_2222]


@pytest.mark.parametrize("write_protect", [False, True])
def test_a_supervisor_write_to_a_read_only_page_does_not_open_it_to_the_user(bench, write_protect):
    """CR0.WP clear lets ring 0 write; ring 3 must fault on the same page all the same, and the other way round."""
    page = 0x30_0000
    bench.start(P32[0], f"mov dword ptr [{page}], 5")
    bench.map_pages()
    bench.poke(PAGE_TABLE + (page >> 10), page | 5)
    if write_protect:
        bench.vcpu.cr0 |= 1 << 16
    result = bench.run()
    assert result.get("fault") == ((14, 3) if write_protect else None)
    bench.start(P32[3], f"mov ebx, [{page}]; mov dword ptr [{page}], 6")
    result = bench.run()
    assert (result["fault"], result["cr2"]) == ((14, 7), page)
    assert bench.word(page) == (0 if write_protect else 5)


def test_accessed_and_dirty_bits_are_the_guests(bench):
    bench.start(P32[0], "mov eax, [0x30000]; mov [0x31000], eax")
    bench.map_pages()
    bench.run()
    assert [bench.word(PAGE_TABLE + 4 * n, 1) & 0x60 for n in (0x30, 0x31, 0x32)] == [0x20, 0x60, 0]


# --- rings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [P32[1], P32[2], P32[3], P16[3], P16[1], V86_3], ids=str)
def test_an_interrupt_gate_to_ring_0_and_iret_back_restores_everything(bench, mode):
    bench.start(mode, b"\xcd\x80" * 50, eflags=ARITHMETIC | IF)
    bench.poke(
        HANDLERS + 0x600,
        asm(
            (
                "push eax; pushfd; mov eax, cs; and eax, 3; add dword ptr ss:[0x48000], eax; "
                "inc dword ptr ss:[0x48004]; popfd; pop eax; iretd"
            ),
            True,
        ),
    )
    bench.poke(IDT + 8 * 0x80, interrupt_gate(HANDLERS + 0x600, 3))
    before = bench.here()
    after = bench.run()
    assert (bench.word(0x4_8000), bench.word(0x4_8004)) == (0, 50)
    before.pop("memory")
    after.pop("memory")
    if mode.kind == "protected" and not mode.code32:
        before["esp"] |= STACK0 & 0xFFFF_0000  # IRETD to a 16-bit stack loads SP: what the kernel had above stays
    assert after == before


def test_v86_is_entered_and_left_by_iretd_and_int(bench):
    """A ring-0 kernel builds the nine-word frame; INT from V86 comes back to it with the same frame."""
    bench.start(P32[0], b"\xcf")
    frame = [
        ENTRY + 0x40,
        CODE >> 4,
        VM | IF | 3 << 12 | 2,
        0x800,
        (STACK - 0x800) >> 4,
        0x1111,
        0x2222,
        0x3333,
        0x4444,
    ]
    bench.poke(STACK, b"".join(little(value, 4) for value in frame))
    bench.poke(CODE + ENTRY + 0x40, asm("mov ax, ds; mov bx, es; mov cx, fs; mov dx, gs; smsw si; int 0x80", False))
    result = bench.run()
    assert result["fault"] == (0x80, None)
    assert [result[n] & 0xFFFF for n in ("eax", "ebx", "ecx", "edx", "esi")] == [0x2222, 0x1111, 0x3333, 0x4444, 0x11]
    assert [result[n][0] for n in ("cs", "ss", "es", "ds", "fs", "gs")] == [
        CODE >> 4,
        (STACK - 0x800) >> 4,
        0x1111,
        0x2222,
        0x3333,
        0x4444,
    ]
    assert [bench.vcpu.selector(seg) for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS)] == [0] * 4
    assert result["eflags"] & (VM | IF) == VM | IF


@pytest.mark.parametrize("outer", [1, 2, 3])
def test_a_call_gate_changes_rings_copies_parameters_and_retf_comes_back(bench, outer):
    mode = P32[outer]
    gate = FREE + 0x10
    call = b"\x9a" + little(0xDEAD_BEEF, 4) + little(gate | outer, 2)
    code = b"\x6a\x11\x6a\x22" + call
    bench.start(mode, code, eflags=ARITHMETIC)
    target = HANDLERS + 0x700
    bench.poke(GDT + gate, Gate(target, 8, SystemType.CALL_GATE32, 3, True, 2).to_bytes())
    bench.poke(
        target, asm("pushfd; mov esi, cs; mov edi, [esp + 12]; mov ecx, [esp + 16]; popfd", True) + b"\xca\x08\x00"
    )
    before = bench.here()
    after = bench.run()
    assert [after[n] for n in ("eip", "esi", "edi", "ecx")] == ["end", 8, 0x22, 0x11]
    assert (after["esp"], after["ss"], after["cs"], after["cpl"]) == (before["esp"], before["ss"], before["cs"], outer)
    assert after["eflags"] == before["eflags"]


def test_iretd_to_an_outer_ring_nulls_segments_it_may_not_keep(bench):
    bench.start(P32[0], b"\xcf")
    frame = [P32[0].entry + 1, flat_code(3), 2, STACK - 0x100, flat_code(3) + 8]
    bench.poke(STACK, b"".join(little(value, 4) for value in frame))
    bench.load(Seg.ES, flat_code(3) + 8)
    after = bench.run()
    assert (after["eip"], after["cpl"], after["cs"], after["ss"]) == (
        "end",
        3,
        (flat_code(3), 0),
        (flat_code(3) + 8, 0),
    )
    assert [after[n][0] for n in ("ds", "es", "fs", "gs")] == [0, flat_code(3) + 8, 0, 0]


# --- tasks ------------------------------------------------------------------------------------------------------------


def other_task(bench: Bench, eip: int, *, eflags: int = 2, ring: int = 0) -> None:
    """Fill the second TSS: flat segments of a ring, a stack, the registers 1001h to 1008h."""
    code, data = flat_code(ring), flat_code(ring) + 8
    words = {
        0x1C: 0,
        0x20: eip,
        0x24: eflags,
        0x48: data,
        0x4C: code,
        0x50: data,
        0x54: data,
        0x58: data,
        0x5C: data,
        0x60: 0x118,
    }
    for index in range(8):
        words[0x28 + 4 * index] = 0x1001 + index
    words[0x38] = 0x4_9000
    words |= {4: STACK0, 8: flat_code(0) + 8}
    for offset, value in words.items():
        bench.poke(TSS_B + offset, value)


def test_a_far_call_to_a_tss_switches_tasks_and_iret_comes_back(bench):
    bench.start(P32[0], b"\x9a" + bytes(4) + little(OTHER_TSS, 2) + b"\x90", eflags=ARITHMETIC)
    target = HANDLERS + 0x800
    other_task(bench, target)
    bench.poke(
        target, asm("str eax; mov [0x48000], eax; pushfd; pop dword ptr [0x48004]; mov [0x48008], ecx", True) + b"\xcf"
    )
    before = bench.here()
    after = bench.run()
    assert [bench.word(0x4_8000 + 4 * i) for i in range(3)] == [OTHER_TSS, NT | 2, 0x1002]
    assert after["eip"] == "end"
    assert after["cr0"] & 8
    names = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "cs", "ss", "ds", "tr")
    assert {n: after[n] for n in names} == {n: before[n] for n in names}
    assert after["eflags"] == before["eflags"]


def test_a_far_jump_to_a_tss_leaves_the_old_task_free(bench):
    bench.start(P32[0], b"\xea" + bytes(4) + little(OTHER_TSS, 2))
    other_task(bench, HANDLERS + 0x800, ring=3)
    bench.poke(HANDLERS + 0x800, b"\x40\xf4")
    after = bench.run()
    assert (after["fault"], after["eip"], after["eax"], after["tr"]) == ((13, 0), HANDLERS + 0x801, 0x1002, OTHER_TSS)
    assert [bench.word(GDT + selector + 5, 1) for selector in (MAIN_TSS, OTHER_TSS)] == [0x89, 0x8B]


def test_a_task_gate_takes_a_double_fault_where_the_stack_is_gone(bench):
    """What task gates are for: ring 0 without a stack page still ends in a handler."""
    bench.start(P32[0], b"\x50")
    other_task(bench, HANDLERS + 0x800)
    bench.poke(TSS_B + 0x1C, PAGE_DIRECTORY)
    bench.poke(HANDLERS + 0x800, b"\x58\xf4")
    bench.poke(IDT + 8 * 8, Gate(0, OTHER_TSS, SystemType.TASK_GATE, 0, True).to_bytes())
    bench.map_pages(missing=[STACK & ~0xFFF, (STACK & ~0xFFF) - 0x1000])
    bench.run()
    assert (bench.leave, bench.vcpu.eip, bench.vcpu.reg32(Reg.EAX)) == (Leave.HALTED, HANDLERS + 0x802, 0)
    assert bench.word(TSS + 0x20) == P32[0].entry


def test_a_reset_leaves_the_processor_able_to_run(bench: Bench) -> None:
    """As the monitor does it: the virtual CPU is reset under an engine that goes on."""
    bench.run_case("nop", P32[0])
    bench.vcpu.reset()
    bench.start(REAL, "mov ax, [0x40]; mov word ptr [0x42], 0x1234")
    shown = bench.run(10_000)
    assert shown["eip"] == "end"
    assert shown["eax"] & 0xFFFF == 0xEEEE
    assert bench.word(DATA + 0x42, 2) == 0x1234
