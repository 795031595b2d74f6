"""What can be chosen about an engine besides its kind."""

from dataclasses import dataclass
from typing import Final

from bt.translate import DEFAULT_OPTIONS, Options


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Each engine takes what concerns it."""

    translation: Options = DEFAULT_OPTIONS
    nested_paging: bool = False


DEFAULT_ENGINE_OPTIONS: Final = EngineOptions()
