"""Evaluate what stands in operands and directives: numbers, characters and symbols with C's operators.

Keystone 0.9.2 refuses `~` and some parentheses, so it gets every operand folded: an immediate to one number, a memory
operand to its registers and one displacement.
"""

import ast
import operator
import re
from collections.abc import Callable
from typing import Final

_REGISTERS: Final = (
    "al ah bl bh cl ch dl dh ax bx cx dx si di bp sp eax ebx ecx edx esi edi ebp esp cs ds es fs gs ss st "
    "mm0 mm1 mm2 mm3 mm4 mm5 mm6 mm7 xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6 xmm7 cr0 cr2 cr3 cr4 dr0 dr1 dr2 dr3 dr6 dr7"
)
_SIZES: Final = "byte word dword fword qword tbyte xmmword ptr short near"
RESERVED: Final = frozenset([*_REGISTERS.split(), *_SIZES.split()])
TOKEN: Final = re.compile(
    r"""'(?:\\.|[^'\\])'|(?<![\w.])\d+[bf](?!\w)|0[xX][0-9a-fA-F]+|0b[01]+|\d+|[.]?[A-Za-z_][\w.$]*|[$]"""
)
_BRACKETS = re.compile(r"\[(.*?)\]")
_OPERATORS: Final[dict[type[ast.AST], Callable[..., int]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.LShift: operator.lshift, ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.USub: operator.neg,
    ast.Invert: operator.invert, ast.UAdd: operator.pos,
}  # fmt: skip

Lookup = Callable[[str], int]


def split_arguments(text: str) -> list[str]:
    """Split at commas outside parentheses and characters."""
    return [part.strip() for part in re.findall(r"(?:'(?:\\.|[^'\\])'|\([^)]*\)|[^,'(])+", text) if part.strip()]


def evaluate(text: str, lookup: Lookup) -> int:
    """Return the value of an expression; `lookup` gives the value of a symbol, or of `$`.

    Raises: ValueError, SyntaxError: not an expression of numbers; what `lookup` raises.
    """
    return _fold(_tree(text, lookup))


def fold_operands(text: str, lookup: Lookup) -> str:
    """Return the operands of an instruction with numbers only, for Keystone."""
    return ", ".join(_fold_operand(operand, lookup) for operand in split_arguments(text))


def _fold_operand(operand: str, lookup: Lookup) -> str:
    if "[" in operand:
        return _BRACKETS.sub(lambda match: f"[{_fold_address(match[1], lookup)}]", operand)
    head, colon, offset = operand.partition(":")
    if colon and not operand.startswith("'"):
        return f"{_fold_operand(head, lookup)}:{_fold_operand(offset, lookup)}"
    words = operand.split(" ")
    if words[0].lower() in RESERVED:  # a register, or a size before a number
        rest = " ".join(word for word in words[1:] if word.lower() != "ptr")
        keep = " ".join([words[0]] + [word for word in words[1:] if word.lower() == "ptr"])
        return f"{keep} {_number(evaluate(rest, lookup))}" if rest and "(" not in words[0] else operand
    return operand if operand.startswith("st(") else _number(evaluate(operand, lookup))


def _fold_address(text: str, lookup: Lookup) -> str:
    registers: list[str] = []
    displacement = _collect(_tree(text, lookup), 1, registers)
    if not registers:
        return _number(displacement)
    base = " + ".join(registers)
    return f"{base} {'-' if displacement < 0 else '+'} {abs(displacement):#x}" if displacement else base


def _collect(node: ast.AST, sign: int, registers: list[str]) -> int:
    """Add the registers of a sum to `registers`; return the sum of the rest."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        right = -sign if isinstance(node.op, ast.Sub) else sign
        return _collect(node.left, sign, registers) + _collect(node.right, right, registers)
    if any(isinstance(part, ast.Name) for part in ast.walk(node)):
        if sign < 0:
            raise ValueError("a register cannot be subtracted")
        registers.append(ast.unparse(node))
        return 0
    return sign * _fold(node)


def _tree(text: str, lookup: Lookup) -> ast.AST:
    def value(match: re.Match[str]) -> str:
        token = match[0]
        return token if token.lower() in RESERVED else f"({_token_value(token, lookup)})"

    return ast.parse(TOKEN.sub(value, text).strip(), mode="eval").body


def _token_value(token: str, lookup: Lookup) -> int:
    if token[0] == "'":
        return ord(token[1:-1].encode().decode("unicode_escape"))
    return int(token, 0) if token[0].isdigit() else lookup(token)


def _fold(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_fold(node.left), _fold(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_fold(node.operand))
    raise ValueError("not an expression of numbers")


def _number(value: int) -> str:
    return f"{value:#x}" if value >= 0 else f"-{-value:#x}"
