"""Each data fault comes out as its case says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_faults.bench import all_cases, try_case
from tests.data_faults.case import Case


@pytest.mark.parametrize("case", list(all_cases()), ids=lambda case: case.name)
def test_input_comes_out_as_it_must(case: Case, tmp_path: Path) -> None:
    try_case(case, tmp_path)


def test_names_are_unique() -> None:
    names = [case.name for case in all_cases()]
    assert sorted(set(names)) == sorted(names)
