"""Programs that once made a difference."""

import json
from pathlib import Path

import pytest

from vmm.differential.cases import read_case, replay
from vmm.differential.rig import SUBJECTS

CASES = sorted(Path(__file__).with_name("cases").glob("*.json"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_saved_case_makes_no_difference_without_an_explanation(path: Path) -> None:
    program = read_case(path)
    saved = json.loads(path.read_text())
    if saved["against"] not in SUBJECTS:
        pytest.skip(f"there is no engine {saved['against']} yet")
    case, flaw = replay(program, saved["engine"], saved["against"])
    assert flaw is not None or not case.differences, [str(each) for each in case.differences]
