"""What the detection of forgeries comes to over a run: the formulas of accuracy, over rows of the probe `detection`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from clbench.metric import Summary
from clbench.metrics.matrix import Matrix, measure
from clbench.metrics.summary import final, forgetting, incremental, learning

BENCH = "Yan et al., DeepfakeBench: A Comprehensive Benchmark of Deepfake Detection, NeurIPS 2023 (the measure)"
MEASURES = {
    "auc": "AUC",
    "ap": "average precision",
    "eer": "equal error rate",
    "accuracy_real": "accuracy on real",
    "accuracy_fake": "accuracy on fake",
    "video_auc": "video AUC",
}
"""rows of the probe, and their names in a heading"""


def risen(m: Matrix) -> float:
    """Forgetting of what is better where it is less."""
    return forgetting(replace(m, a=-m.a))


FINAL = final, "final", "mean over j of a(T, j)"
FORGOTTEN = forgetting, "forgetting of", "mean over j with l(j) < T of (max over l(j) <= t < T of a(t, j)) - a(T, j)"
RISEN = risen, "forgetting of", "mean over j with l(j) < T of a(T, j) - (min over l(j) <= t < T of a(t, j))"
EVERY = incremental, "average incremental", "mean over t = 1..T of the mean over j with l(j) <= t of a(t, j)"
LEARNED = learning, "learning", "mean over j of a(l(j), j)"


def _summary(name: str, line: tuple[Callable[[Matrix], float], str, str], better: str) -> Summary:
    formula, words, text = line
    return Summary(
        id=f"detection/{words.removesuffix(' of').replace(' ', '_')}_{name}",
        compute=partial(measure, metric=f"detection/{name}", formula=formula),
        formula=f"{text}; a: {MEASURES[name]}",
        citation=BENCH,
        unit="%",
        better=better,
        title=f"{words} {MEASURES[name]}",
    )


DETECTED: dict[str, Summary] = {
    summary.id: summary
    for summary in (
        *(_summary(name, FINAL, "lower" if name == "eer" else "higher") for name in MEASURES),
        *(_summary(name, RISEN if name == "eer" else FORGOTTEN, "lower") for name in MEASURES),
        _summary("auc", EVERY, "higher"),
        _summary("auc", LEARNED, "higher"),
    )
}
