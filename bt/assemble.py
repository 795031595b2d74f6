"""Templates: the in-cache sequences as assembly text, assembled once, with holes for addresses.

The only importer of Keystone. A template is written once and assembled for 16- and for 32-bit code. Names in braces
are 32-bit fields that `Template.emit` fills in. `{o}` before a branch is the operand-size prefix in 16-bit code,
without which the branch would cut EIP to 16 bits (SDM Vol. 2A, "Jcc": the operand size decides how much of EIP
survives).

Keystone takes a twentieth of a second to load. What it made of the templates that there are stands in `templates.json`,
which `python -m tools.assemble_templates` writes; it is asked for those that are not there.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Final

KEPT: Final = Path(__file__).with_name("templates.json")
_FIRST_MARK: Final = 0x5EA1_0001
_FIELD: Final = re.compile(r"\{(\w+)\}")


class TemplateError(Exception):
    """A template that Keystone does not take, or whose fields cannot be found again: a defect of ours."""


@dataclass(frozen=True, slots=True)
class Template:
    """Machine code with named 32-bit fields, (offset, name) each; `labels` are offsets of `name:` lines that end in
    `@`."""

    code: bytes
    fields: tuple[tuple[int, str], ...]

    def emit(self, values: dict[str, int]) -> bytes:
        """The code with every field filled in; values are taken modulo 2^32."""
        out = bytearray(self.code)
        for offset, name in self.fields:
            out[offset : offset + 4] = (values[name] & 0xFFFF_FFFF).to_bytes(4, "little")
        return bytes(out)


@cache
def template(text: str, code32: bool) -> Template:
    """Assemble a template for one code size."""
    names: list[str] = []

    def field(match: re.Match[str]) -> str:
        name = match[1]
        if name == "o":
            return "" if code32 else ".byte 0x66;"
        if name not in names:
            names.append(name)
        return hex(_FIRST_MARK + 0x0101 * names.index(name))

    source = _FIELD.sub(field, text)
    kept = _kept().get(key_of(source, code32))
    code = assemble(source, code32) if kept is None else bytes.fromhex(kept)
    fields = []
    for number, name in enumerate(names):
        mark = (_FIRST_MARK + 0x0101 * number).to_bytes(4, "little")
        found = [match.start() for match in re.finditer(re.escape(mark), code)]
        if len(found) != len(re.findall(r"\{" + name + r"\}", text)):
            raise TemplateError(f"field {name}: {len(found)} places found in {text!r}")
        fields += [(offset, name) for offset in found]
    return Template(code, tuple(sorted(fields)))


@cache
def _kept() -> dict[str, str]:
    """The code of known templates, in hexadecimal, by `key_of`."""
    found: dict[str, str] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return found


def key_of(text: str, code32: bool) -> str:
    """What a template's text goes by in the file."""
    return _key(text, 32 if code32 else 16)


def _key(text: str, bits: int) -> str:
    return sha1(f"{bits}{text}".encode(), usedforsecurity=False).hexdigest()[:20]


def host_code(text: str) -> bytes:
    """Assemble code for the host, an x86-64 processor. Raises TemplateError."""
    kept = _kept().get(host_key_of(text))
    return assemble_for_host(text) if kept is None else bytes.fromhex(kept)


def host_key_of(text: str) -> str:
    """What the text of host code goes by in the file."""
    return _key(text, 64)


def assemble_for_host(text: str) -> bytes:
    """As `assemble`, for an x86-64 processor."""
    import keystone

    return _assemble(text, keystone.KS_MODE_64)


def assemble(text: str, code32: bool) -> bytes:
    """Assemble Intel syntax at address 0. Raises TemplateError with Keystone's message."""
    import keystone

    return _assemble(text, keystone.KS_MODE_32 if code32 else keystone.KS_MODE_16)


def _assemble(text: str, mode: int) -> bytes:
    import keystone

    engine = keystone.Ks(keystone.KS_ARCH_X86, mode)
    try:
        code, _ = engine.asm(text, as_bytes=True)
    except keystone.KsError as error:
        raise TemplateError(f"{error}: {text!r}") from None
    return bytes(code or b"")
