"""The engines by name: how guest code can be run."""

from collections.abc import Callable, Mapping
from typing import Final

from vmm.engines.bare import BareEngine
from vmm.engines.engine import Engine
from vmm.engines.machine import Machine
from vmm.engines.names import EngineName
from vmm.engines.options import EngineOptions
from vmm.engines.svm import SvmEngine
from vmm.engines.translate import TranslateEngine

ENGINES: Final[Mapping[EngineName, Callable[[Machine, EngineOptions], Engine]]] = {
    EngineName.TRANSLATE: TranslateEngine.on_a_cpu,
    EngineName.BARE: BareEngine.on_a_cpu,
    EngineName.SVM: SvmEngine.on_a_cpu,
}
"""Each makes an engine with a physical CPU of its own for one VM."""
