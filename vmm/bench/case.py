"""A case: a few instructions that an image repeats, and what is taken away from their time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

UNROLLED: Final = 8


@dataclass(frozen=True, slots=True)
class Case:
    """32-bit assembly that is timed as `repeat` copies of `body` in a loop, less as many of `baseline`.

    All may change every general register but EBP and ESP, and find what `before`, which runs once in ring 0, has left
    in those that nothing changes; EAX is not among them. `routines` is code that `body` calls. `expected` computes what
    EAX must be after the first round of `body`; None if that says nothing.
    """

    name: str
    what: str
    body: str
    baseline: str = ""
    before: str = ""
    routines: str = ""
    ring: int = 0
    repeat: int = UNROLLED
    expected: Callable[[], int] | None = None

    def text(self, number: int) -> str:
        """The case as the `number`-th of an image, which goes on at the next one's label."""
        body = (self.body + "\n") * self.repeat
        baseline = (self.baseline + "\n") * self.repeat
        enter, leave = (
            ("call to_user", f"mov edx, case{number + 1}\nint INT_TO_KERNEL")
            if self.ring
            else ("", f"jmp case{number + 1}")
        )
        check = "" if self.expected is None else f"cmp eax, {self.expected():#x}\njne wrong"
        return f"""
case{number}:
{self.before}
{enter}
    mov ebp, 1
    call .baseline
    mov ebp, 1
    call .body
{check}
{_mark(3 * number)}
    mov ebp, dword ptr [counts + {4 * number}]
    call .baseline
{_mark(3 * number + 1)}
    mov ebp, dword ptr [counts + {4 * number}]
    call .body
{_mark(3 * number + 2)}
{leave}
.baseline:
{baseline}
    dec ebp
    jnz .baseline
    ret
.body:
{body}
    dec ebp
    jnz .body
    ret
{self.routines}
"""


MARKS_PER_CASE: Final = 3
"""Before the baseline, between the two loops, behind the body."""
FIRST_MARK: Final = 0x80
_MARKS: Final = 64
WRONG: Final = 0xFE
UNEXPECTED: Final = 0xFF


def code_of_mark(position: int) -> int:
    """The byte of the mark at a position: beyond ASCII, which others may write to the same port."""
    return FIRST_MARK + position % _MARKS


def _mark(position: int) -> str:
    return f"    mov al, {code_of_mark(position):#x}\n    out MARK_PORT, al"


def named(cases: Sequence[Case]) -> dict[str, Case]:
    """The cases by name."""
    return {case.name: case for case in cases}
