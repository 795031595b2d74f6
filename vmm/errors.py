"""Every error of the project on one screen.

What the guest has earned is not here: see `vmm.arch.exceptions.GuestFault`.
"""


class VmmError(Exception):
    """Anything that ends a run and is not the guest's doing."""


class ConfigError(VmmError):
    """The user's mistake: one line that says what was given, what was expected and what to do. Status 2."""


class EngineMismatch(VmmError):
    """The engine below is not the one whose layout was measured."""


class Unmodelled(VmmError):
    """The guest met something that is not modelled: an instruction, an exit or, if strict, a device mode.

    `report` has a line per fact: address, bytes, mode, registers.
    """

    def __init__(self, what: str, report: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.report = report
