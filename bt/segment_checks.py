"""Segment checks in cached code: limit, type and null checks of what an instruction does to memory.

The processor below checks none of them. Which checks an access needs follows from the class of its segment (see
`bt.segment_classes`): none for flat ones. The others are made in front of the instruction, without a branch and
without touching a flag: the sequence computes the last offset of the access into ECX and loads a byte from there in the
*guard*, 64 KiB of mapped pages with unmapped ones on both sides. An offset that is too large faults, and the VMM looks
at the instruction in full; if it is allowed after all, the code behind the check goes on. So a check may be too strict,
never too lax.

What none of this fits leaves the cache in front of the instruction for the same look (a CHECK site).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final, NamedTuple

from bt.accesses import Access, Accesses, Via, accesses
from bt.branches import load_ecx, target_of
from bt.decode import OVERRIDE_BYTE, Insn
from bt.emit import CHECKED, S0, Emitter, SiteKind
from bt.segment_classes import LIMIT_64K, READ_AS, Classes, SegmentClass
from vmm.arch.layout import MASK32, Slot
from vmm.arch.registers import Reg, Seg

_FLAT, _NULLABLE, _WRAPPED, _SHORT, _LONG = list(SegmentClass)[:5]
_RESTORE: Final = (Reg.ECX, S0)
_WITHOUT_PREFIX: Final = (Seg.ES, Seg.SS, Seg.DS)
"""What instructions use that name no segment."""
_STACK: Final = (Via.PUSH, Via.POP, Via.FRAME, Via.ENTER)
_STRING_POINTER: Final = {Via.SOURCE: Reg.ESI, Via.DESTINATION: Reg.EDI}
_ALIGNED_STACK: Final = 2
"""PUSHA and POPA of words; a stack of words need not be aligned for PUSHAD."""
_WORD: Final = 4
_FIRST_SELECTOR: Final = 4
"""0 to 3 are null."""


# --- what an instruction needs --------------------------------------------------------------------------------------


class Need(NamedTuple):
    """Which instructions of a context may need checks: those with accesses or branches, `everywhere`; else those with a
    prefix for one of some `segments`."""

    everywhere: bool
    segments: frozenset[int]


@lru_cache(maxsize=1024)
def need_of(classes: Classes, code_limit: int) -> Need:
    """What the classes of the segment registers and the limit of CS ask for."""
    everywhere = code_limit != MASK32 or any(classes[seg] is not _FLAT for seg in _WITHOUT_PREFIX)
    return Need(everywhere, frozenset(seg for seg in Seg if classes[seg] is not _FLAT))


def segment_of(insn: Insn, access: Access) -> int:
    """The number of the segment register that an access goes through."""
    via = access.via
    if via in _STACK:
        return int(Seg.SS)
    if via is Via.DESTINATION:
        return int(Seg.ES)
    if via in (Via.OPERAND, Via.BITS, Via.POPPED):
        return insn.memory.segment
    return int(Seg.DS) if insn.segment_override is None else insn.segment_override


@lru_cache(maxsize=1024)
def checked(entry: Callable[[Emitter, Insn], None]) -> Callable[[Emitter, Insn], None]:
    """A translator with the checks of its instruction in front, unless it leaves the instruction to the VMM, which
    makes them itself."""

    def translate(emit: Emitter, insn: Insn) -> None:
        trial = Emitter(emit.context, emit.window)
        trial.begin(insn)
        entry(trial, insn)
        leaves_at_once = bool(trial.sites) and trial.sites[0].kind is SiteKind.CALLOUT and trial.sites[0].offset == 2
        if not leaves_at_once:
            check(emit, insn)
        entry(emit, insn)

    return translate


def check(emit: Emitter, insn: Insn) -> None:
    """Emit the checks of an instruction."""
    found = accesses(insn)
    guards = _guards(emit, insn, found)
    if guards is None or _always_too_far(emit, insn):
        emit.site(SiteKind.CHECK)
        emit.mark()
        return
    guards += _target_guard(emit, insn)
    for guard in guards:
        guard()
    if guards:
        emit.mark()


Guard = Callable[[], None]


def _guards(emit: Emitter, insn: Insn, found: Accesses) -> list[Guard] | None:
    """The guards of all accesses; None if one of them needs the VMM."""
    guards: list[Guard] = []
    for access in found:
        made = _guard(emit, insn, access)
        if made is None:
            return None
        guards += made
    return guards


def _guard(emit: Emitter, insn: Insn, access: Access) -> list[Guard] | None:
    seg = segment_of(insn, access)
    kind = emit.context.segments[seg]
    if not access.write:
        kind = READ_AS.get(kind, kind)
    if kind is _FLAT:
        return []
    if kind is _NULLABLE:
        return [lambda: _not_null(emit, seg)]
    if kind not in (_WRAPPED, _SHORT, _LONG):
        return None
    if insn.repeat and access.via in _STRING_POINTER:
        return _repeated_guard(emit, insn, access, kind)
    if access.times > 1 and access.size == _ALIGNED_STACK and kind is _WRAPPED and not emit.context.stack32:
        return [lambda: _aligned(emit, Reg.ESP, access.size)]
    return _limit_guards(emit, insn, access, seg, kind)


def _repeated_guard(emit: Emitter, insn: Insn, access: Access, kind: SegmentClass) -> list[Guard] | None:
    """Of a string instruction under REP: elements that are aligned are never across the end of 64 KiB."""
    if kind is not _WRAPPED or insn.address_size != 2:
        return None
    return [] if access.size == 1 else [lambda: _aligned(emit, _STRING_POINTER[access.via], access.size)]


def _limit_guards(emit: Emitter, insn: Insn, access: Access, seg: int, kind: SegmentClass) -> list[Guard] | None:
    constant = _constant_offset(insn, access)
    if constant is not None:
        return _constant_guard(emit, constant + access.size - 1, seg, kind)
    is_narrow = not emit.context.stack32 if access.via in _STACK else insn.address_size == 2
    if kind in (_WRAPPED, _LONG) and is_narrow and access.size == 1:
        return []
    places = _offsets(emit, insn, access)
    if places is None:
        return None
    return [partial(_within, emit, place, access.size, seg, kind, is_narrow) for place in places]


def _constant_offset(insn: Insn, access: Access) -> int | None:
    if access.via is Via.OFFSET:
        return int.from_bytes(insn.tail[: insn.address_size], "little")
    if access.via is Via.OPERAND and insn.memory.base is None and insn.memory.index is None:
        return insn.memory.displacement & (LIMIT_64K if insn.address_size == 2 else MASK32)
    return None


def _constant_guard(emit: Emitter, last: int, seg: int, kind: SegmentClass) -> list[Guard] | None:
    if last <= LIMIT_64K:
        return [] if kind in (_WRAPPED, _LONG) else [partial(_constant_in_short, emit, last, seg)]
    if kind is _LONG and last <= MASK32:
        return [partial(_within, emit, _wide(emit) + b"\xb9" + last.to_bytes(4, "little"), 1, seg, kind, False)]
    return None


# --- addresses into ECX ---------------------------------------------------------------------------------------------


def _offsets(emit: Emitter, insn: Insn, access: Access) -> list[bytes] | None:
    """Code that brings the offset of each access into ECX; None where that takes more than an LEA."""
    via = access.via
    if via is Via.OPERAND:
        return [_lea(emit, insn, insn.memory.with_reg(Reg.ECX))]
    if via in (Via.SOURCE, Via.DESTINATION):
        narrow = insn.address_size == 2
        rm = (4 if narrow else 6) if via is Via.SOURCE else (5 if narrow else 7)
        return [_lea(emit, insn, bytes([Reg.ECX << 3 | rm]))]
    if via is Via.PUSH:
        return [_lea_stack(emit, Reg.ESP, -access.size * (n + 1)) for n in range(access.times)]
    if via is Via.POP:
        return [_lea_stack(emit, Reg.ESP, access.size * n) for n in range(access.times)]
    if via is Via.FRAME:
        return [_lea_stack(emit, Reg.EBP, 0)]
    if via is Via.ENTER and insn.tail[2] == 0 and not emit.context.stack32:
        room = int.from_bytes(insn.tail[:2], "little")
        return [_lea_stack(emit, Reg.ESP, -access.size), _lea_stack(emit, Reg.ESP, -access.size - room)]
    return None


def _wide(emit: Emitter) -> bytes:
    """The prefix of a 32-bit operand."""
    return b"" if emit.context.code32 else b"\x66"


def _far(emit: Emitter) -> bytes:
    """The prefix of a 32-bit address."""
    return b"" if emit.context.code32 else b"\x67"


_EXTEND: Final = b"\x0f\xb7\xc9"  # movzx ecx, cx
_BSWAP: Final = b"\x0f\xc9"  # bswap ecx


def _lea(emit: Emitter, insn: Insn, encoding: bytes) -> bytes:
    address = b"" if emit.context.code32 == (insn.address_size == _WORD) else b"\x67"
    return _wide(emit) + address + b"\x8d" + encoding


def _lea_stack(emit: Emitter, reg: int, displacement: int) -> bytes:
    """LEA ECX from ESP or EBP, cut to 16 bits on a 16-bit stack."""
    rm = bytes([0x8C, 0x24]) if reg == Reg.ESP else bytes([0x80 | Reg.ECX << 3 | reg])
    code = _wide(emit) + _far(emit) + b"\x8d" + rm + (displacement & MASK32).to_bytes(4, "little")
    return code if emit.context.stack32 else code + _wide(emit) + _EXTEND


# --- guards ---------------------------------------------------------------------------------------------------------


def _cs(emit: Emitter, code: bytes, address: int) -> bytes:
    """An instruction whose operand is CS:[disp32] or CS:[ECX + disp32]; `code` ends with ModR/M, `address` is
    linear."""
    return b"\x2e" + _far(emit) + code + (address - emit.window.cs_base & MASK32).to_bytes(4, "little")


def _open(emit: Emitter) -> None:
    emit.raw(_cs(emit, _wide(emit) + b"\x89\x0d", emit.window.scratch + Slot.SCRATCH))  # mov cs:[S0], ecx
    emit.mark(_RESTORE, (CHECKED, 0))


def _close(emit: Emitter) -> None:
    emit.mark(_RESTORE)
    _reload(emit)


def _reload(emit: Emitter) -> None:
    emit.raw(_cs(emit, _wide(emit) + b"\x8b\x0d", emit.window.scratch + Slot.SCRATCH))  # mov ecx, cs:[S0]


def _probe(emit: Emitter, bias: int) -> None:
    """MOV CL from the guard: it faults unless ECX + `bias` is 0 to FFFFh."""
    emit.raw(_cs(emit, b"\x8a\x89", emit.window.guard + bias))


def _only_low_half(emit: Emitter) -> None:
    """It faults unless bits 31:16 of ECX are 0; ECX is lost."""
    emit.raw(_wide(emit) + _BSWAP + _wide(emit) + _EXTEND)
    _probe(emit, LIMIT_64K)


def guard_image() -> bytes:
    """What the first bytes of the guard must hold: two tables of 256 words, for `_aligned`."""
    return b"".join(
        (0 if low % size == 0 else LIMIT_64K + 1).to_bytes(_WORD, "little") for size in _ALIGNED for low in range(0x100)
    )


_ALIGNED: Final = (2, 4)
_TABLE_SIZE: Final = _WORD << 8


def _aligned(emit: Emitter, reg: int, size: int) -> None:
    """It faults unless a register is a multiple of 2 or 4: its low byte finds 0 or a place behind the guard's end."""
    _open(emit)
    emit.raw(_wide(emit) + bytes([0x8B, 0xC0 | Reg.ECX << 3 | reg]) + _wide(emit) + b"\x0f\xb6\xc9")  # movzx ecx, cl
    table = emit.window.guard + _TABLE_SIZE * _ALIGNED.index(size)
    emit.raw(_cs(emit, _wide(emit) + b"\x8b\x0c\x8d", table))  # mov ecx, cs:[ecx*4 + table]
    _probe(emit, 0)
    _close(emit)


