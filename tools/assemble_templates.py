"""`python -m tools.assemble_templates`: what Keystone makes of every template, into `bt/templates.json`.

Every form of every instruction is translated once in every kind of context, so whatever template there is gets used.
To be run when a template has changed: it takes a few minutes.
"""

import json
import sys
from collections.abc import Iterator
from itertools import product

from bt import assemble as assembler
from bt.assemble import KEPT, assemble_for_host, host_key_of, key_of
from bt.guest import Context, Mode, Window
from bt.translate import BlockTranslator, NeedsMoreBytes, Options
from vmm.engines.crossing_code import CROSSING
from vmm.hw import sse_code, x87_code

_OVERRIDES = (b"", b"\x26", b"\x2e", b"\x36", b"\x3e", b"\x64", b"\x65")
_SIZES = (b"", b"\x66")
_OPCODES = [bytes([first]) for first in range(0x100)] + [bytes([0x0F, second]) for second in range(0x100)]
_IN_MEMORY = range(0x00, 0x40, 8)
"""[EAX] or [BX + SI]."""
_REGISTERS = range(0xC0, 0x100)
_REST = bytes(16)
_TABLE = Window(1 << 12, 1 << 12, 2 << 12, 3 << 12, 0, 4 << 12, 5 << 12)
_NO_TABLE = Window(1 << 12, 1 << 12, 2 << 12, 2 << 12, 0)
_KINDS = ((_TABLE, Options(limit=2)), (_TABLE, Options(limit=2, self_check=True)), (_NO_TABLE, Options(1, step=True)))


def contexts() -> Iterator[Context]:
    """Every kind."""
    for code32, stack32, iopl3 in product((False, True), repeat=3):
        yield Context(Mode.REAL, 0, code32, stack32, iopl3)
        yield Context(Mode.V86, 3, code32, stack32, iopl3)
        for cpl in (0, 1, 3):
            yield Context(Mode.PROTECTED, cpl, code32, stack32, iopl3)


def _forms() -> Iterator[bytes]:
    """Every opcode with every operand that a template could depend on, and zeros behind."""
    for size, opcode in product(_SIZES, _OPCODES):
        for modrm in _REGISTERS:
            yield size + opcode + bytes([modrm]) + _REST
        for override, modrm in product(_OVERRIDES, _IN_MEMORY):
            yield override + size + opcode + bytes([modrm]) + _REST


def collect() -> dict[str, str]:
    """Assemble all templates with Keystone: code in hexadecimal by key."""
    made: dict[str, str] = {}
    assemble = assembler.assemble

    def remembering(text: str, code32: bool) -> bytes:
        code = assemble(text, code32)
        made[key_of(text, code32)] = code.hex()
        return code

    translator = BlockTranslator()
    assembler.template.cache_clear()
    assembler.assemble, assembler._kept = remembering, dict  # type: ignore[assignment]
    for context, (window, options), code in product(contexts(), _KINDS, list(_forms())):
        if translator.keeps(code, context.code32):
            continue
        try:
            translator.translate(code, 0, context, window, options)
        except NeedsMoreBytes:
            continue
    for text in (CROSSING, x87_code.CARRY_OUT, *x87_code.HELPERS.values(), *sse_code.HELPERS.values()):
        made[host_key_of(text)] = assemble_for_host(text).hex()
    return dict(sorted(made.items()))


def main() -> int:
    """Write the file anew."""
    KEPT.write_text(json.dumps(collect(), indent=0) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
