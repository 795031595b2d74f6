"""Where everything lies in the memory of a program, and what is there before its own changes.

Everything that a 16-bit gate or stack must reach is in the first 64 KiB. Linear and physical addresses are equal; the
page tables are mapped nowhere. Each vector has a handler that halts, so that
the rig can look, and then returns; unused memory is HLT, too: who strays, stops.

Source of the formats: SDM Vol. 3A, "Segment Descriptors", "Task-State Segment (TSS)", "IDT Descriptors".
"""

from functools import cache
from typing import Final

from vmm.arch.descriptors import TSS16, TSS32, TSS32_CR3, TSS32_IO_MAP, Descriptor, Gate, SystemType, TssLayout
from vmm.arch.exceptions import HAS_ERROR_CODE
from vmm.cpu.vcpu import DESC_B, DESC_G
from vmm.differential.modes import Paging

RAM: Final = 0x2_8000
GDT, GDT_LIMIT = 0x1000, 0x3FF
LDT, LDT_LIMIT = 0x1800, 0xFF
IDT, IDT_LIMIT = 0x2000, 0x7FF
TSS, TSS_LIMIT, IO_MAP = 0x3000, 0x2067, 0x68
OTHER_TSS, TSS_16 = 0x5400, 0x5500
HANDLERS_REAL, HANDLERS_16, HANDLERS_32 = 0x6000, 0x6800, 0x7000
HANDLER_SIZE: Final = 8
GATE_16, GATE_32, TASK, SYSTEM_CALL = 0x7800, 0x7810, 0x7820, 0x7830
DATA, DATA_SIZE = 0x8000, 0x2000
POOL = DATA + 0x1C00  # pseudo-descriptors and far pointers for instructions that load them
CODE, CODE_SIZE = 0xA000, 0x2000
STACK, STACK_TOP = 0xC000, 0xC800
STACKS: Final = (0xD800, 0xE000, 0xE800)  # of rings 0-2
PAGE_DIRECTORY, PAGE_TABLE = 0x2_0000, 0x2_1000
PDPT, PAE_DIRECTORY, PAE_TABLE = 0x2_2000, 0x2_3000, 0x2_4000
ALIAS: Final = 0x4000_0000  # where paged programs find the same frames again
USER_PAGES: Final = range(DATA >> 12, STACKS[0] >> 12)
MAPPED_PAGES: Final = PAGE_DIRECTORY >> 12

HLT: Final = 0xF4
IRQ_PORT: Final = 0x50  # a write raises an interrupt: vector 20h + the low six bits
TEST_PORTS: Final = (0x51, 0x60, 0x1F0)
FREE_PORTS: Final = (IRQ_PORT, *TEST_PORTS[:2])
"""The ports that the I/O permission bit map allows; port 1F0h is not among them."""
FIRST_IRQ: Final = 0x20

_DATA_RW, _CODE_RE, _CONFORMING, _LDT_TYPE = 0x93, 0x9B, 0x9F, 0x82
_TSS32_FREE, _TSS32_BUSY, _TSS16_FREE = 0x89, 0x8B, 0x81
BIG, PAGES = DESC_B, DESC_G
FLAT: Final = 0xFFFF_FFFF

MAIN_TSS, SPARE_TSS, THE_LDT, SPARE_TSS16 = 0x108, 0x110, 0x118, 0x120
HANDLER_CODE_16, CALL_GATE_32, CALL_GATE_16, TASK_GATE = 0x128, 0x130, 0x138, 0x140
ODD: Final = 0x148  # the first of the descriptors of unusual kinds
FREE: Final = 0x180  # from here on a program's own
FREE_COUNT: Final = 8
LOCAL: Final = 4  # the first selector of the LDT

STACK_BASE: Final = STACK - 0x800
BASES: Final = (0, DATA, CODE, STACK_BASE)
"""Where segments of a program begin."""


def first_selector(ring: int) -> int:
    """Selector of the first of ring r's descriptors: flat code, flat data, 16-bit code, data and stack with bases,
    32-bit code and stack with bases."""
    return 0x40 * ring + 8 | ring


SYSEXIT_CODE: Final = first_selector(0) + 0x10 | 3
"""What SYSEXIT loads into CS."""
POOL_TABLES: Final = (
    (GDT_LIMIT, GDT),
    (IDT_LIMIT, IDT),
    (0x3FF, 0),
    (GDT_LIMIT, LDT),
)
"""(limit, base) of what LGDT and LIDT find in the pool: first the tables as they are; eight bytes each."""
POOL_POINTERS: Final = POOL + 0x40
SELECTORS: Final[tuple[int, ...]] = tuple(
    [selector for ring in range(4) for selector in range(first_selector(ring), first_selector(ring) + 0x38, 8)]
    + [*range(MAIN_TSS, FREE + 8 * FREE_COUNT, 8), *range(LOCAL, LOCAL + 0x40, 8), 0, GDT_LIMIT + 1]
)
"""Every selector that means something, and two that do not."""


