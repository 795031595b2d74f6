"""A step for any mnemonic: a random encoding of it, with operands that usually let it do something.

Most need nothing but a memory operand or an immediate. `special.py` has those that need a stack frame, a descriptor, a
target or a register to be of use.
"""

from functools import cache
from random import Random
from typing import Final

from bt.decode import LEGACY_PREFIXES
from vmm.arch.registers import Eflags, Reg
from vmm.differential.forms import Form, forms
from vmm.differential.modes import Mode
from vmm.differential.operands import Operands
from vmm.differential.program import Fixup

_LOCK: Final = b"\xf0"
_LOCKABLE: Final = frozenset(
    "add adc and btc btr bts cmpxchg cmpxchg8b dec inc neg not or sbb sub xor xadd xchg".split()
)
_MOFFS: Final = range(0xA0, 0xA4)
_LEGACY: Final = bytes(sorted(LEGACY_PREFIXES))
_SYSTEM_MOVES: Final = tuple(bytes([0x0F, low]) for low in range(0x20, 0x27))
_TO_ESP: Final = int(Reg.ESP)
_RETRIES: Final = 4


class Writer:
    """Writes steps for one program. `count` is how many steps the program will have."""

    def __init__(self, chance: Random, mode: Mode, based: bool, count: int) -> None:
        self.chance, self.mode, self.count = chance, mode, count
        self.operands = Operands(chance, mode, based)
        self.width = 4 if mode.code32 else 2
        self.code_base = self.operands.base(1)

    def plain(self, name: str) -> bytes:
        """Any encoding, any operands."""
        form = self.pick(name)
        setup, code = self.encode(form, name)
        return setup + code

    def pick(self, name: str) -> Form:
        """An encoding. MOV of control and debug registers is left to `special`: no random value makes sense there."""
        return self.chance.choice(_ordinary(name, self.mode.code32))

    def encode(self, form: Form, name: str) -> tuple[bytes, bytes]:
        """(code that sets the operands up, the instruction)."""
        chance, operands = self.chance, self.operands
        immediate = operands.little(form.immediate) if form.fixed is None else form.fixed
        prefix = self._extra_prefix(name, form)
        if form.memory and (not form.registers or chance.random() < 0.5):
            memory = operands.memory()
            reg = self._reg(form.memory)
            return memory.setup, prefix + memory._replace(setup=b"").encode(form.head, reg) + immediate
        if form.registers:
            return b"", prefix + form.head + bytes([self._modrm(form.registers)]) + immediate
        if form.head[-1] in _MOFFS and len(form.head.lstrip(_LEGACY)) == 1:
            immediate = operands.offset(operands.address()).to_bytes(4, "little")[: form.immediate]
        return b"", prefix + form.head + immediate

    def _reg(self, allowed: tuple[int, ...]) -> int:
        """A reg field; ESP, which may be a destination, rarely."""
        for _ in range(_RETRIES):
            reg = self.chance.choice(allowed)
            if reg != _TO_ESP or len(allowed) < 5:
                return reg
        return self.chance.choice(allowed)

    def _modrm(self, allowed: tuple[int, ...]) -> int:
        for _ in range(_RETRIES):
            modrm = self.chance.choice(allowed)
            if len(allowed) < 5 or _TO_ESP not in (modrm & 7, modrm >> 3 & 7):
                return modrm
        return self.chance.choice(allowed)

    def _extra_prefix(self, name: str, form: Form) -> bytes:
        """LOCK where it is allowed to stand, and now and then a prefix that means nothing."""
        chance = self.chance.random()
        if name in _LOCKABLE and form.memory and not form.registers and chance < 0.2:
            return _LOCK
        return b"\x3e" if chance > 0.98 else b""

    # --- pieces of special steps -----------------------------------------------------------------------

    def load(self, reg: int, value: int) -> bytes:
        """MOV r32, imm32."""
        return self.operands.load(reg, value)

    def load_step(self, reg: int, step: int, base: int) -> tuple[bytes, Fixup]:
        """MOV r32 with the offset of a step in a segment with a base; the fixup is for the piece's own start."""
        code = self.load(reg, 0)
        return code, Fixup(len(code) - 4, 4, step, base)

    def push(self, value: int, width: int = 0) -> bytes:
        """PUSH imm of `width` bytes, the default width if 0."""
        width = width or self.width
        prefix = b"" if width == self.width else b"\x66"
        return prefix + b"\x68" + (value & (1 << 8 * width) - 1).to_bytes(width, "little")

    def push_step(self, step: int, width: int, base: int) -> tuple[bytes, Fixup]:
        """PUSH of the offset of a step in a segment with a base."""
        code = self.push(0, width)
        return code, Fixup(len(code) - width, width, step, base)

    def sized(self, width: int) -> bytes:
        """The operand-size prefix that an operand of `width` bytes needs."""
        return b"" if width == self.width else b"\x66"

    def any_width(self) -> int:
        """2 or 4, mostly the default."""
        return self.width if self.chance.random() < 0.75 else 6 - self.width

    def forward(self, number: int) -> int:
        """A step to branch to: one of the next few, or sometimes any."""
        if self.chance.random() < 0.03:
            return self.chance.randrange(self.count + 1)
        return number + self.chance.randint(1, 3)

    def flags(self) -> int:
        """An EFLAGS image for POPF and IRET."""
        chance = self.chance
        value = chance.getrandbits(12) & ~int(Eflags.TF) | int(Eflags.ONE)
        if chance.random() < 0.06:
            value |= int(Eflags.TF)
        if chance.random() < 0.1:
            value |= int(Eflags.NT)
        if chance.random() < 0.3:
            value |= chance.getrandbits(2) << 12
        elif self.mode.iopl:
            value |= self.mode.iopl << 12
        if chance.random() < 0.2:
            value |= chance.choice((int(Eflags.AC), int(Eflags.ID), int(Eflags.RF), int(Eflags.VM), 1 << 19))
        return value


@cache
def _ordinary(name: str, code32: bool) -> tuple[Form, ...]:
    return tuple(form for form in forms(code32)[name] if form.head[-2:] not in _SYSTEM_MOVES)
