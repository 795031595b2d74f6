"""The engines by name: how guest code can be run. Each is loaded when it is chosen: a start pays for one."""

from collections.abc import Callable, Mapping
from typing import Final

from vmm.engines.engine import Engine
from vmm.engines.machine import Machine
from vmm.engines.names import EngineName
from vmm.engines.options import EngineOptions


def _translate(machine: Machine, options: EngineOptions) -> Engine:
    from vmm.engines.translate import TranslateEngine

    return TranslateEngine.on_a_cpu(machine, options)


def _trap(machine: Machine, options: EngineOptions) -> Engine:
    from vmm.engines.trap import TrapEngine

    return TrapEngine.on_a_cpu(machine, options)


def _bare(machine: Machine, options: EngineOptions) -> Engine:
    from vmm.engines.bare import BareEngine

    return BareEngine.on_a_cpu(machine, options)


def _svm(machine: Machine, options: EngineOptions) -> Engine:
    from vmm.engines.svm import SvmEngine

    return SvmEngine.on_a_cpu(machine, options)


ENGINES: Final[Mapping[EngineName, Callable[[Machine, EngineOptions], Engine]]] = {
    EngineName.TRANSLATE: _translate,
    EngineName.TRAP: _trap,
    EngineName.BARE: _bare,
    EngineName.SVM: _svm,
}
"""Each makes an engine with a physical CPU of its own for one VM."""
