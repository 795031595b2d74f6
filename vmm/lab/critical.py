"""`vmm lab critical`: each critical instruction in each form and setting, on each engine."""

from collections.abc import Iterable, Iterator
from typing import Final

from vmm.lab import critical_cases, transfer_cases
from vmm.lab.deviations import DEVIATIONS
from vmm.lab.program import Case
from vmm.lab.rows import Row
from vmm.lab.setting import SETTINGS

_TABLES: Final = (
    critical_cases.store_tables,
    critical_cases.store_words,
    critical_cases.flags_on_the_stack,
    critical_cases.look_up_rights,
    critical_cases.verify_rights,
    critical_cases.read_segments,
    critical_cases.write_segments,
    transfer_cases.far_calls_and_jumps,
    transfer_cases.far_returns,
    transfer_cases.interrupts,
    transfer_cases.interrupt_returns,
)


def cases() -> Iterator[Case]:
    """Every case, in the order of the report."""
    for setting in SETTINGS:
        for table in _TABLES:
            yield from table(setting)


def surprises(rows: Iterable[Row]) -> list[str]:
    """What is not as it was said beforehand, a line each: wrong cells that `DEVIATIONS` has not, and right ones that it
    has.
    """
    found = []
    for row in rows:
        is_expected_wrong = row.key in DEVIATIONS.get(row.engine, {})
        if row.right and is_expected_wrong:
            found.append(f"{row.engine}: {' '.join(map(str, row.key))} is right, and was expected to be wrong")
        elif not row.right and not is_expected_wrong:
            found.append(f"{row.engine}: {' '.join(map(str, row.key))} shows {row.got}, expected {row.expected}")
    return found
