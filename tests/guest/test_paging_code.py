"""Code and its mapping: what runs is what the guest's translation of its address shows, whatever way leads there.

A program goes to TARGET by one *way* (a direct jump, RET, the lookup table...) often enough for the way to be learned,
changes what the guest's tables say about TARGET, flushes the TLB as a kernel does, and goes the same way again. The
code in frame n appends the byte n to a log, so a log tells what ran.

Source: SDM Vol. 3A, "Caching Translation Information", "Page-Fault Exceptions".
"""

from collections.abc import Callable, Sequence

import pytest
from guest_bench import CODE as MAIN
from guest_bench import DATA, ENTRY, IDT, P32, PG, STACK, Bench, Mode, Picture, asm, flat_code, interrupt_gate, little
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.arch.exceptions import PageFault, Vector
from vmm.arch.paging import Pte
from vmm.arch.registers import Cr0, Cr4, Efer
from vmm.cpu import shadow, spaces
from vmm.cpu.vcpu import STALE_ALL

TABLES, SITE, SERVICE, ROUTINES, FRAMES = 0x20_0000, 0x6_0000, 0x6_2000, 0x6_3000, 0x30_0000
CELL, RETURNS = SITE + 0x800, SITE + 0x400  # a pointer to SITE; RETs for the lookup way to learn
LOG = DATA + 0x100
WINDOW = 0x80_0000  # two mebibytes of linear space with a page table of their own
BEFORE, TARGET, ALIAS = WINDOW, WINDOW + 0x1000, WINDOW + 0x8000
PRELUDE = 15  # the frame of BEFORE: code that runs on into TARGET
LARGE_TARGET = WINDOW + 0x18_0000
P, U, G, PS, NX = (int(Pte[name]) for name in ("P", "U", "G", "PS", "NX"))
RIGHTS = int(Pte.P | Pte.W | Pte.U)
WP, PAE, PGE, PSE, NXE = int(Cr0.WP), int(Cr4.PAE), int(Cr4.PGE), int(Cr4.PSE), int(Efer.NXE)
FP, FU, FI = (int(bit) for bit in (PageFault.P, PageFault.U, PageFault.I))

GO = b"\xff\x15" + little(CELL, 4)  # call [CELL]
MARK_FAULT = "add esp, 16; mov byte ptr [edi], 0xf; inc edi; ret"
"""A handler in ring 0 for #PF of a fetch: logs 15 and returns to the caller of what cannot run."""


def body(number: int) -> bytes:
    """The code in frame n: append n to the log, RET."""
    return b"\xc6\x07" + bytes([number]) + b"\x47\xc3"


# --- the ways ------------------------------------------------------------------------------------------------


def relative(opcode: bytes, at: int, target: int) -> bytes:
    """A branch with a rel32 that lies at `at`."""
    return opcode + little(target - at - len(opcode) - 4, 4)


def by_lookup(target: int, _ring: int) -> bytes:
    """An indirect jump that has learned three other targets already."""
    go = SITE + 3 * 10 + 5
    calls = b"".join(b"\xb9" + little(RETURNS + 16 * n, 4) + relative(b"\xe8", SITE + 10 * n + 5, go) for n in range(3))
    return calls + b"\xb9" + little(target, 4) + b"\xff\xe1"


WAYS: dict[str, Callable[[int, int], bytes]] = {
    "jmp": lambda target, _: relative(b"\xe9", SITE, target),
    "jcc": lambda target, _: b"\xf9" + relative(b"\x0f\x82", SITE + 1, target),
    "call": lambda target, _: relative(b"\xe8", SITE, target) + b"\xc3",
    "jmp_reg": lambda target, _: b"\xb9" + little(target, 4) + b"\xff\xe1",
    "jmp_mem": lambda target, _: b"\xff\x25" + little(CELL + 4, 4),
    "ret": lambda target, _: b"\x68" + little(target, 4) + b"\xc3",
    "lookup": by_lookup,
    "fall_through": lambda target, _: relative(b"\xe9", SITE, target - 1),
    "iret": lambda target, _: b"\x9c\x0e\x68" + little(target, 4) + b"\xcf",
    "far_jmp": lambda target, ring: b"\xea" + little(target, 4) + little(flat_code(ring), 2),
    "far_ret": lambda target, _: b"\x0e\x68" + little(target, 4) + b"\xcb",
}
"""Code at SITE that goes to a target, with nothing but the caller's return address on the stack."""

FLUSHES = {
    "invlpg": "invlpg [{la}]",
    "cr3": "mov eax, cr3; mov cr3, eax",
    "pge": "mov eax, cr4; xor eax, 0x80; mov cr4, eax; xor eax, 0x80; mov cr4, eax",
    "pg": "mov eax, cr0; and eax, 0x7fffffff; mov cr0, eax; or eax, 0x80000000; mov cr0, eax",
}


# --- the guest -----------------------------------------------------------------------------------------------


class Space:
    """One address space: the first 4 MiB identity, and the window's own table."""

    def __init__(self, bench: Bench, pae: bool, number: int, identity: int) -> None:
        self._bench, self._size = bench, 8 if pae else 4
        self.cr3 = TABLES + number * 0x1_0000
        directory, low, self.table = self.cr3 + 0x1000 * pae, self.cr3 + 0x2000, self.cr3 + 0x4000
        bench.poke(self.cr3, bytes(0x5000))
        if pae:
            bench.poke(self.cr3, directory | P, 8)
        for page in range(1024):
            bench.poke(low + self._size * page, page << 12 | identity, self._size)
        for index in range(2 if pae else 1):
            bench.poke(directory + self._size * index, low + 0x1000 * index | RIGHTS, self._size)
        self.directory_entry = directory + self._size * (WINDOW >> (21 if pae else 22))
        bench.poke(self.directory_entry, self.table | RIGHTS, self._size)

    def entry(self, la: int) -> int:
        """Where the page-table entry of an address in the window lies."""
        return self.table + self._size * (la - WINDOW >> 12)

    def map(self, la: int, frame: int, rights: int = RIGHTS) -> None:
        """Map a page of the window to frame n."""
        self._bench.poke(self.entry(la), FRAMES + (frame << 12) | rights, self._size)


