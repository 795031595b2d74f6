"""Encode one instruction with Keystone, and keep its traps out.

Keystone 0.9.2 takes the 16-bit mode to be a 32-bit one with prefixes: `ret`, `retf`, near jumps and calls, and pushes
of immediates come out with an operand-size prefix 66h, and so do `push es` and `pushf` in 32-bit mode; `movsd` and far
forms of `call` are refused. So control transfers, stack instructions without a memory operand and `movsd` are
encoded here, from the manual's opcode map, and whatever Keystone returns must carry exactly the prefixes that the
operands ask for.

Source: Intel SDM Vol. 2A, "Instruction Prefixes"; Vol. 2D, "Opcode Map".
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final

import keystone

PREFIXES: Final = {
    "rep": 0xF3, "repe": 0xF3, "repz": 0xF3, "repne": 0xF2, "repnz": 0xF2, "lock": 0xF0, "data32": 0x66, "data16": 0x66,
    "addr32": 0x67, "addr16": 0x67, "es": 0x26, "cs": 0x2E, "ss": 0x36, "ds": 0x3E, "fs": 0x64, "gs": 0x65,
}  # fmt: skip

# Without operands, in the operand size of the mode.
PLAIN: Final = {
    "ret": "c3", "retf": "cb", "leave": "c9",
    "push es": "06", "push cs": "0e", "push ss": "16", "push ds": "1e", "push fs": "0fa0", "push gs": "0fa8",
    "pop es": "07", "pop ss": "17", "pop ds": "1f", "pop fs": "0fa1", "pop gs": "0fa9",
}  # fmt: skip

# With the operand size in the name: 16-bit, 32-bit.
SIZED: Final = {
    "iret": (16, "cf"), "iretd": (32, "cf"), "pushf": (16, "9c"), "pushfd": (32, "9c"), "popf": (16, "9d"),
    "popfd": (32, "9d"), "pusha": (16, "60"), "pushad": (32, "60"), "popa": (16, "61"), "popad": (32, "61"),
    "movsw": (16, "a5"), "movsd": (32, "a5"), "cmpsw": (16, "a7"), "cmpsd": (32, "a7"), "stosw": (16, "ab"),
    "stosd": (32, "ab"), "lodsw": (16, "ad"), "lodsd": (32, "ad"), "scasw": (16, "af"), "scasd": (32, "af"),
    "insw": (16, "6d"), "insd": (32, "6d"), "outsw": (16, "6f"), "outsd": (32, "6f"),
    "cbw": (16, "98"), "cwde": (32, "98"), "cwd": (16, "99"), "cdq": (32, "99"),
}  # fmt: skip

_CONDITION_CODES: Final = "o no b/c/nae nb/nc/ae z/e nz/ne be/na nbe/a s ns p/pe np/po l/nge nl/ge le/ng nle/g"
_CONDITIONS: Final = {name: code for code, names in enumerate(_CONDITION_CODES.split()) for name in names.split("/")}
_SHORT_ONLY: Final = {"loopne": 0xE0, "loopnz": 0xE0, "loope": 0xE1, "loopz": 0xE1, "loop": 0xE2}

_REGISTER32 = re.compile(r"\be(?:[abcd]x|[sd]i|[sb]p)\b")
_REGISTER16 = re.compile(r"\b(?:[abcd]x|[sd]i|[sb]p)\b")
_NUMBER = re.compile(r"[-+]?\s*(?:0x[0-9a-f]+|\d+)", re.IGNORECASE)
_SYSTEM = re.compile(r"\b(?:cr|dr)\d\b")
# Their memory operand's size in the source says nothing about the operand-size prefix.
_NO_OPERAND_SIZE: Final = {
    "les", "lds", "lfs", "lgs", "lss", "ljmp", "lcall", "lgdt", "lidt", "sgdt", "sidt", "lldt", "ltr", "verr", "verw",
    "invlpg",
}  # fmt: skip

_TABLES: Final = {"lgdt", "lidt", "sgdt", "sidt"}


class EncodingError(ValueError):
    """Keystone refused the instruction, or would have encoded something else than what was written."""


@dataclass(slots=True)
class Encoder:
    """Encodes instructions whose operands are numbers and registers; remembers what it has seen."""

    _engines: dict[int, Any] = field(default_factory=dict)
    _seen: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def encode(self, text: str, bits: int, address: int, wide: bool = False) -> bytes:
        """Return the code bytes of `text` at `address` in a code segment of `bits` 16 or 32.

        Args:
            wide: take the near form of a jump even where the short one reaches.
        Raises: EncodingError.
        """
        words = text.split()
        prefix = bytearray()
        while len(words) > 1 and words[0] in PREFIXES:
            prefix.append(PREFIXES[words.pop(0)])
        rest = " ".join(words)
        branch = _branch(rest, bits, address + len(prefix), wide)
        if branch is not None:
            return bytes(prefix) + branch
        code = self._seen.get((rest, bits))
        if code is None:
            code = self._seen[rest, bits] = self._encode_plain(rest, bits)
        return bytes(prefix) + code

    def _encode_plain(self, text: str, bits: int) -> bytes:
        if text in PLAIN:
            return bytes.fromhex(PLAIN[text])
        if text in SIZED:
            size, code = SIZED[text]
            return (b"" if size == bits else b"\x66") + bytes.fromhex(code)
        mnemonic, _, operands = text.partition(" ")
        if mnemonic == "push" and _NUMBER.fullmatch(operands):
            return _push_immediate(_value(operands), bits)
        if mnemonic in ("ret", "retf") and _NUMBER.fullmatch(operands):
            return (b"\xc2" if mnemonic == "ret" else b"\xca") + _value(operands).to_bytes(2, "little")
        if mnemonic in ("ljmp", "lcall") and ":" in operands and "[" not in operands:
            return _far_direct(mnemonic, operands, bits)
        return self._ask_keystone(text, bits)

    def _ask_keystone(self, text: str, bits: int) -> bytes:
        if bits not in self._engines:
            mode = keystone.KS_MODE_16 if bits == 16 else keystone.KS_MODE_32
            self._engines[bits] = keystone.Ks(keystone.KS_ARCH_X86, mode)
        try:
            code, _ = self._engines[bits].asm(text, 0, True)
        except keystone.KsError as refusal:
            raise EncodingError(str(refusal)) from refusal
        if not code:
            raise EncodingError("Keystone made no code of it")
        if bits == 32 and text.partition(" ")[0] in _TABLES and code[0] == PREFIXES["data16"]:
            code = code[1:]  # with it the base would have 24 bits
        check_prefixes(text, bits, code)
        return bytes(code)


def check_prefixes(text: str, bits: int, code: bytes) -> None:
    """Refuse code whose operand-size and address-size prefixes are not the ones that `text` asks for.

    Raises: EncodingError.
    """
    prefixes = set()
    for byte in code:
        if byte not in PREFIXES.values():
            break
        prefixes.add(byte)
    memory = " ".join(re.findall(r"\[.*?\]", text))
    base = _REGISTER32 if bits == 16 else _REGISTER16
    if (0x67 in prefixes) != bool(base.search(memory)):
        raise EncodingError(f"address-size prefix: Keystone made {code.hex(' ')}")
    wanted = _operand_size(text, bits)
    if wanted is not None and (0x66 in prefixes) != (wanted != bits):
        raise EncodingError(f"operand-size prefix: Keystone made {code.hex(' ')}")


def _operand_size(text: str, bits: int) -> int | None:
    """Return the operand size that the operands name, 16 or 32; `bits` for byte-wide ones; None where none counts."""
    mnemonic, _, operands = text.partition(" ")
    if mnemonic in _NO_OPERAND_SIZE or _SYSTEM.search(operands) or mnemonic.startswith("f"):
        return None
    outside = re.sub(r"\[.*?\]", "", operands)
    if mnemonic in ("in", "out"):
        outside = outside.replace("dx", "")
    if mnemonic in ("movzx", "movsx"):
        outside = outside.partition(",")[0]
    if bits == 32 and re.search(r"\b[c-gs]s\b", outside):
        return None
    if _REGISTER32.search(outside) or "dword ptr" in outside:
        return 32
    if _REGISTER16.search(outside.replace(", cl", "")) or re.search(r"\bword ptr", outside):
        return 16
    return bits


def _branch(text: str, bits: int, address: int, wide: bool) -> bytes | None:
    """Encode a near transfer to a number; None when `text` is something else."""
    mnemonic, _, operands = text.partition(" ")
    operands = operands.removeprefix("short ").removeprefix("near ")
    if not _NUMBER.fullmatch(operands):
        return None
    target = _value(operands)
    if mnemonic in _SHORT_ONLY or mnemonic in ("jcxz", "jecxz"):
        code = bytes([_SHORT_ONLY.get(mnemonic, 0xE3)])
        if mnemonic not in _SHORT_ONLY and (mnemonic == "jcxz") != (bits == 16):
            code = b"\x67" + code
        return code + _short(target - address - len(code) - 1)
    if mnemonic == "call":
        return b"\xe8" + _near(target - address - 1, bits)
    if mnemonic == "jmp":
        return _short_or_near(b"\xeb", b"\xe9", target - address, bits, wide)
    condition = _CONDITIONS.get(mnemonic[1:]) if mnemonic.startswith("j") else None
    if condition is None:
        return None
    return _short_or_near(bytes([0x70 | condition]), bytes([0x0F, 0x80 | condition]), target - address, bits, wide)


def _short_or_near(short: bytes, near: bytes, distance: int, bits: int, wide: bool) -> bytes:
    if not wide and -128 <= distance - 2 <= 127:
        return short + _short(distance - 2)
    return near + _near(distance - len(near), bits)


def _short(displacement: int) -> bytes:
    if not -128 <= displacement <= 127:
        raise EncodingError(f"the target is {displacement} bytes away, a short jump reaches 127")
    return displacement.to_bytes(1, "little", signed=True)


def _near(displacement: int, bits: int) -> bytes:
    """`displacement` counts from the displacement field itself; it wraps with the instruction pointer."""
    width = bits // 8
    return ((displacement - width) % (1 << bits)).to_bytes(width, "little")


def _push_immediate(value: int, bits: int) -> bytes:
    value %= 1 << bits
    signed = value - (1 << bits) if value >> (bits - 1) else value
    if -128 <= signed <= 127:
        return b"\x6a" + signed.to_bytes(1, "little", signed=True)
    return b"\x68" + value.to_bytes(bits // 8, "little")


def _far_direct(mnemonic: str, operands: str, bits: int) -> bytes:
    selector, offset = (_value(part) for part in operands.split(":"))
    return (
        (b"\xea" if mnemonic == "ljmp" else b"\x9a")
        + offset.to_bytes(bits // 8, "little")
        + selector.to_bytes(2, "little")
    )


def _value(number: str) -> int:
    return int(number.replace(" ", ""), 0)