def segment(base: int, limit: int, access: int, bits: int = 0) -> bytes:
    """Eight bytes of a descriptor; `limit` in bytes, `access` its sixth byte."""
    return Descriptor(base, limit, access << 8 | bits).to_bytes()


def gate(offset: int, selector: int, kind: int, dpl: int = 0, present: bool = True) -> bytes:
    """Eight bytes of a gate."""
    return Gate(offset, selector, kind, dpl, present).to_bytes()


def interrupt_gate(vector: int, kind: int = SystemType.INTERRUPT_GATE32, dpl: int = 0, present: bool = True) -> bytes:
    """The gate that leads to a vector's handler of the gate's width."""
    table, selector = (HANDLERS_32, first_selector(0)) if kind & 8 else (HANDLERS_16, HANDLER_CODE_16)
    return gate(table + HANDLER_SIZE * vector, selector, kind, dpl, present)


def handler(vector: int, width: int) -> bytes:
    """HLT, drop the error code, IRET, for a stack of `width` bytes a word; width 0 is real mode's, without codes."""
    drop = bytes([0x83, 0xC4, width]) if width and vector in HAS_ERROR_CODE else b""
    return (bytes([HLT]) + drop + b"\xcf").ljust(HANDLER_SIZE, bytes([HLT]))


def _descriptors() -> bytes:
    table = bytearray(GDT_LIMIT + 1)

    def put(selector: int, *entries: bytes) -> None:
        at = selector & 0xFFF8
        table[at : at + 8 * len(entries)] = b"".join(entries)

    for ring in range(4):
        dpl = ring << 5
        put(
            first_selector(ring),
            segment(0, FLAT, _CODE_RE | dpl, BIG | PAGES),
            segment(0, FLAT, _DATA_RW | dpl, BIG | PAGES),
            segment(CODE, 0xFFFF, _CODE_RE | dpl),
            segment(DATA, 0xFFFF, _DATA_RW | dpl),
            segment(STACK_BASE, 0xFFFF, _DATA_RW | dpl),
            segment(CODE, 0xFFFF, _CODE_RE | dpl, BIG),
            segment(STACK_BASE, 0xFFFF, _DATA_RW | dpl, BIG),
        )
    put(
        MAIN_TSS,
        segment(TSS, TSS_LIMIT, _TSS32_BUSY),
        segment(OTHER_TSS, 0x67, _TSS32_FREE),
        segment(LDT, LDT_LIMIT, _LDT_TYPE),
        segment(TSS_16, 0x2B, _TSS16_FREE),
        segment(0, 0xFFFF, _CODE_RE),
        gate(GATE_32, first_selector(0), SystemType.CALL_GATE32, 3),
        gate(GATE_16, HANDLER_CODE_16, SystemType.CALL_GATE16, 3),
        gate(0, SPARE_TSS, SystemType.TASK_GATE, 3),
    )
    put(
        ODD,
        segment(0, FLAT, _CONFORMING, BIG | PAGES),  # conforming code of ring 0
        segment(CODE, 0xFFFF, 0xF9, BIG),  # code of ring 3 that cannot be read
        segment(DATA, 0xFFF, 0xF1, BIG),  # data of ring 3 that cannot be written
        segment(DATA, 0x0FFF, 0xF7, BIG),  # data of ring 3 that expands down
        segment(DATA, 0xFFFF, 0x73, BIG),  # data that is not present
        segment(0, FLAT, 0x7B, BIG | PAGES),  # code that is not present
        segment(DATA, 0xFFFF, 0xF2, BIG),  # data of ring 3, not accessed yet
    )
    return bytes(table)


def _local_descriptors() -> bytes:
    entries = [segment(DATA, 0xFFF, _DATA_RW | dpl << 5, BIG if dpl & 1 else 0) for dpl in range(4)]
    entries += [segment(0, FLAT, _CODE_RE | dpl << 5, BIG | PAGES) for dpl in range(4)]
    return b"".join(entries).ljust(LDT_LIMIT + 1, b"\0")


def _task_state(layout: TssLayout, eip: int, code: int) -> bytes:
    """A TSS whose task is ring 0's at `eip`, with flat data and the stack of ring 0."""
    raw = bytearray(layout.size)

    def put(at: int, value: int, size: int = layout.word) -> None:
        raw[at : at + size] = value.to_bytes(size, "little")

    data = first_selector(0) + 8
    for ring, top in enumerate(STACKS):
        stack, selector = layout.stack_fields(ring)
        put(stack, top)
        put(selector, first_selector(ring) + 8, 2)
    put(layout.instruction_pointer, eip)
    put(layout.flags, 2)
    put(layout.registers + 4 * layout.word, STACKS[0] - 0x100)
    for number in range(layout.segment_count):
        put(layout.segments + number * layout.word, code if number == 1 else data, 2)
    return bytes(raw)


