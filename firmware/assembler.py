"""Assemble whole sources: labels, data and layout here, each instruction through `firmware.encode`.

Keystone's own assembler directives cannot place code (`.org` is refused) and name no line in an error, so it only
ever sees one instruction with numbers for operands. Passes repeat until every label has come to rest; jumps start
short and only ever grow.

    label:  .local:        `.local` belongs to the label before it; `1:` with `1b` and `1f` works as well
    .set NAME, value       also `NAME = value`; a symbol may be used before it is defined
    .byte .word .long      lists of expressions; .ascii .asciz "text"; .fill count, size, value
    .org address           go on at this address; `.flow` returns to where the code before the first .org stopped
    .align n, fill         .space count, fill
    .code16 .code32        how the following instructions are encoded

An expression has numbers, 'c' characters, symbols, `$` (this address) and C's operators.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from firmware.encode import PREFIXES, Encoder, EncodingError
from firmware.expression import RESERVED, TOKEN, evaluate, fold_operands, split_arguments
from firmware.source import AssemblyError, SourceLine, SourceReader

_MAX_PASSES = 30
_LABEL = re.compile(r"(\.?[A-Za-z_][\w$]*|\d+):\s*")
_BRANCH = re.compile(r"j|call|loop")
_STRING = re.compile(r'"((?:\\.|[^"\\])*)"')
_DATA_SIZES: Final = {".byte": 1, ".word": 2, ".short": 2, ".2byte": 2, ".long": 4, ".int": 4, ".4byte": 4, ".quad": 8}


@dataclass(frozen=True, slots=True)
class Placed:
    """One source line where it ended up; `bits` is the code size in force, 16 or 32."""

    address: int
    code: bytes
    line: SourceLine
    bits: int = 16


@dataclass(frozen=True, slots=True)
class Assembly:
    """The result: placed lines in source order, and the value of every symbol."""

    placed: tuple[Placed, ...]
    symbols: dict[str, int]

    def image(self, start: int, size: int, fill: int = 0xFF) -> bytes:
        """Lay the lines out in `size` bytes from address `start`.

        Raises: AssemblyError: two lines claim the same byte, or one lies outside.
        """
        image = bytearray([fill]) * size
        owner: dict[int, SourceLine] = {}
        for piece in self.placed:
            offset = piece.address - start
            if offset < 0 or offset + len(piece.code) > size:
                raise piece.line.error(f"address {piece.address:#x} lies outside the image")
            for at in range(offset, offset + len(piece.code)):
                if at in owner:
                    raise piece.line.error(f"address {start + at:#x} holds {owner[at].file}:{owner[at].number} already")
                owner[at] = piece.line
            image[offset : offset + len(piece.code)] = piece.code
        return bytes(image)

    def flat(self, start: int = 0) -> bytes:
        """Lay the lines out from `start` to the last byte used; gaps are zero."""
        return self.image(start, max((p.address + len(p.code) for p in self.placed), default=start) - start, 0)

    def listing(self) -> str:
        """Return one line per source line: address, bytes, source."""
        return "\n".join(f"{p.address:06x}  {p.code[:8].hex():16}  {p.line.text}" for p in self.placed) + "\n"


def assemble_text(text: str, origin: int = 0, bits: int = 16, name: str = "text") -> Assembly:
    """Assemble one source given as text. Raises: AssemblyError."""
    return _Assembler(SourceReader().read_text(text, Path(name)), origin, bits).run()


def assemble_files(paths: Iterable[Path], generated: str = "", bits: int = 16) -> Assembly:
    """Assemble files in the given order, and then `generated` source, as one unit: symbols and macros are shared.

    Raises: AssemblyError.
    """
    reader = SourceReader()
    lines = [line for path in paths for line in reader.read_file(path)]
    return _Assembler(lines + reader.read_text(generated, Path("generated")), 0, bits).run()


@dataclass(slots=True)
class _Statement:
    line: SourceLine
    kind: str  # label, set, data, text, directive, code
    word: str  # the label, the symbol, the directive; for code the whole instruction
    rest: str = ""
    names: tuple[str, ...] = ()  # the symbols that its code depends on, `$` among them for a branch
    wide: bool = False
    inputs: tuple[int | None, ...] | None = None  # their values, and the mode, when `code` was made
    code: bytes = b""


@dataclass(slots=True)
class _Assembler:
    lines: list[SourceLine]
    origin: int
    bits: int
    encoder: Encoder = field(default_factory=Encoder)
    symbols: dict[str, int] = field(default_factory=dict)
    _address: int = 0
    _flow: int = 0
    _flowing: bool = True
    _mode: int = 16
    _final: bool = False

    def run(self) -> Assembly:
        """Repeat passes until no symbol moves."""
        statements = _parse(self.lines)
        for _ in range(_MAX_PASSES):
            before = dict(self.symbols)
            placed = self._pass(statements)
            if self._final and before == self.symbols:
                return Assembly(tuple(placed), {k: v for k, v in self.symbols.items() if "$" not in k})
            self._final = before == self.symbols
        raise AssemblyError(f"labels still move after {_MAX_PASSES} passes")

    def _pass(self, statements: list[_Statement]) -> list[Placed]:
        self._address = self._flow = self.origin
        self._flowing, self._mode = True, self.bits
        placed = []
        for statement in statements:
            try:
                code = self._emit(statement)
            except (EncodingError, SyntaxError, KeyError, OverflowError, ValueError, ZeroDivisionError) as why:
                raise statement.line.error(str(why)) from why
            if code:
                placed.append(Placed(self._address, code, statement.line, self._mode))
                self._address += len(code)
        return placed

    def _emit(self, statement: _Statement) -> bytes:
        match statement.kind:
            case "label":
                self.symbols[statement.word] = self._address
            case "set":
                self.symbols[statement.word] = self._evaluate(statement.rest)
            case "data" | "code":
                return self._remembered(statement)
            case "text":
                return _text(statement.rest) + (b"\0" if statement.word == ".asciz" else b"")
            case "directive":
                return self._direct(statement.word, statement.rest)
        return b""

    def _remembered(self, statement: _Statement) -> bytes:
        """Make the code of a statement, unless nothing that it depends on has changed since the last pass."""
        values = [self._address if name == "$" else self.symbols.get(name) for name in statement.names]
        inputs = (self._mode, *values)
        if inputs != statement.inputs or None in values:
            statement.code = self._encode(statement) if statement.kind == "code" else self._data(statement)
            statement.inputs = inputs
        return statement.code

    def _data(self, statement: _Statement) -> bytes:
        size = _DATA_SIZES[statement.word]
        values = [self._evaluate(part) for part in split_arguments(statement.rest)]
        return b"".join((value % (1 << 8 * size)).to_bytes(size, "little") for value in values)

    def _encode(self, statement: _Statement) -> bytes:
        text = self._substitute(statement.word)
        code = self.encoder.encode(text, self._mode, self._address, statement.wide)
        # A jump that was long once stays long, or two of them could take turns for ever.
        statement.wide = statement.wide or (text[0] == "j" and len(code) > 2)
        return code

    def _direct(self, word: str, rest: str) -> bytes:
        numbers = [self._evaluate(part) for part in split_arguments(rest)]
        match word, numbers:
            case ((".code16" | ".code32"), []):
                self._mode = int(word[-2:])
            case ".org", [address]:
                if self._flowing:
                    self._flow, self._flowing = self._address, False
                self._address = address
            case ".flow", []:
                if not self._flowing:
                    self._address, self._flowing = self._flow, True
            case ".align", [step, *fill]:
                return bytes([*fill, 0][:1]) * (-self._address % step)
            case ((".space" | ".skip"), [count, *fill]):
                return bytes([*fill, 0][:1]) * count
            case ".fill", [count, size, value]:
                return (value % (1 << 8 * size)).to_bytes(size, "little") * count
            case _:
                raise ValueError("no such directive, or not with these operands")
        return b""

    def _substitute(self, text: str) -> str:
        """Put numbers for symbols in an instruction, and hexadecimal for every number."""
        words = text.split(" ")
        keep = 1
        while keep < len(words) and words[keep - 1] in PREFIXES:
            keep += 1
        head, rest = " ".join(words[:keep]), " ".join(words[keep:])
        return f"{head} {fold_operands(rest, self._lookup)}" if rest else head

    def _lookup(self, symbol: str) -> int:
        if symbol == "$":
            return self._address
        if symbol in self.symbols:
            return self.symbols[symbol]
        if self._final:
            raise ValueError(f"undefined symbol {symbol}")
        return self._address  # a guess near by, so that a jump starts short

    def _evaluate(self, text: str) -> int:
        return evaluate(text, self._lookup)


@dataclass(slots=True)
class _Names:
    """Gives local and numeric labels names of their own."""

    scope: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    def define(self, label: str) -> str:
        if label.isdigit():
            self.counts[label] = self.counts.get(label, 0) + 1
            return f"N{label}${self.counts[label]}"
        if label.startswith("."):
            return self.scope + label
        self.scope = label
        return label

    def refer(self, match: re.Match[str]) -> str:
        token = match[0]
        if token[0].isdigit() and token[-1] in "bf" and token[:-1].isdigit():
            return f"N{token[:-1]}${self.counts.get(token[:-1], 0) + (token[-1] == 'f')}"
        return self.scope + token if token[0] == "." else token


def _parse(lines: list[SourceLine]) -> list[_Statement]:
    statements: list[_Statement] = []
    defined: dict[str, SourceLine] = {}
    names = _Names()
    for line in lines:
        text = line.text
        while match := _LABEL.match(text):
            label = names.define(match[1])
            if label in defined or label.lower() in RESERVED:
                raise line.error(f"{label} is reserved or defined already")
            defined[label] = line
            statements.append(_Statement(line, "label", label))
            text = text[match.end() :]
        if text:
            statements.append(_statement(line, text, names))
    return statements


def _statement(line: SourceLine, text: str, names: _Names) -> _Statement:
    word, _, rest = text.replace("\t", " ").partition(" ")
    rest = rest.strip()
    if word in (".ascii", ".asciz"):
        return _Statement(line, "text", word, rest)
    rest = TOKEN.sub(names.refer, rest)
    if word in (".set", ".equ"):
        name, _, value = rest.partition(",")
        return _Statement(line, "set", name.strip(), value)
    if rest.startswith("="):
        return _Statement(line, "set", word, rest[1:])
    if word in _DATA_SIZES:
        return _Statement(line, "data", word, rest, _symbols(rest))
    if word.startswith("."):
        return _Statement(line, "directive", word, rest)
    rest = re.sub(r"\boffset\s+", "", re.sub(r"\s+", " ", rest))
    depends = _symbols(rest) + (("$",) if _BRANCH.match(word) else ())
    return _Statement(line, "code", f"{word} {rest}".strip(), names=depends)


def _symbols(text: str) -> tuple[str, ...]:
    return tuple(t for t in TOKEN.findall(text) if t[0] not in "'0123456789" and t.lower() not in RESERVED)


def _text(rest: str) -> bytes:
    pieces = _STRING.findall(rest)
    if not pieces:
        raise ValueError("a quoted string is expected")
    return b"".join(piece.encode().decode("unicode_escape").encode("latin-1") for piece in pieces)