class Guest:
    """A program in a paged guest; it starts in space 0. Frame n holds `body(n)` at its start."""

    def __init__(
        self, bench: Bench, mode: Mode = P32[0], pae: bool = False, bits: int = RIGHTS, identity: int = RIGHTS
    ) -> None:
        self.bench, self.mode, self.bits = bench, mode, bits
        self._routines = ROUTINES
        self._pae = pae
        self._fault_handler = b""
        for number in range(1, PRELUDE):
            bench.poke(FRAMES + (number << 12), body(number).ljust(0x1000, b"\xcc"))
        bench.poke(FRAMES + (PRELUDE << 12), b"\x90" * 0x1000)
        bench.poke(SITE, b"\xcc" * 0x1000)
        bench.poke(RETURNS, b"\xc3" * 0x40)
        self.spaces = [Space(bench, pae, number, identity) for number in range(2)]
        for space in self.spaces:
            space.map(BEFORE, PRELUDE)
        self.way("jmp")

    def way(self, name: str, target: int = TARGET) -> None:
        """Let GO take a way to a target."""
        self.bench.poke(SITE, WAYS[name](target, self.mode.ring))
        self.bench.poke(CELL, little(SITE, 4) + little(target, 4))

    def on_fault(self, code: str) -> None:
        """What ring 0 does at #PF, instead of ending the run."""
        self._fault_handler = asm(code, True)

    def run(self, *pieces: bytes, **registers: int) -> Picture:
        """Run a program from the start; the picture after it has the `log`."""
        bench = self.bench
        bench.start(self.mode, b"".join(pieces), edi=LOG, **registers)
        bench.poke(SERVICE, asm("call eax; iretd", True))
        bench.poke(IDT + 8 * 0x80, interrupt_gate(SERVICE, 3))
        if self._fault_handler:
            bench.poke(SERVICE + 0x100, self._fault_handler)
            bench.poke(IDT + 8 * Vector.PF, interrupt_gate(SERVICE + 0x100))
        vcpu = bench.vcpu
        vcpu.cr3, vcpu.cr4, vcpu.efer = self.spaces[0].cr3, PGE | PSE | (PAE if self._pae else 0), NXE
        if self._pae:
            vcpu.pdptes[:] = bench.mmu.read_pdptes(vcpu.cr3)
        vcpu.cr0 |= PG | WP
        vcpu.make_stale(STALE_ALL)
        return self._with_log(bench.run())

    def again(self) -> Picture:
        """Run on from the start with nothing changed but an empty log: what was translated is still there."""
        self.bench.vcpu.eip = self.mode.entry
        self.bench.set(edi=LOG)
        return self._with_log(self.bench.run())

    def _with_log(self, after: Picture) -> Picture:
        return after | {"log": list(self.bench.peek(LOG, after["edi"] - LOG))}

    # --- pieces of programs -----------------------------------------------------------------------------

    def kernel(self, code: str) -> bytes:
        """Run a routine in ring 0; EAX, ECX and EDX are its own."""
        at = self._routines
        made = asm(code, True) + b"\xc3"
        self.bench.poke(at, made)
        self._routines += len(made) + 16 & ~15
        return b"\xb8" + little(at, 4) + b"\xcd\x80"

    def set_entry(self, la: int, frame: int, bits: int | None = None, space: int = 0) -> str:
        """The low half of a page-table entry becomes another; frame 0: not present."""
        bits = self.bits if bits is None else bits
        entry = FRAMES + (frame << 12) | bits if frame else 0
        return f"mov dword ptr [{self.spaces[space].entry(la)}], {entry & 0xFFFF_FFFF}"

    def remap(self, la: int, frame: int, flush: str = "invlpg") -> bytes:
        """Map a page to another frame, or to none, and flush its translation."""
        return self.kernel(self.set_entry(la, frame) + "; " + FLUSHES[flush].format(la=la))

    def switch(self, space: int) -> bytes:
        """Load CR3 with another space."""
        return self.kernel(f"mov eax, {self.spaces[space].cr3}; mov cr3, eax")


def store(at: int, value: int) -> bytes:
    """MOV byte [at], value."""
    return b"\xc6\x05" + little(at, 4) + bytes([value])


def repeated(count: int, *pieces: bytes) -> bytes:
    """The pieces so many times; EBP counts."""
    inner = b"".join(pieces) + b"\x4d"  # dec ebp
    return b"\xbd" + little(count, 4) + inner + b"\x0f\x85" + little(-len(inner) - 6, 4)


KINDS = [
    pytest.param(mode, pae, id=f"{'pae' if pae else '32bit'}-ring{mode.ring}")
    for pae in (False, True)
    for mode in (P32[0], P32[3])
]


# --- a page remapped without a write to its bytes ------------------------------------------------------------


