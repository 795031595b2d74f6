"""The engines by name: how guest code can be run."""

from collections.abc import Callable, Mapping
from typing import Final

from bt.translate import Options
from vmm.engines.engine import Engine
from vmm.engines.machine import Machine
from vmm.engines.names import EngineName
from vmm.engines.translate import TranslateEngine

ENGINES: Final[Mapping[EngineName, Callable[[Machine, Options], Engine]]] = {
    EngineName.TRANSLATE: TranslateEngine.on_a_cpu,
}
"""Each makes an engine with a physical CPU of its own for one VM."""