@cache
def image(paging: Paging) -> bytes:
    """RAM before a program's own changes."""
    ram = bytearray([HLT]) * RAM

    def put(at: int, data: bytes) -> None:
        ram[at : at + len(data)] = data

    put(GDT, _descriptors())
    put(LDT, _local_descriptors())
    put(TSS, _task_state(TSS32, 0, 0) + bytes([0xFF]) * (TSS_LIMIT + 1 - IO_MAP))
    put(TSS + TSS32_IO_MAP, IO_MAP.to_bytes(2, "little"))
    for port in FREE_PORTS:
        ram[TSS + IO_MAP + port // 8] &= ~(1 << port % 8)
    put(OTHER_TSS, _task_state(TSS32, TASK, first_selector(0)))
    put(TSS_16, _task_state(TSS16, TASK, HANDLER_CODE_16))
    for vector in range(256):
        at = HANDLER_SIZE * vector
        put(4 * vector, (HANDLERS_REAL + at).to_bytes(4, "little"))
        put(IDT + 8 * vector, interrupt_gate(vector, dpl=3 if vector in (3, 4) or vector >= FIRST_IRQ else 0))
        for table, width in ((HANDLERS_REAL, 0), (HANDLERS_16, 2), (HANDLERS_32, 4)):
            put(table + at, handler(vector, width))
    put(GATE_16, b"\xf4\xcb")  # HLT, RETF
    put(GATE_32, b"\xf4\xcb")
    put(TASK, b"\xf4\xcf\xeb\xfc")  # HLT, IRET, and from the start again when the task is entered again
    put(SYSTEM_CALL, b"\xf4\x0f\x35")  # HLT, SYSEXIT
    for tss in (TSS, OTHER_TSS):
        put(tss + TSS32_CR3, root(paging).to_bytes(4, "little"))
    put(PAGE_DIRECTORY, _page_tables(paging))
    return bytes(ram)


@cache
def segment_of(selector: int) -> Descriptor:
    """The segment that a selector names in the tables as they are at first; one of zeros where it names none."""
    table, at = (_local_descriptors() if selector & 4 else _descriptors()), selector & 0xFFF8
    found = Descriptor.from_bytes(table[at : at + 8].ljust(8, b"\0"))
    return Descriptor(0, 0, 0) if found.is_system else found


@cache
def pool() -> bytes:
    """What the pool holds: tables, then for each selector a far pointer of 48 bits, and for each one of 32."""
    tables = b"".join(limit.to_bytes(2, "little") + base.to_bytes(6, "little") for limit, base in POOL_TABLES)
    pointers = [b"".join(_far(selector, width) for selector in SELECTORS) for width in (4, 2)]
    return tables.ljust(POOL_POINTERS - POOL, b"\0") + b"".join(pointers)


def _far(selector: int, width: int) -> bytes:
    return ((DATA + 0x40).to_bytes(width, "little") + selector.to_bytes(2, "little")).ljust(8, b"\0")


def pool_pointer(number: int, width: int) -> int:
    """Linear address of the far pointer with `SELECTORS[number]` and an offset of `width` bytes."""
    return POOL_POINTERS + 8 * (number + (0 if width == 4 else len(SELECTORS)))


def root(paging: Paging) -> int:
    """What CR3 holds."""
    return {Paging.NONE: 0, Paging.BITS_32: PAGE_DIRECTORY, Paging.PAE: PDPT}[paging]


def entry_at(paging: Paging, page: int) -> tuple[int, int]:
    """Where a page's entry is, and its width in bytes."""
    return (PAE_TABLE + 8 * page, 8) if paging is Paging.PAE else (PAGE_TABLE + 4 * page, 4)


def _page_tables(paging: Paging) -> bytes:
    """Pages below the tables, present and writable, the program's own for the user; the same again at `ALIAS`."""
    tables = bytearray(RAM - PAGE_DIRECTORY)
    if paging is Paging.NONE:
        return bytes(tables)

    def put(at: int, value: int, width: int) -> None:
        tables[at - PAGE_DIRECTORY : at - PAGE_DIRECTORY + width] = value.to_bytes(width, "little")

    for page in range(MAPPED_PAGES):
        at, width = entry_at(paging, page)
        put(at, page << 12 | (7 if page in USER_PAGES else 3), width)
    if paging is Paging.BITS_32:
        for linear in (0, ALIAS):
            put(PAGE_DIRECTORY + (linear >> 22) * 4, PAGE_TABLE | 7, 4)
    else:
        put(PAE_DIRECTORY, PAE_TABLE | 7, 8)
        for linear in (0, ALIAS):
            put(PDPT + (linear >> 30) * 8, PAE_DIRECTORY | 1, 8)
    return bytes(tables)
