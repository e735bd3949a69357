import math
import re
from pathlib import Path

import pytest
from fake import FORGETS, IMPROVES

from clbench.accumulation import accumulation
from clbench.catalogue import names
from clbench.intransigence import intransigence
from clbench.metric import Summary
from clbench.metrics import page
from clbench.metrics.retention import RETENTION
from clbench.metrics.summary import SUMMARIES

DOCS = Path(__file__).parents[1] / "docs" / "metrics.md"
TEXT = DOCS.read_text(encoding="utf-8")


def test_the_page_is_as_the_code_makes_it():
    assert page.updated(TEXT) == TEXT, "run: python -m clbench.metrics.page docs/metrics.md"


def test_every_part_is_on_the_page_and_has_every_metric():
    assert sorted(re.findall(r"<!-- made: (\w+) -->", TEXT)) == sorted(page.BLOCKS)
    assert page.updated("a <!-- made: Rup -->old<!-- end --> b").startswith("a <!-- made: Rup -->\n\n| Rup |")
    for id in names("metric"):
        group, _, name = id.partition("/")
        short = name.partition("@")[2] or (name if group in ("class", "task") and name != "recency" else id)
        assert f"`{short}`" in TEXT


def test_the_matrices_of_the_page_are_those_of_the_tests():
    assert (page.R, page.RUP) == (FORGETS, IMPROVES)


def measured(arithmetic: str) -> float:
    """What a worked example comes to; it may hold nothing but numbers, min, ln and operators."""
    assert re.fullmatch(r"(?:[\d.\s()+*/,-]|min|ln)+", arithmetic), arithmetic
    return eval(arithmetic, {"__builtins__": {}}, {"min": min, "ln": math.log})


def worked() -> list[tuple[Summary, list]]:
    best = page.matrix_rows([page.BEST[: step + 1] for step in range(4)])
    found = [
        (summary, page.examples()) for summary in SUMMARIES.values() if summary.id.startswith(("class/", "online"))
    ]
    found += [(summary, [page.recurring(1)]) for summary in accumulation(page.recurring(2)).values()]
    found += [(summary, [page.retention_rows()]) for summary in RETENTION if "√" not in summary.example]
    found.append((intransigence(best)["class/intransigence"], [page.matrix_rows(page.R)]))
    return [(summary, runs) for summary, runs in found if summary.example]


@pytest.mark.parametrize(("summary", "runs"), [pytest.param(*each, id=each[0].id) for each in worked()])
def test_worked_examples_come_to_what_is_computed(summary, runs):
    (number,) = [value.number for value in map(summary.compute, runs) if value.number is not None]
    assert measured(summary.example) == pytest.approx(number)


def test_numbers_as_the_page_shows_them():
    assert [page.shown(x) for x in (0.9, -0.27667, 0.6925, 4.0, 1.5, 0.0)] == [
        ".90",
        "−.2767",
        ".6925",
        "4",
        "1.50",
        "0",
    ]
    assert [page.signed(text) for text in ("-0.277", "+0.125", "0.277", "-0.000", "")] == [
        "−.277", "+.125", ".277", ".000", "",
    ]  # fmt: skip