def _not_null(emit: Emitter, seg: int) -> None:
    _open(emit)
    emit.raw(_wide(emit) + bytes([0x8C, 0xC0 | seg << 3 | Reg.ECX]))  # mov ecx, seg
    _probe(emit, -_FIRST_SELECTOR)
    _close(emit)


def _within(emit: Emitter, place: bytes, size: int, seg: int, kind: SegmentClass, is_narrow: bool) -> None:  # noqa: PLR0913
    """The access ends inside the segment. `is_narrow`: its offset has 16 bits anyway."""
    _open(emit)
    emit.raw(place)
    if kind is _LONG and not is_narrow:
        _not_above(emit, _last_start(emit, seg, size))
        _close(emit)
        return
    if not is_narrow:
        _only_low_half(emit)
        _reload(emit)
        emit.raw(place)
    if kind is _SHORT:
        _add_shortage(emit, seg)
    _probe(emit, size - 1)
    _close(emit)


def _last_start(emit: Emitter, seg: int, size: int) -> bytes:
    """Code that brings the last offset at which `size` bytes are inside a segment of more than 64 KiB into EAX."""
    limit = _cs(emit, _wide(emit) + b"\x8b\x05", emit.window.page + Slot.LIMIT + _WORD * seg)
    return limit + _wide(emit) + _far(emit) + b"\x8d\x80" + (1 - size & MASK32).to_bytes(4, "little")


