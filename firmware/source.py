"""Read assembly sources: includes, macros, repetition, comments; out come plain lines that know where they stood.

Understood here, before any symbol has a value:

    .include "file"                 relative to the including file; a file is included once in an assembly
    .macro NAME a, b ... .endm      in the body `\\a` is the argument and `\\@` a number unique to this expansion
    .rept N ... .endr               N is a literal
    # comment                       to the end of the line, outside quotes; `;` does the same
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_COMMENT = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])')|[#;].*""")
_MAX_DEPTH = 16


class AssemblyError(Exception):
    """A source line that does not assemble: `file:line: text: why`."""


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One line without its comment; an expanded macro's lines stand where the macro was used."""

    file: str
    number: int
    text: str

    def error(self, why: str) -> AssemblyError:
        return AssemblyError(f"{self.file}:{self.number}: {self.text}: {why}")


@dataclass(slots=True)
class _Macro:
    parameters: list[str]
    body: list[SourceLine]


@dataclass(slots=True)
class SourceReader:
    """Expands a sequence of sources; macros and the set of included files live as long as the reader."""

    _macros: dict[str, _Macro] = field(default_factory=dict)
    _included: set[Path] = field(default_factory=set)
    _expansions: int = 0

    def read_file(self, path: Path) -> list[SourceLine]:
        """Return the expanded lines of one file."""
        return self.read_text(path.read_text(encoding="utf-8"), path)

    def read_text(self, text: str, path: Path) -> list[SourceLine]:
        """Return the expanded lines of `text`; `path` names it in errors and is where includes start from."""
        raw = [
            SourceLine(path.name, number, _COMMENT.sub(lambda m: m[1] or "", line).strip())
            for number, line in enumerate(text.splitlines(), 1)
        ]
        return list(self._expand(iter(raw), path, 0))

    def _expand(self, lines: Iterator[SourceLine], path: Path, depth: int) -> Iterator[SourceLine]:
        for line in lines:
            if depth > _MAX_DEPTH:
                raise line.error("macros or repetitions nested too deeply")
            word, _, rest = line.text.partition(" ")
            if not word:
                continue
            if word == ".include":
                yield from self._include(line, rest, path)
            elif word == ".macro":
                self._define(line, rest, _body(line, lines, ".macro", ".endm"))
            elif word == ".rept":
                body = _body(line, lines, ".rept", ".endr")
                for _ in range(int(rest, 0)):
                    yield from self._expand(iter(body), path, depth + 1)
            elif word in self._macros:
                yield from self._expand(self._call(line, self._macros[word], rest), path, depth + 1)
            elif word.endswith(":") and rest.split(" ")[0] in self._macros:
                yield SourceLine(line.file, line.number, word)
                yield from self._expand(iter([SourceLine(line.file, line.number, rest.strip())]), path, depth)
            else:
                yield line

    def _include(self, line: SourceLine, rest: str, path: Path) -> list[SourceLine]:
        target = (path.parent / rest.strip().strip('"')).resolve()
        if target in self._included:
            return []
        if not target.is_file():
            raise line.error("no such file")
        self._included.add(target)
        return self.read_file(target)

    def _define(self, line: SourceLine, rest: str, body: list[SourceLine]) -> None:
        name, _, parameters = rest.partition(" ")
        if name in self._macros:
            raise line.error(f"macro {name} is defined already")
        self._macros[name] = _Macro(_split(parameters), body)

    def _call(self, line: SourceLine, macro: _Macro, rest: str) -> Iterator[SourceLine]:
        arguments = _split(rest)
        if len(arguments) != len(macro.parameters):
            raise line.error(f"{len(macro.parameters)} arguments expected, {len(arguments)} given")
        self._expansions += 1
        for step in macro.body:
            text = step.text.replace("\\@", str(self._expansions))
            for name, value in zip(macro.parameters, arguments, strict=True):
                text = re.sub(rf"\\{name}\b", value.replace("\\", r"\\"), text)
            yield SourceLine(line.file, line.number, text)


def _split(arguments: str) -> list[str]:
    return [part.strip() for part in arguments.split(",")] if arguments.strip() else []


def _body(line: SourceLine, lines: Iterator[SourceLine], opening: str, closing: str) -> list[SourceLine]:
    """Take the lines up to the closing directive that belongs to `line`."""
    body: list[SourceLine] = []
    depth = 1
    for step in lines:
        word = step.text.partition(" ")[0]
        depth += (word == opening) - (word == closing)
        if depth == 0:
            return body
        body.append(step)
    raise line.error(f"{closing} is missing")
