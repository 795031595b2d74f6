"""Programs in files: what once made a difference, and must never again."""

import json
from pathlib import Path
from typing import Any

from vmm.differential.case import Case
from vmm.differential.explanations import explain
from vmm.differential.flaws import Flaw
from vmm.differential.pair import Pair
from vmm.differential.program import Program
from vmm.differential.rig import SUBJECTS, Rig
from vmm.errors import ConfigError


def read_case(path: Path) -> Program:
    """The program in a case file, or in one of a report's failures. Raises: ConfigError."""
    try:
        saved: dict[str, Any] = json.loads(path.read_text())
        return Program.from_json(saved["program"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no saved case: {type(error).__name__}: {error}") from None


def replay(program: Program, engine: str, against: str) -> tuple[Case, Flaw | None]:
    """A program on two machines of its own, and what explains a difference."""
    pair = Pair(engine, Rig(SUBJECTS[engine]), against, Rig(SUBJECTS[against]))
    case = pair.compare(program)
    flaws = explain(case, pair.compare, pair.compare_unchecked)[0] if case.differences else ()
    pair.close()
    return case, flaws[0] if flaws else None