_FLAGS_TO_AX: Final = b"\x9f\x0f\x90\xc0"  # lahf; seto al
_FLAGS_FROM_AX: Final = b"\x04\x7f\x9e"  # add al, 0x7f; sahf
_SETA_CL: Final = b"\x0f\x97\xc1"


def _not_above(emit: Emitter, limit: bytes) -> None:
    """It faults if ECX is above what `limit` brings into EAX, unsigned; ECX is lost. The one check that compares, for
    limits that no guard is large enough for."""
    spare, flags = (emit.window.scratch + Slot.SCRATCH + _WORD * n for n in (1, 2))
    store, load = _wide(emit) + b"\x89\x05", _wide(emit) + b"\x8b\x05"  # EAX and cs:[disp32]
    emit.raw(_cs(emit, store, spare) + _FLAGS_TO_AX + _cs(emit, store, flags) + limit)
    emit.raw(_wide(emit) + b"\x39\xc1" + _SETA_CL + _wide(emit) + b"\x0f\xb6\xc9")  # cmp ecx, eax; movzx ecx, cl
    emit.raw(_cs(emit, load, flags) + _FLAGS_FROM_AX + _cs(emit, load, spare))
    _probe(emit, LIMIT_64K)


def _add_shortage(emit: Emitter, seg: int) -> None:
    """ECX by what the limit of a segment is short of FFFFh."""
    spare = emit.window.scratch + Slot.SCRATCH + _WORD
    emit.raw(_cs(emit, _wide(emit) + b"\x89\x15", spare))  # mov cs:[S1], edx
    emit.raw(_cs(emit, _wide(emit) + b"\x8b\x15", _shortage(emit, seg)))  # mov edx, cs:[shortage]
    emit.raw(_wide(emit) + _far(emit) + b"\x8d\x0c\x11")  # lea ecx, [ecx + edx]
    emit.raw(_cs(emit, _wide(emit) + b"\x8b\x15", spare))


