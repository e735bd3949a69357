"""What the rows of code streams come to: coverage, and the rank of the right call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from clbench.metric import Row, Summary, Value
from clbench.metrics.matrix import Matrix, measure
from clbench.metrics.summary import final


def fallen(m: Matrix) -> float:
    return (m.cells(m.learned[m.old()], m.old()) - m.cells(m.last, m.old())).mean()


def coverage(rows: Sequence[Row]) -> Value:
    """The mean over exams of the rows exam/coverage."""
    values = [row.value for row in rows if row.metric == "exam/coverage" and row.value is not None]
    if not values:
        return Value(None, "the exams ask all that there was to ask")
    return Value(sum(values) / len(values))


_USAGE = (
    "Weyssow et al., On the Usage of Continual Learning for Out-of-Distribution Generalization in Pre-trained Language "
    "Models of Code, FSE 2023"
)
_LIST = "ours; Hit@k and reciprocal rank as in recommender systems"

_ALL = (
    Summary(
        "exam/coverage",
        coverage,
        "the mean over exams of the rows exam/coverage: of what was to be asked, the share that labels taught by then "
        "can answer; no exam asks the rest",
        "ours",
        unit="%",
        title="coverage",
    ),
    *(
        Summary(
            id,
            partial(measure, metric=id, formula=final),
            f"the mean over exams at the end of the rows {id}: {text}",
            source,
            unit="%",
            title=title,
        )
        for id, title, text, source in (
            ("rank/hit1", "Hit@1", "the share of answers whose label is the likeliest of the exam's own", _LIST),
            ("rank/hit5", "Hit@5", "the share of answers whose label is among the 5 likeliest", _LIST),
            ("rank/hit10", "Hit@10", "the share of answers whose label is among the 10 likeliest", _LIST),
            ("rank/mrr", "mean reciprocal rank", "the mean of 1 / rank of the label among the exam's own", _LIST),
            ("usage/exact", "whole calls", "the share of calls written as they are", _USAGE),
            ("usage/bleu", "BLEU of calls", "smoothed sentence BLEU-4 over lexical tokens", _USAGE),
            ("usage/keyword_f1", "keyword F1", "F1 of the names of keywords, over calls that have some", "ours"),
        )
    ),
    Summary(
        "rank/mrr_lost",
        partial(measure, metric="rank/mrr", formula=fallen),
        "the mean over exams taught before the last experience of MRR right after it less MRR at the end",
        _LIST,
        unit="%",
        better="lower",
        title="MRR lost",
    ),
)
CALLS: dict[str, Summary] = {summary.id: summary for summary in _ALL}