@pytest.mark.parametrize(("mode", "pae"), KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_remapped_page_runs_its_new_code(bench, mode, pae, way):
    guest = Guest(bench, mode, pae)
    guest.way(way)
    guest.spaces[0].map(TARGET, 1)
    after = guest.run(GO, GO, guest.remap(TARGET, 2), GO, GO, guest.remap(TARGET, 1), GO)
    assert (after["eip"], after["log"]) == ("end", [1, 1, 2, 2, 1])


@pytest.mark.parametrize("bits", [RIGHTS, RIGHTS | G], ids=["local", "global"])
@pytest.mark.parametrize("flush", FLUSHES)
@pytest.mark.parametrize("way", ["jmp", "ret", "lookup"])
def test_every_kind_of_flush_counts_for_code(bench, way, flush, bits):
    guest = Guest(bench, bits=bits)
    guest.way(way)
    guest.spaces[0].map(TARGET, 1, bits)
    after = guest.run(GO, GO, guest.remap(TARGET, 2, flush), GO, GO, guest.remap(TARGET, 1, flush), GO)
    assert (after["eip"], after["log"]) == ("end", [1, 1, 2, 2, 1])


@pytest.mark.parametrize("touch", [False, True], ids=["fetched_only", "read_too"])
def test_invlpg_drops_a_page_that_was_fetched_and_never_read(bench, touch):
    """The data TLB knows nothing of such a page; what is inline for INVLPG must not take that for the answer."""
    guest = Guest(bench)
    guest.spaces[0].map(TARGET, 1)
    read = asm(f"mov al, [{TARGET}]", True) if touch else b""
    after = guest.run(GO, read, guest.remap(TARGET, 2), GO)
    assert after["log"] == [1, 2]


@pytest.mark.parametrize(("large", "distance"), [(False, 0), (True, 0), (True, 0x4_0000)])
def test_invlpg_drops_code_after_so_much_data_that_the_shadow_began_again(bench, monkeypatch, large, distance):
    """What the shadow forgets for want of room it must not forget of the code pages that are on."""
    monkeypatch.setattr(shadow, "_NOTES_MAX", 8)
    guest = Guest(bench, pae=large)
    guest.spaces[0].map(TARGET, 1)
    la, change = TARGET, guest.set_entry(TARGET, 2)
    if large:
        la = LARGE_TARGET
        for number, base in ((1, 0), (2, 0x20_0000)):
            bench.poke(base + (la - WINDOW), body(number))
        bench.poke(guest.spaces[0].directory_entry, RIGHTS | PS)
        change = large_entry(guest, 0x20_0000 | RIGHTS | PS)
    guest.way("jmp", la)
    reads = b"".join(asm(f"mov al, [{0x10_0000 + 0x1000 * page}]", True) for page in range(30))
    after = guest.run(GO, reads, guest.kernel(f"{change}; invlpg [{la + distance}]"), GO)
    assert after["log"] == [1, 2]


@pytest.mark.parametrize("again", [1, 2, 5])
def test_a_remapped_page_whose_bytes_are_the_same_goes_on(bench, again):
    guest = Guest(bench)
    guest.spaces[0].map(TARGET, 1)
    guest.bench.poke(FRAMES + 0x2000, body(1))
    after = guest.run(repeated(again, GO, guest.remap(TARGET, 2), GO, guest.remap(TARGET, 1)))
    assert (after["eip"], after["log"]) == ("end", [1, 1] * again)


@pytest.mark.parametrize("way", WAYS)
def test_what_was_learned_holds_in_the_next_run_as_little_as_in_this_one(bench, way):
    """The same program twice: its blocks are all there at the second start, under a mapping that came and went."""
    guest = Guest(bench)
    guest.way(way)
    guest.spaces[0].map(TARGET, 1)
    program = (guest.remap(TARGET, 1), GO, guest.remap(TARGET, 2), GO, guest.remap(TARGET, 3), GO)
    assert guest.run(*program)["log"] == [1, 2, 3]
    for _ in range(3):
        assert guest.again()["log"] == [1, 2, 3]


@pytest.mark.parametrize("pae", [False, True], ids=["32bit", "pae"])
def test_a_page_that_moves_to_another_address_runs_there(bench, pae):
    """Frame 1 leaves TARGET for ALIAS, and frame 2 takes its place."""
    guest = Guest(bench, pae=pae)
    guest.way("jmp_mem")
    guest.spaces[0].map(TARGET, 1)
    to_alias, to_target = (asm(f"mov dword ptr [{CELL + 4}], {la}", True) for la in (ALIAS, TARGET))
    move = (guest.remap(TARGET, 2), guest.remap(ALIAS, 1), to_alias, GO, to_target, GO)
    assert guest.run(GO, *move)["log"] == [1, 1, 2]


@pytest.mark.parametrize("way", ["jmp", "call", "ret", "lookup", "fall_through"])
def test_a_directory_entry_changed_is_seen_behind_invlpg(bench, way):
    """INVLPG drops what the processor keeps of the upper levels too."""
    guest = Guest(bench)
    guest.way(way)
    guest.spaces[0].map(TARGET, 1)
    guest.spaces[1].map(TARGET, 2)
    change = f"mov dword ptr [{guest.spaces[0].directory_entry}], {guest.spaces[1].table | RIGHTS}; invlpg [{TARGET}]"
    after = guest.run(GO, GO, guest.kernel(change), GO)
    assert after["log"] == [1, 1, 2]


# --- code that changes its own mapping -------------------------------------------------------------------------

REMAPPERS = {
    "invlpg": ("mov dword ptr [{entry}], {new}; invlpg [{la}]", RIGHTS),
    "cr3": ("mov dword ptr [{entry}], {new}; mov eax, cr3; mov cr3, eax", RIGHTS),
    "other_space": ("mov eax, {other}; mov cr3, eax", RIGHTS),
    "pge": ("mov dword ptr [{entry}], {new} + 0x100; mov eax, cr4; xor eax, 0x80; mov cr4, eax", RIGHTS | G),
}


@pytest.mark.parametrize("pae", [False, True], ids=["32bit", "pae"])
@pytest.mark.parametrize("how", REMAPPERS)
def test_code_goes_on_in_the_frame_that_it_mapped_under_itself(bench, how, pae):
    """The instructions that flush are serialising: the next one is fetched anew (Vol. 3A, "Serializing
    Instructions")."""
    text, bits = REMAPPERS[how]
    guest = Guest(bench, pae=pae, bits=bits)
    first, second = guest.spaces
    first.map(TARGET, 1, bits)
    second.map(TARGET, 2, bits)
    code = asm(text.format(entry=first.entry(TARGET), new=FRAMES + 0x2000 | RIGHTS, la=TARGET, other=second.cr3), True)
    guest.bench.poke(FRAMES + 0x1000, code + body(1))
    guest.bench.poke(FRAMES + 0x2000, b"\x90" * len(code) + body(2))
    after = guest.run(GO, GO)
    assert (after["eip"], after["log"]) == ("end", [2, 2])


def test_code_that_unmaps_itself_faults_at_the_next_instruction(bench):
    guest = Guest(bench)
    guest.spaces[0].map(TARGET, 1)
    code = asm(f"{guest.set_entry(TARGET, 0)}; invlpg [{TARGET}]", True)
    guest.bench.poke(FRAMES + 0x1000, code + body(1))
    after = guest.run(GO)
    assert (after["fault"], after["eip"], after["cr2"], after["log"]) == (
        (Vector.PF, 0), TARGET + len(code), TARGET + len(code), [],
    )  # fmt: skip


# --- one frame at two addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "pae"), KINDS)
@pytest.mark.parametrize("way", ["jmp", "ret", "lookup", "fall_through"])
def test_code_written_through_an_alias_is_new(bench, mode, pae, way):
    guest = Guest(bench, mode, pae)
    guest.way(way)
    for la in (TARGET, ALIAS):
        guest.spaces[0].map(la, 1)
    after = guest.run(GO, GO, store(ALIAS + 2, 7), GO, store(FRAMES + 0x1002, 8), GO, store(TARGET + 2, 9), GO)
    assert (after["eip"], after["log"]) == ("end", [1, 1, 7, 8, 9])


def test_an_alias_mapped_after_the_translation_is_watched_too(bench):
    guest = Guest(bench)
    guest.spaces[0].map(TARGET, 1)
    after = guest.run(GO, guest.remap(ALIAS, 1), store(ALIAS + 2, 7), GO, store(ALIAS + 2, 8), GO)
    assert after["log"] == [1, 7, 8]


def test_an_alias_in_another_space_is_watched_too(bench):
    guest = Guest(bench)
    guest.spaces[0].map(TARGET, 1)
    guest.spaces[1].map(ALIAS, 1)
    to, back = guest.switch(1), guest.switch(0)
    after = guest.run(GO, to, store(ALIAS + 2, 7), back, GO, to, store(ALIAS + 2, 8), back, GO, GO)
    assert after["log"] == [1, 7, 8, 8]


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_both_addresses_of_a_frame_run_what_was_written_through_either(bench, mode):
    guest = Guest(bench, mode)
    guest.way("jmp_mem")
    for la in (TARGET, ALIAS):
        guest.spaces[0].map(la, 1)
    to = {la: asm(f"mov dword ptr [{CELL + 4}], {la}", True) for la in (TARGET, ALIAS)}
    both = to[TARGET] + GO + to[ALIAS] + GO
    after = guest.run(both, store(ALIAS + 2, 5), both, store(TARGET + 2, 6), both)
    assert after["log"] == [1, 1, 5, 5, 6, 6]


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_code_modifies_what_follows_it_through_an_alias(bench, mode):
    """The store and the instruction that it changes are in one block, at another address than the store's."""
    guest = Guest(bench, mode)
    for la in (TARGET, ALIAS):
        guest.spaces[0].map(la, 1)
    guest.bench.poke(FRAMES + 0x1000, store(ALIAS + 9, 7) + body(1))
    assert guest.run(GO, GO)["log"] == [7, 7]


@pytest.mark.parametrize("pae", [False, True], ids=["32bit", "pae"])
def test_code_that_is_rewritten_through_an_alias_without_end_stays_right(bench, pae):
    """So often that its blocks check themselves; and then the page is remapped, and back."""
    guest = Guest(bench, pae=pae)
    for la in (TARGET, ALIAS):
        guest.spaces[0].map(la, 1)
    inc = b"\xfe\x05" + little(ALIAS + 2, 4)  # inc byte [ALIAS + 2]
    after = guest.run(repeated(300, inc, GO), guest.remap(TARGET, 2), GO, GO, guest.remap(TARGET, 1), GO, inc, GO)
    last = 301 & 0xFF
    assert after["log"] == [n + 2 & 0xFF for n in range(300)] + [2, 2, last, last + 1]


def test_a_page_that_checks_itself_can_be_unmapped(bench):
    guest = Guest(bench)
    for la in (TARGET, ALIAS):
        guest.spaces[0].map(la, 1)
    inc = b"\xfe\x05" + little(ALIAS + 2, 4)
    after = guest.run(repeated(250, inc, GO), guest.remap(TARGET, 0), inc, GO)
    assert (after["fault"], after["eip"], after["cr2"]) == ((Vector.PF, 0), TARGET, TARGET)
    assert len(after["log"]) == 250


def test_a_frame_written_by_dma_while_nobody_maps_it_is_new_when_it_comes_back(bench):
    guest = Guest(bench)
    guest.spaces[0].map(TARGET, 1)
    guest.run(GO, GO, guest.remap(TARGET, 2), GO)
    guest.bench.poke(FRAMES + 0x1002, 9, 1)
    after = guest.run(guest.remap(TARGET, 1), GO)
    assert after["log"] == [9]


def test_a_frame_written_by_the_guest_while_nobody_maps_it_is_new_when_it_comes_back(bench):
    guest = Guest(bench)
    guest.spaces[0].map(TARGET, 1)
    after = guest.run(
        GO, guest.remap(TARGET, 2), GO, store(FRAMES + 0x1002, 9), GO, guest.remap(TARGET, 1), GO,
        store(FRAMES + 0x1002, 8), GO,
    )  # fmt: skip
    assert after["log"] == [1, 2, 2, 9, 8]


# --- two address spaces ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [RIGHTS, RIGHTS | G], ids=["all_local", "kernel_global"])
@pytest.mark.parametrize(("mode", "pae"), KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_each_space_runs_its_own_code_at_one_address(bench, way, mode, pae, identity):
    guest = Guest(bench, mode, pae, identity=identity)
    guest.way(way)
    guest.spaces[0].map(TARGET, 1)
    guest.spaces[1].map(TARGET, 2)
    after = guest.run(repeated(6, GO, GO, guest.switch(1), GO, guest.switch(0)), GO)
    assert (after["eip"], after["log"]) == ("end", [1, 1, 2] * 6 + [1])


@pytest.mark.parametrize(("mode", "pae"), KINDS)
def test_spaces_that_share_a_frame_share_its_blocks_and_its_changes(bench, mode, pae):
    guest = Guest(bench, mode, pae, identity=RIGHTS | G)
    for space in guest.spaces:
        space.map(TARGET, 1)
    to, back = guest.switch(1), guest.switch(0)
    guest.run(GO, to, GO, back)
    before = bench.engine.stats.blocks
    assert guest.again()["log"] == [1, 1]
    assert bench.engine.stats.blocks == before
    after = guest.run(GO, to, GO, store(FRAMES + 0x1002, 5), GO, back, GO)
    assert after["log"] == [1, 1, 5, 5]


def test_a_page_that_one_space_lacks_faults_there_alone(bench):
    guest = Guest(bench)
    guest.spaces[0].map(TARGET, 1)
    guest.on_fault(MARK_FAULT)
    after = guest.run(repeated(4, GO, guest.switch(1), GO, guest.switch(0)))
    assert (after["eip"], after["log"], after["cr2"]) == ("end", [1, 0xF] * 4, TARGET)


def test_a_switch_drops_what_changed_in_the_tables_of_the_other_space(bench):
    guest = Guest(bench)
    guest.spaces[0].map(TARGET, 1)
    guest.spaces[1].map(TARGET, 2)
    change = guest.kernel(guest.set_entry(TARGET, 3, space=1))
    after = guest.run(GO, guest.switch(1), GO, guest.switch(0), change, GO, guest.switch(1), GO)
    assert after["log"] == [1, 2, 1, 3]


@pytest.mark.parametrize(("mode", "pae"), KINDS)
def test_two_processes_with_code_of_their_own_at_one_address_find_it_as_they_left_it(bench, mode, pae):
    """Nothing is filled or translated again. What costs an exit is the branch there: it knows the block of one of them."""
    guest = Guest(bench, mode, pae)
    for number, space in enumerate(guest.spaces):
        space.map(TARGET, 1 + number)
        space.map(ALIAS, 5 + number)
    touch = asm(f"inc dword ptr [{ALIAS + 0x200}]", True)
    to, back = guest.switch(1), guest.switch(0)
    guest.run(repeated(5, GO, touch, to, GO, touch, back))
    exits, blocks = dict(bench.engine.stats.exits), bench.engine.stats.blocks
    assert guest.again()["log"] == [1, 2] * 5
    after = bench.engine.stats
    assert (after.exits["shadow fill"], after.blocks) == (exits["shadow fill"], blocks)
    assert after.exits["fetch"] - exits["fetch"] <= 5


@pytest.mark.parametrize("way", ["jmp", "jcc", "call", "fall_through"])
def test_a_page_that_moved_for_good_soon_costs_no_exits(bench, way):
    """Compaction moves a page of a program to another frame; the branch to it was tied to the old one."""
    guest = Guest(bench)
    guest.way(way)
    guest.spaces[0].map(TARGET, 1)
    bench.poke(FRAMES + 0x2000, body(1))
    after = guest.run(GO, guest.remap(TARGET, 2), repeated(200, GO))
    assert (after["eip"], after["log"]) == ("end", [1] * 201)
    assert bench.engine.stats.exits["fetch"] < 30


@pytest.mark.parametrize(("mode", "pae"), KINDS)
@pytest.mark.parametrize("way", ["jmp", "call", "ret"])
def test_pages_that_take_turns_cost_an_exit_a_turn_and_not_one_a_branch(bench, mode, pae, way):
    """The page with the branch is shared, the one with its target is each process's own."""
    guest = Guest(bench, mode, pae)
    guest.way(way)
    for number, space in enumerate(guest.spaces):
        space.map(TARGET, 1 + number)
    turns, branches = 12, 40
    turn = repeated(branches, GO) + guest.switch(1) + repeated(branches, GO) + guest.switch(0)
    after = guest.run(turn * turns)
    assert (after["eip"], after["log"]) == ("end", ([1] * branches + [2] * branches) * turns)
    exits, blocks = bench.engine.stats.exits["fetch"], bench.engine.stats.blocks
    assert guest.again()["log"] == after["log"]
    assert bench.engine.stats.exits["fetch"] - exits <= 4 * 2 * turns
    assert bench.engine.stats.blocks == blocks


@pytest.mark.parametrize("way", WAYS)
def test_a_page_that_takes_turns_with_four_others_runs_what_shows(bench, way):
    """All are abandoned now and then, with what was branched to in them."""
    guest = Guest(bench)
    guest.way(way)
    guest.spaces[0].map(TARGET, 1)
    after = guest.run(b"".join(repeated(20, GO) + guest.remap(TARGET, number) for number in (2, 3, 4, 1) * 5), GO)
    assert (after["eip"], after["log"]) == ("end", ([1] * 20 + [2] * 20 + [3] * 20 + [4] * 20) * 5 + [1])


@pytest.mark.parametrize("pae", [False, True], ids=["32bit", "pae"])
def test_a_directory_entry_changed_while_its_space_is_away_is_seen_after_the_switch_back(bench, pae):
    guest = Guest(bench, pae=pae)
    first, second = guest.spaces
    first.map(TARGET, 1)
    second.map(TARGET, 2)
    borrow = guest.kernel(f"mov dword ptr [{first.directory_entry}], {second.table | RIGHTS}")
    after = guest.run(GO, guest.switch(1), GO, borrow, guest.switch(0), GO)
    assert (after["eip"], after["log"]) == ("end", [1, 2, 2])


@pytest.mark.parametrize(("mode", "pae"), KINDS)
def test_code_rewritten_while_its_space_is_away_runs_anew_after_the_switch_back(bench, mode, pae):
    guest = Guest(bench, mode, pae)
    guest.spaces[0].map(TARGET, 1)
    guest.spaces[1].map(TARGET, 2)
    after = guest.run(
        repeated(3, GO, guest.switch(1), GO, store(FRAMES + 0x1002, 7), guest.switch(0), GO, store(FRAMES + 0x1002, 8))
    )
    assert (after["eip"], after["log"]) == ("end", [1, 2, 7] + [8, 2, 7] * 2)


@pytest.mark.parametrize("pae", [False, True], ids=["32bit", "pae"])
def test_accessed_bits_that_were_cleared_are_set_again_after_each_load_of_cr3(bench, pae):
    guest = Guest(bench, pae=pae)
    space = guest.spaces[0]
    space.map(TARGET, 1)
    entries = (space.entry(TARGET), space.directory_entry)
    code = "; ".join(f"and dword ptr [{entry}], 0xffffffdf" for entry in entries)
    after = guest.run(repeated(4, GO, guest.kernel(code + "; mov eax, cr3; mov cr3, eax")), GO)
    assert (after["log"], [bench.word(entry) & 0x20 for entry in entries]) == ([1] * 5, [0x20] * 2)


def test_spaces_that_make_room_for_each_other_run_what_is_theirs(bench, monkeypatch):
    monkeypatch.setattr(spaces, "SPACES_MAX", 1)
    guest = Guest(bench)
    for number, space in enumerate(guest.spaces):
        space.map(TARGET, 1 + number)
    after = guest.run(repeated(4, GO, guest.switch(1), GO, guest.switch(0)))
    assert (after["eip"], after["log"]) == ("end", [1, 2] * 4)


# --- global pages ------------------------------------------------------------------------------------------------

GLOBAL_CASES = [
    pytest.param("cr3", PGE, [1, 2], id="a load of CR3 drops it when its entry has changed"),
    pytest.param("invlpg", PGE, [1, 2], id="INVLPG drops it"),
    pytest.param("pge", PGE, [1, 2], id="CR4.PGE drops it"),
    pytest.param("pg", PGE, [1, 2], id="CR0.PG drops it"),
    pytest.param("cr3", 0, [1, 2], id="without CR4.PGE it is like any other"),
]


@pytest.mark.parametrize(("mode", "pae"), KINDS)
@pytest.mark.parametrize(("flush", "pge", "log"), GLOBAL_CASES)
def test_a_global_page_of_code(bench, flush, pge, log, mode, pae):
    """A processor may drop a global translation any time; this one does so when the guest's tables show another."""
    guest = Guest(bench, mode, pae, bits=RIGHTS | G)
    guest.spaces[0].map(TARGET, 1, RIGHTS | G)
    no_pge = b"" if pge else guest.kernel("mov eax, cr4; and al, 0x7f; mov cr4, eax")
    after = guest.run(no_pge, GO, guest.remap(TARGET, 2, flush), GO)
    assert (after["eip"], after["log"]) == ("end", log)


def test_a_global_page_serves_both_spaces_across_cr3(bench):
    guest = Guest(bench, bits=RIGHTS | G)
    for space in guest.spaces:
        space.map(TARGET, 1, RIGHTS | G)
    after = guest.run(repeated(3, GO, guest.switch(1), GO, guest.switch(0)), guest.remap(TARGET, 2), GO)
    assert after["log"] == [1] * 6 + [2]


# --- pages that are gone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "pae"), KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_way_into_a_page_that_was_unmapped_faults_at_its_target(bench, mode, pae, way):
    guest = Guest(bench, mode, pae)
    guest.way(way)
    guest.spaces[0].map(TARGET, 1)
    after = guest.run(GO, GO, guest.remap(TARGET, 0), GO)
    error_code = (FU if mode.ring else 0) | (FI if pae else 0)
    assert (after["fault"], after["eip"], after["cr2"]) == ((Vector.PF, error_code), TARGET, TARGET)
    assert (after["log"], after["esp"], after["cpl"]) == ([1, 1], STACK - (8 if way == "call" else 4), mode.ring)


@pytest.mark.parametrize(("mode", "pae"), KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_handler_that_maps_the_page_lets_it_run(bench, mode, pae, way):
    """Demand paging, over and over: each time it is another frame."""
    guest = Guest(bench, mode, pae)
    guest.way(way)
    entry = guest.spaces[0].entry(TARGET)
    guest.on_fault(f"push eax; mov eax, [{CELL + 8}]; mov [{entry}], eax; pop eax; add esp, 4; iretd")
    pieces = []
    for frame in (1, 2, 1, 3):
        load = f"mov dword ptr [{CELL + 8}], {FRAMES + (frame << 12) | RIGHTS}"
        pieces += [guest.kernel(f"{load}; mov dword ptr [{entry}], 0; invlpg [{TARGET}]"), GO, GO]
    after = guest.run(*pieces)
    assert (after["eip"], after["log"]) == ("end", [1, 1, 2, 2, 1, 1, 3, 3])


@pytest.mark.parametrize("way", ["jmp", "ret", "lookup", "fall_through"])
def test_a_missing_page_table_faults_too(bench, way):
    guest = Guest(bench)
    guest.way(way)
    guest.spaces[0].map(TARGET, 1)
    gone = guest.kernel(f"mov dword ptr [{guest.spaces[0].directory_entry}], 0; mov eax, cr3; mov cr3, eax")
    after = guest.run(GO, GO, gone, GO)
    at = BEFORE + 0xFFF if way == "fall_through" else TARGET
    assert (after["fault"], after["eip"], after["cr2"]) == ((Vector.PF, 0), at, at)


def test_code_that_runs_into_a_page_that_was_unmapped_faults_with_what_it_has_done(bench):
    guest = Guest(bench)
    guest.way("jmp", TARGET - 5)
    guest.spaces[0].map(TARGET, 1)
    guest.bench.poke(FRAMES + (PRELUDE << 12) + 0xFFB, body(9)[:4] + b"\x90")
    after = guest.run(GO, GO, guest.remap(TARGET, 0), GO)
    assert (after["fault"], after["eip"], after["log"]) == ((Vector.PF, 0), TARGET, [9, 1, 9, 1, 9])


# --- rights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pae", [False, True], ids=["32bit", "pae"])
@pytest.mark.parametrize("way", WAYS)
def test_user_code_on_a_page_that_became_the_supervisors_faults(bench, way, pae):
    guest = Guest(bench, P32[3], pae)
    guest.way(way)
    guest.spaces[0].map(TARGET, 1)
    closed = guest.kernel(guest.set_entry(TARGET, 1, RIGHTS & ~U) + f"; invlpg [{TARGET}]")
    after = guest.run(GO, GO, closed, GO)
    error_code = FP | FU | (FI if pae else 0)
    assert (after["fault"], after["eip"], after["cr2"]) == ((Vector.PF, error_code), TARGET, TARGET)
    assert after["log"] == [1, 1]


@pytest.mark.parametrize("bits", [RIGHTS, RIGHTS & ~U], ids=["user_page", "supervisor_page"])
def test_the_kernel_runs_code_on_either_kind_of_page(bench, bits):
    guest = Guest(bench)
    guest.spaces[0].map(TARGET, 1, bits)
    assert guest.run(GO, GO)["log"] == [1, 1]


def test_what_the_kernel_may_run_at_an_address_the_user_may_not(bench):
    """The kernel's blocks at the very same EIP are no way in."""
    guest = Guest(bench, P32[3])
    guest.spaces[0].map(TARGET, 1, RIGHTS & ~U)
    after = guest.run(guest.kernel(f"mov ecx, {TARGET}; call ecx"), GO)
    assert (after["fault"], after["eip"], after["log"]) == ((Vector.PF, FP | FU), TARGET, [1])


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_code_on_a_page_that_became_nx_faults(bench, mode, way):
    guest = Guest(bench, mode, pae=True)
    guest.way(way)
    guest.spaces[0].map(TARGET, 1)
    closed = guest.kernel(f"mov dword ptr [{guest.spaces[0].entry(TARGET) + 4}], 0x80000000; invlpg [{TARGET}]")
    after = guest.run(GO, GO, closed, GO)
    error_code = FP | FI | (FU if mode.ring else 0)
    assert (after["fault"], after["eip"], after["cr2"]) == ((Vector.PF, error_code), TARGET, TARGET)
    assert after["log"] == [1, 1]


# --- instructions across pages -------------------------------------------------------------------------------------

SPLITS = [1, 2]
"""Bytes in the first page of MOV [EDI], n, three bytes, whose last one is in the second page either way."""


def crossing(guest: Guest, split: int) -> int:
    """Lay `body(n)` across the page end, frames 1 and n; returns its address."""
    bench = guest.bench
    for number in range(1, 5):
        bench.poke(FRAMES + (number << 12) + 0x1000 - split, body(number)[:split])
        bench.poke(FRAMES + (number + 4 << 12), body(number)[split:])
    guest.spaces[0].map(TARGET, 1)
    guest.spaces[0].map(TARGET + 0x1000, 5)
    return TARGET + 0x1000 - split


NEAR_WAYS = [way for way in WAYS if way != "fall_through"]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("mode", "pae"), KINDS)
@pytest.mark.parametrize("way", NEAR_WAYS)
def test_an_instruction_across_pages_sees_its_second_page_remapped(bench, mode, pae, way, split):
    guest = Guest(bench, mode, pae)
    guest.way(way, crossing(guest, split))
    second = TARGET + 0x1000
    after = guest.run(GO, GO, guest.remap(second, 6), GO, GO, guest.remap(second, 5), GO)
    assert (after["eip"], after["log"]) == ("end", [1, 1, 2, 2, 1])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("way", NEAR_WAYS)
def test_an_instruction_across_pages_sees_its_first_page_remapped(bench, way, split):
    """Frame 10 has RET at its end, and needs no second page."""
    guest = Guest(bench)
    guest.way(way, crossing(guest, split))
    bench.poke(FRAMES + 0xB000 - split, b"\xc3")
    after = guest.run(GO, GO, guest.remap(TARGET, 10), GO, guest.remap(TARGET, 1), GO)
    assert (after["eip"], after["log"]) == ("end", [1, 1, 1])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("mode", "pae"), KINDS)
@pytest.mark.parametrize("way", NEAR_WAYS)
def test_an_instruction_across_pages_whose_second_page_went_away_faults_with_its_address(bench, mode, pae, way, split):
    guest = Guest(bench, mode, pae)
    at = crossing(guest, split)
    guest.way(way, at)
    after = guest.run(GO, GO, guest.remap(TARGET + 0x1000, 0), GO)
    error_code = (FU if mode.ring else 0) | (FI if pae else 0)
    assert (after["fault"], after["eip"], after["cr2"]) == ((Vector.PF, error_code), at, TARGET + 0x1000)
    assert after["log"] == [1, 1]


@pytest.mark.parametrize("way", NEAR_WAYS)
def test_an_instruction_across_pages_whose_first_page_went_away_faults_with_its_own_address(bench, way):
    guest = Guest(bench)
    at = crossing(guest, 2)
    guest.way(way, at)
    after = guest.run(GO, GO, guest.remap(TARGET, 0), GO)
    assert (after["fault"], after["eip"], after["cr2"], after["log"]) == ((Vector.PF, 0), at, at, [1, 1])


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_the_missing_second_page_matters_only_when_the_instruction_is_executed(bench, mode):
    """STC; JC over it: the jump is taken, and nothing of the next page is needed."""
    guest = Guest(bench, mode)
    at = crossing(guest, 2)
    prelude = body(9)[:4] + b"\xf9\x73\x01\xc3"  # ...; stc; jnc the instruction; ret
    bench.poke(FRAMES + 0x2000 - 2 - len(prelude), prelude)
    guest.way("jmp", at - len(prelude))
    after = guest.run(guest.remap(TARGET + 0x1000, 0), GO, GO)
    assert (after["eip"], after["log"]) == ("end", [9, 9])


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_what_is_before_an_instruction_across_pages_is_done_when_that_faults(bench, mode):
    guest = Guest(bench, mode)
    at = crossing(guest, 2)
    bench.poke(FRAMES + 0x2000 - 2 - 4, body(9)[:4])
    guest.way("jmp", at - 4)
    after = guest.run(GO, guest.remap(TARGET + 0x1000, 0), GO)
    error_code = FU if mode.ring else 0
    assert (after["fault"], after["eip"], after["cr2"]) == ((Vector.PF, error_code), at, TARGET + 0x1000)
    assert after["log"] == [9, 1, 9]


@pytest.mark.parametrize("page", [0, 1], ids=["first", "second"])
def test_an_instruction_across_pages_is_rewritten_through_an_alias_without_end(bench, page):
    """N is in the second page; in the first one a byte changes that nobody runs. Either page checks itself in the
    end, and is remapped then."""
    guest = Guest(bench)
    guest.way("jmp", crossing(guest, 2))
    second = FRAMES + 0x5000
    writes = b"\xfe\x05" + little(second, 4) if page else b"\x80\x35" + little(FRAMES + 0x1800, 4) + b"\x01"
    after = guest.run(repeated(250, writes, GO), guest.remap(TARGET + 0x1000, 6), GO, guest.remap(TARGET, 2), GO)
    assert after["log"] == ([n + 2 & 0xFF for n in range(250)] if page else [1] * 250) + [2, 2]


def test_each_space_has_its_own_second_page(bench):
    guest = Guest(bench)
    guest.way("ret", crossing(guest, 2))
    guest.spaces[1].map(TARGET, 1)
    guest.spaces[1].map(TARGET + 0x1000, 7)
    after = guest.run(repeated(5, GO, guest.switch(1), GO, guest.switch(0)))
    assert after["log"] == [1, 3] * 5


def test_two_pages_that_are_one_frame(bench):
    """The end of the frame runs on into its own start."""
    guest = Guest(bench)
    crossing(guest, 2)
    guest.spaces[0].map(TARGET + 0x1000, 1)
    guest.way("jmp", TARGET + 0xFFE)
    bench.poke(FRAMES + 0x1000, b"\x0b\x47\xc3")
    assert guest.run(GO, store(FRAMES + 0x1000, 0xC), GO)["log"] == [0xB, 0xC]


# --- large pages ---------------------------------------------------------------------------------------------------


def large_entry(guest: Guest, value: int) -> str:
    return f"mov dword ptr [{guest.spaces[0].directory_entry}], {value}"


@pytest.mark.parametrize("way", ["jmp", "ret", "lookup"])
@pytest.mark.parametrize("probe", [LARGE_TARGET, WINDOW, WINDOW + 0x1F_F000], ids=["there", "start", "end"])
def test_invlpg_anywhere_in_a_large_page_counts_for_all_of_it(bench, way, probe):
    """Two 2-MByte pages, at 0 and at 20_0000h, with different code at one offset (Vol. 2A, "INVLPG")."""
    guest = Guest(bench, pae=True)
    guest.way(way, LARGE_TARGET)
    for number, base in ((1, 0), (2, 0x20_0000)):
        bench.poke(base + (LARGE_TARGET - WINDOW), body(number))
    maps = [guest.kernel(large_entry(guest, base | RIGHTS | PS) + f"; invlpg [{probe}]") for base in (0, 0x20_0000)]
    after = guest.run(maps[0], GO, GO, maps[1], GO, GO, maps[0], GO)
    assert (after["eip"], after["log"]) == ("end", [1, 1, 2, 2, 1])


@pytest.mark.parametrize("probe", [LARGE_TARGET, WINDOW, WINDOW + 0x1F_F000], ids=["there", "start", "end"])
def test_invlpg_anywhere_in_a_large_page_counts_for_its_data_too(bench, probe):
    guest = Guest(bench, pae=True)
    for number, base in ((1, 0), (2, 0x20_0000)):
        bench.poke(base + (LARGE_TARGET - WINDOW), number)
    maps = [guest.kernel(large_entry(guest, base | RIGHTS | PS) + f"; invlpg [{probe}]") for base in (0, 0x20_0000)]
    read = asm(f"mov eax, [{LARGE_TARGET}]; stosb", True)
    after = guest.run(maps[0], read, maps[1], read, maps[0], read)
    assert (after["eip"], after["log"]) == ("end", [1, 2, 1])


@pytest.mark.parametrize("pae", [False, True], ids=["32bit", "pae"])
@pytest.mark.parametrize("flush", ["invlpg", "cr3"])
def test_a_large_page_gives_way_to_small_ones_and_back(bench, pae, flush):
    guest = Guest(bench, pae=pae)
    bench.poke(0x5_8000, body(7))
    guest.way("ret", WINDOW + 0x5_8000)
    guest.spaces[0].map(WINDOW + 0x5_8000, 2)
    large, small = (
        guest.kernel(large_entry(guest, value) + "; " + FLUSHES[flush].format(la=WINDOW + 0x5_8000))
        for value in (RIGHTS | PS, guest.spaces[0].table | RIGHTS)
    )
    after = guest.run(repeated(3, GO, large, GO, GO, small), GO)
    assert (after["eip"], after["log"]) == ("end", [2, 7, 7] * 3 + [2])


# --- tables and code in one page -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pae", [False, True], ids=["32bit", "pae"])
@pytest.mark.parametrize("level", ["table", "directory"])
def test_code_in_the_page_of_its_own_tables_changes_them(bench, level, pae):
    """A hundred times: each round stores into the page that runs, and its walks set bits there."""
    guest = Guest(bench, pae=pae)
    space = guest.spaces[0]
    space.map(TARGET, 1)
    page = space.table if level == "table" else space.directory_entry & ~0xFFF
    entry = space.entry(TARGET)
    toggle = f"xor dword ptr [{entry}], 0x3000; and dword ptr [{entry}], 0xffffffdf; invlpg [{TARGET}]; call [{CELL}]"
    bench.poke(page + 0x800, asm(toggle, True) + b"\xc3")
    after = guest.run(repeated(100, b"\xb8" + little(page + 0x800, 4) + b"\xff\xd0"))
    assert (after["eip"], after["log"]) == ("end", [2, 1] * 50)


@pytest.mark.parametrize("mode", [P32[0], P32[3]], ids=str)
def test_an_access_whose_walk_sets_bits_in_the_page_of_the_code_is_done_once(bench, mode):
    """The entry of ALIAS is in the page that runs: A and D are set there while the block is under way."""
    guest = Guest(bench, mode)
    space = guest.spaces[0]
    space.map(TARGET, 1)
    space.map(ALIAS, 8)
    code = asm(f"inc ebx; inc dword ptr [{ALIAS + 0x100}]; inc ebx; mov eax, [{ALIAS + 0x100}]; jmp [{CELL}]", True)
    bench.poke(space.table + 0x800, code)
    bench.poke(FRAMES + 0x8100, 0)
    clean = guest.kernel(f"mov dword ptr [{space.entry(ALIAS)}], {FRAMES + 0x8000 | RIGHTS}; invlpg [{ALIAS}]")
    call = b"\xb9" + little(space.table + 0x800, 4) + b"\xff\xd1"
    after = guest.run(repeated(20, clean, call), ebx=0)
    assert (after["eip"], after["eax"], after["ebx"], after["log"]) == ("end", 20, 40, [1] * 20)
    assert bench.word(space.entry(ALIAS)) & 0x60 == 0x60


def test_an_instruction_across_pages_in_the_page_of_its_own_table_runs(bench):
    """The walk for its second page sets A in its first page."""
    guest = Guest(bench)
    space = guest.spaces[0]
    bench.poke(space.entry(TARGET), space.table | RIGHTS)
    space.map(TARGET + 0x1000, 5)
    bench.poke(space.table + 0xFFE, body(5)[:2])
    bench.poke(FRAMES + 0x5000, body(5)[2:])
    guest.way("jmp", TARGET + 0xFFE)
    clear = guest.kernel(f"and dword ptr [{space.entry(TARGET + 0x1000)}], 0xffffffdf; invlpg [{TARGET + 0x1000}]")
    after = guest.run(GO, repeated(5, clear, GO))
    assert (after["eip"], after["log"]) == ("end", [5] * 6)


def test_an_entry_of_a_page_table_can_be_code_and_be_rewritten(bench):
    guest = Guest(bench)
    space = guest.spaces[0]
    code = b"\x47\xc3"  # inc edi; ret: an entry that is present, read-only
    bench.poke(space.table + 0x400, code)
    guest.way("jmp", space.table + 0x400)
    rewrite = store(space.table + 0x400, 0x90)
    after = guest.run(GO, GO, rewrite, GO)
    assert len(after["log"]) == 2


# --- any sequence --------------------------------------------------------------------------------------------------

PAGES = range(3)
"""Pages of the window that a random program maps, TARGET and the two behind it."""
VERSIONS = st.integers(1, 14)
STEPS = st.one_of(
    st.tuples(st.just("go"), st.sampled_from(PAGES)),
    st.tuples(st.just("go"), st.sampled_from(PAGES)),
    st.tuples(st.just("map"), st.sampled_from(PAGES), st.integers(0, 4), st.sampled_from(sorted(FLUSHES))),
    st.tuples(st.just("map away"), st.sampled_from(PAGES), st.integers(0, 4)),
    st.tuples(st.just("write"), st.integers(1, 4), VERSIONS),
    st.tuples(st.just("switch"), st.integers(0, 1)),
)
Step = tuple[object, ...]


class Model:
    """What the guest must log: the frames of two spaces and the version that each frame holds."""

    def __init__(self) -> None:
        self.maps = [{page: page + 1 for page in PAGES}, {page: 3 - page for page in PAGES}]
        self.versions = {frame: frame for frame in range(1, 5)}
        self.space = 0
        self.log: list[int] = []

    def step(self, step: Step) -> None:
        match step:
            case ("go", int(page)):
                frame = self.maps[self.space][page]
                self.log.append(self.versions[frame] if frame else 0xF)
            case ("map", int(page), int(frame), _):
                self.maps[self.space][page] = frame
            case ("map away", int(page), int(frame)):
                self.maps[1 - self.space][page] = frame
            case ("write", int(frame), int(version)):
                self.versions[frame] = version
            case ("switch", int(space)):
                self.space = space


def piece(guest: Guest, step: Step, space: int) -> bytes:
    """A step as guest code, run in a space."""
    match step:
        case ("go", int(page)):
            return asm(f"mov dword ptr [{CELL + 4}], {TARGET + (page << 12)}", True) + GO
        case ("map", int(page), int(frame), str(flush)):
            la = TARGET + (page << 12)
            return guest.kernel(guest.set_entry(la, frame, space=space) + "; " + FLUSHES[flush].format(la=la))
        case ("map away", int(page), int(frame)):
            return guest.kernel(guest.set_entry(TARGET + (page << 12), frame, space=1 - space))
        case ("write", int(frame), int(version)):
            return store(FRAMES + (frame << 12) + 2, version)
        case ("switch", int(to)):
            return guest.switch(to)
    raise AssertionError(step)


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(STEPS, min_size=1, max_size=40),
    pae=st.booleans(),
    way=st.sampled_from(["jmp_mem", "table"]),
    identity=st.sampled_from([RIGHTS, RIGHTS | G]),
)
def test_any_sequence_of_maps_writes_and_switches_runs_what_is_mapped(
    steps: Sequence[Step], pae: bool, way: str, identity: int
) -> None:
    """Twice in a row, from the same start, the second time with all blocks there."""
    bench = Bench()
    guest = Guest(bench, pae=pae, identity=identity)
    guest.way("jmp_mem")
    if way == "table":  # three targets are learned before: all others are looked up
        bench.poke(SITE, by_lookup(0, 0)[:-7] + b"\x8b\x0d" + little(CELL + 4, 4) + b"\xff\xe1")
        for n in range(3):
            bench.poke(SITE + 10 * n + 5, relative(b"\xe8", SITE + 10 * n + 5, SITE + 3 * 10 + 6))
    guest.on_fault(MARK_FAULT)
    model = Model()
    start = [store(FRAMES + (frame << 12) + 2, frame) for frame in range(1, 5)]
    for number, mapped in enumerate(model.maps):
        start += [guest.kernel(guest.set_entry(TARGET + (page << 12), f, space=number)) for page, f in mapped.items()]
    start.append(guest.switch(0))
    pieces = []
    for step in steps:
        pieces.append(piece(guest, step, model.space))
        model.step(step)
    after = guest.run(*start, *pieces)
    assert (after["eip"], after["log"]) == ("end", model.log)
    assert guest.again()["log"] == model.log


assert MAIN + ENTRY + 0x4000 < SITE  # programs end before SITE