def _constant_in_short(emit: Emitter, last: int, seg: int) -> None:
    """An offset that the instruction tells, in a segment of less than 64 KiB."""
    _open(emit)
    emit.raw(_cs(emit, _wide(emit) + b"\x8b\x0d", _shortage(emit, seg)))
    _probe(emit, last)
    _close(emit)


def _shortage(emit: Emitter, seg: int) -> int:
    return emit.window.page + Slot.SHORTAGE + _WORD * seg


# --- near branches --------------------------------------------------------------------------------------------------

_CALL: Final = 0xE8
_LOOPS: Final = range(0xE0, 0xE4)
_RETURNS: Final = (0xC2, 0xC3)
_JUMP_OR_CALL: Final = (2, 4)


def _is_indirect(insn: Insn) -> bool:
    return insn.opcode in _RETURNS or (insn.opcode == 0xFF and insn.modrm >> 3 & 7 in _JUMP_OR_CALL)


def _always_too_far(emit: Emitter, insn: Insn) -> bool:
    """Does a near branch that changes more than EIP, and says itself where it goes, go beyond the limit of CS?"""
    return (insn.opcode == _CALL or insn.opcode in _LOOPS) and target_of(insn) > emit.context.code_limit


def _target_guard(emit: Emitter, insn: Insn) -> list[Guard]:
    """RET, and JMP and CALL through a register or memory, in a code segment with a limit that they could go beyond."""
    limit = emit.context.code_limit
    if limit == MASK32 or not _is_indirect(insn) or (limit >= LIMIT_64K and insn.operand_size != _WORD):
        return []
    return [partial(_target_within, emit, insn, limit)]


def _target_within(emit: Emitter, insn: Insn, limit: int) -> None:
    _open(emit)
    if insn.opcode in _RETURNS:
        emit.raw(_lea_stack(emit, Reg.ESP, 0))
        load = b"\x8b\x09" if insn.operand_size == _WORD else b"\x0f\xb7\x09"  # mov, movzx ecx, ss:[ecx]
        emit.raw(bytes([OVERRIDE_BYTE[Seg.SS]]) + _far(emit) + _wide(emit) + load)
    else:
        load_ecx(emit, insn, insn.operand_size)
    if limit == LIMIT_64K:
        _only_low_half(emit)
    else:
        _not_above(emit, _wide(emit) + b"\xb8" + limit.to_bytes(4, "little"))  # mov eax, limit
    _close(emit)
