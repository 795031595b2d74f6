"""Fingers on the keyboard: strokes become keys that go down, stay down for a while, and come up.

A terminal says which key was struck and nothing of how long. Software that samples the keyboard, as games do once a
frame, would never see a key that comes up as soon as it went down. So a key is held for HOLD_NS, or until the next
stroke. What the keyboard has no room for waits here; one stroke is taken at a time, so this is bounded.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from vmm.devices.keymap import KeyStroke
from vmm.devices.ps2_keyboard import KeyEvent, Ps2Keyboard
from vmm.devices.snapshot import load_fields, save_fields, wired

HOLD_NS: Final = 100_000_000


@dataclass(slots=True)
class Fingers:
    """`down` are the keys held, in the order in which they went down; `release_at` is virtual ns."""

    keyboard: Ps2Keyboard = wired()
    down: list[str] = field(default_factory=list)
    waiting: deque[list[Any]] = field(default_factory=deque)
    """Movements the keyboard has not taken yet: [key, whether it goes down]."""
    release_at: int = 0

    def is_free(self) -> bool:
        """Whether a stroke would be made at once."""
        return not self.waiting and self.keyboard.room() > 0

    def strike(self, stroke: KeyStroke, now: int) -> None:
        """Let go of what is held and strike a key, its modifiers first."""
        self._release()
        for key in (*stroke.modifiers, stroke.key):
            self.down.append(key)
            self.waiting.append([key, True])
        self.release_at = now + HOLD_NS
        self._move()

    def advance(self, now: int) -> None:
        """Move what has room, and let go when it is time."""
        if self.down and now >= self.release_at:
            self._release()
        self._move()

    def next_deadline(self) -> int | None:
        """When the keys held come up."""
        return self.release_at if self.down else None

    def save(self) -> dict[str, Any]:
        """The state as JSON-able values."""
        return save_fields(self)

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        load_fields(self, state)

    def _release(self) -> None:
        self.waiting.extend([key, False] for key in reversed(self.down))
        self.down.clear()

    def _move(self) -> None:
        taken = self.keyboard.type_keys([KeyEvent(key, pressed) for key, pressed in self.waiting])
        for _ in range(taken):
            self.waiting.popleft()
