"""Programs for tests, put together by hand."""

from bt.assemble import assemble
from vmm.differential import layout
from vmm.differential.modes import MODES, Kind, Paging
from vmm.differential.program import Fixup, Patch, Program, Step

ENTRY = layout.CODE + 0x100


def program(
    mode_name: str,
    *texts: str | bytes | Step,
    eflags: int = 0,
    paging: Paging = Paging.NONE,
    patches: tuple[Patch, ...] = (),
    entry: int = ENTRY,
    cr0: int = 0,
    cr4: int = 0x200,
    **registers: int,
) -> Program:
    """A program with segment bases; each text is a step."""
    mode = MODES[mode_name]
    names = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
    values = [registers.get(name, 0) for name in names]
    values[4] = registers.get("esp", layout.STACK_TOP - layout.STACK_BASE)
    iopl = (mode.iopl or 0) << 12 if mode.kind is Kind.V86 else 0
    steps = tuple(_step(text, mode.code32) for text in texts)
    return Program(mode, paging, True, entry, tuple(values), eflags | iopl, cr0, cr4, 0, patches, steps)


def _step(text: str | bytes | Step, code32: bool) -> Step:
    if isinstance(text, Step):
        return text
    if isinstance(text, bytes):
        return Step("raw", text)
    return Step(text.split()[0], assemble(text, code32))


def jump_to(step: int) -> Step:
    """JMP rel8 to a step."""
    return Step("jmp", b"\xeb\0", (Fixup(1, 1, step),))
