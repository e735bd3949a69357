"""The table of what strategies need is as the code makes it, and says what is known of some of them."""

import re
from pathlib import Path

from clbench.strategies import CATALOGUE, page

TEXT = (Path(__file__).parents[1] / "docs" / "strategies.md").read_text(encoding="utf-8")


def test_the_table_is_as_the_code_makes_it():
    assert page.updated(TEXT) == TEXT, "run: python -m clbench.strategies.page docs/strategies.md"


def test_every_strategy_is_in_it_with_what_it_needs():
    table = TEXT.partition("<!-- made: needs -->")[2].partition("<!-- end -->")[0]
    rows = {cells[1].strip(" `"): [cell.strip() for cell in cells[2:-1]] for cells in map(_cells, table.splitlines())}
    assert set(CATALOGUE) - {"avalanche"} <= set(rows)
    assert rows["naive"] == ["", "", "", "1", ""]
    assert rows["er"] == ["", "", "500", "1", ""]
    assert rows["fpf"][:4] == ["any", "", "the base's, or 500", "1"]
    assert rows["gdumb"][1] == "known length, single labels, the whole stream"
    assert rows["ewc"] == ["any", "task borders", "", "1", "`anchor` (×1), `importance` (×1)"]
    assert rows["cumulative"] == ["", "", "all", "1", ""]
    assert rows["frequency_replay"][2] == "200 a class"
    assert rows["ease"][3] == "1 an experience"
    assert rows["offline_merge"][4].endswith("`kept` (×1 an experience)")
    assert rows["aper"][3] == "2"
    assert rows["adapter"] == ["any", "transformer", "", "1", ""]


def test_what_grows_evenly_is_told_by_the_lesson():
    given = [1, 1, 1, 1], [1, 2, 3, 4], [2, 3, 4, 5], [1, 2, 1, 2], [4, 3, 2, 1]
    assert list(map(page.over, given)) == ["1", "1 an experience", "1 + 1 an experience", "2", "1"]


def _cells(line):
    return re.split(r"(?<!\\)\|", line) if line.startswith("|") else ["", "", ""]
