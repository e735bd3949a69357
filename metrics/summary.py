"""What a whole run comes to: accuracy, forgetting, transfer and cost, each a pure function of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from clbench.metric import Row, Summary, Value, undefined
from clbench.metrics.matrix import Matrix, latest, measure
from clbench.metrics.requests import REQUESTS
from clbench.metrics.retention import RETENTION
from clbench.metrics.trace import Trace, anytime, follow, minimum, worst_case

READOUTS = {"class": "class-incremental", "task": "task-incremental"}
"""`class`: untaught labels masked; `task`: only the exam's labels open"""

GEM = "Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017"
ICARL = "Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, CVPR 2017"
RWALK = "Chaudhry et al., Riemannian Walk for Incremental Learning, ECCV 2018"
MER = (
    "Riemer et al., Learning to Learn without Forgetting by Maximizing Transfer and Minimizing Interference, ICLR 2019"
)
SURVEY = "Masana et al., Class-Incremental Learning: Survey and Performance Evaluation, TPAMI 2023 (the bias); ours"
GAP = "De Lange et al., Continual Evaluation for Lifelong Learning: Identifying the Stability Gap, ICLR 2023"
ACE = "Caccia et al., New Insights on Reducing Abrupt Representation Change in Online Continual Learning, ICLR 2022"
CLOC = "Cai et al., Online Continual Learning with Natural Distribution Shifts, ICCV 2021"
ECE = "Guo et al., On Calibration of Modern Neural Networks, ICML 2017"
DORMANT = "Sokar et al., The Dormant Neuron Phenomenon in Deep Reinforcement Learning, ICML 2023"
RANK = "Roy and Vetterli, The Effective Rank: A Measure of Effective Dimensionality, EUSIPCO 2007"
UNTAUGHT = (
    "an exam that is not taught yet can't be answered while untaught classes are masked; its cell was scored with its "
    "task mask: see task/fwt"
)


def final(m: Matrix, by: str = "tasks") -> float:
    return m.mean(m.last, by) if len(m.counting(m.last)) else undefined("no exam counts at the end")


def incremental(m: Matrix, by: str = "tasks") -> float:
    means = [m.mean(step, by) for step in range(1, m.last + 1) if m.looked[step] and len(m.counting(step))]
    return sum(means) / len(means)


def learning(m: Matrix) -> float:
    return m.cells(m.learned, range(len(m.exams))).mean()


def forgetting(m: Matrix) -> float:
    best = [m.cells(m.before_last(exam), exam).max() for exam in m.old()]
    return (best - m.cells(m.last, m.old())).mean()


def backward(m: Matrix) -> float:
    return (m.cells(m.last, m.old()) - m.cells(m.learned[m.old()], m.old())).mean()


def forward(m: Matrix) -> float:
    if m.disjoint and m.metric == "class/accuracy":
        undefined(UNTAUGHT)
    if m.moving and m.metric == "class/accuracy":
        undefined(m.moving)
    later = (m.learned > 1).nonzero()[0]
    if not len(later):
        undefined("every exam is taught by the first experience")
    return (m.cells(m.learned[later] - 1, later) - m.cells(0, later)).mean()


def recency(m: Matrix) -> float:
    newest = (m.learned == m.last).nonzero()[0]
    return m.cells(m.last, newest).sum() if len(newest) else undefined("the last experience teaches no exam first")


def worst(m: Matrix) -> float:
    exams = m.counting(m.last)
    return m.cells(m.last, exams).min() if len(exams) else undefined("no exam counts at the end")


def online(rows: Sequence[Row]) -> Value:
    """The mean over samples of the rows online/accuracy, one for each experience."""
    there = [row for row in rows if row.metric == "online/accuracy"]
    values = [(row.value, row.n) for row in there if row.value is not None]
    if not there:
        return Value(None, "no online/accuracy was measured: probes=[…,online] measures it")
    if len(values) < len(there):
        return Value(None, next(row.note for row in there if row.value is None))
    return Value(sum(value * n for value, n in values) / sum(n for _, n in values))


Seen = TypeVar("Seen", Matrix, Trace)
"""what a measure is computed of"""


@dataclass(frozen=True)
class _Line(Generic[Seen]):
    """A measure of exams, before it is one of a read-out."""

    name: str
    title: str
    formula: Callable[[Seen], float]
    text: str
    citation: str
    better: str = "higher"
    example: str = ""
    remark: str = ""


MATRIX: list[_Line[Matrix]] = [
    _Line(
        "final_accuracy",
        "final accuracy",
        final,
        "mean over j of a(T, j)",
        GEM,
        example="(.62 + .55 + .70 + .90) / 4",
        remark="ACC in that paper. Each exam weighs the same.",
    ),
    _Line(
        "final_accuracy_samples",
        "final accuracy over samples",
        partial(final, by="samples"),
        "mean over j of a(T, j), weighted by the samples of j",
        ICARL,
        example="(62 + 55 + 70 + 90) / 400",
        remark="With 200 samples in the last exam it would be (62 + 55 + 70 + 180) / 500 = .734. It is the accuracy on "
        "all test samples taught so far. Which of the two a paper means matters on streams with uneven exams.",
    ),
    _Line(
        "average_incremental_accuracy",
        "average incremental accuracy",
        incremental,
        "mean over t = 1..T of the mean over j with l(j) <= t of a(t, j)",
        f"{ICARL}; {RWALK} (means over tasks)",
        example="(.90 + (.60 + .88) / 2 + (.70 + .40 + .92) / 3 + (.62 + .55 + .70 + .90) / 4) / 4",
        remark="Steps at which no exam counts, and steps that were not looked at, are left out.",
    ),
    _Line(
        "average_incremental_accuracy_samples",
        "average incremental accuracy over samples",
        partial(incremental, by="samples"),
        "mean over t = 1..T of the mean over j with l(j) <= t of a(t, j), weighted by the samples of j",
        ICARL,
        example="(90 / 100 + (60 + 88) / 200 + (70 + 40 + 92) / 300 + (62 + 55 + 70 + 90) / 400) / 4",
        remark="Likewise.",
    ),
    _Line(
        "worst_exam",
        "worst exam",
        worst,
        "min over j of a(T, j)",
        "ours",
        example="min(.62, .55, .70, .90)",
        remark="What a mean over exams hides: a method may be good on all but one.",
    ),
    _Line(
        "learning_accuracy",
        "learning accuracy",
        learning,
        "mean over j of a(l(j), j)",
        MER,
        example="(.90 + .88 + .92 + .90) / 4",
        remark="How well each exam is learned when it is taught, that is, plasticity.",
    ),
    _Line(
        "forgetting",
        "forgetting",
        forgetting,
        "mean over j with l(j) < T of (max over l(j) <= t < T of a(t, j)) - a(T, j)",
        RWALK,
        "lower",
        "((.90 - .62) + (.88 - .55) + (.92 - .70)) / 3",
        "Less is better. The best is taken over the steps before the last, so that forgetting is negative where the "
        "last experience improves old exams; steps that were not looked at are left out. It is over the exams that "
        "count at the end and were taught before the last experience.",
    ),
    _Line(
        "bwt",
        "backward transfer",
        backward,
        "mean over j with l(j) < T of a(T, j) - a(l(j), j)",
        GEM,
        example="((.62 - .90) + (.55 - .88) + (.70 - .92)) / 3",
        remark="The last row against the diagonal. Forgetting is never less than −BWT, and they are equal where no "
        "exam is better between than right after it was taught, as here. With two experiences they are one number: do "
        "not report them as two findings.",
    ),
    _Line(
        "fwt",
        "forward transfer",
        forward,
        "mean over j with l(j) > 1 of a(l(j) - 1, j) - a(0, j)",
        GEM,
        remark="Undefined for R, whose upper triangle is empty. If exams 2, 3 and 4 had .30, .35 and .40 one step "
        "before they are taught and .25 untrained, it would be (.05 + .10 + .15) / 3 = .10. It is against the same "
        "network before any training; measured against the current model instead it would always be near 0. "
        "`class/fwt` is undefined where experiences do not share classes: labels that are not taught yet are masked, "
        "so such an exam cannot be answered, and its cells were scored under its task mask. `task/fwt` is the one to "
        "read there. On domain-incremental streams it is the other way round. It is undefined, too, where experiences "
        "share only some classes and what is not taught is masked: an exam has more rivals then than at first.",
    ),
]
TRACE: list[_Line[Trace]] = [
    _Line(
        "anytime_accuracy",
        "anytime accuracy",
        anytime,
        "mean over p of the mean over the exams j taught or being taught at p of a(p, j)",
        ACE,
        example="(.90 + (.40 + .86) / 2 + (.60 + .88) / 2 + (.50 + .30 + .90) / 3 + (.70 + .40 + .92) / 3) / 5",
        remark="AAA in that paper. The example is P, below.",
    ),
    _Line(
        "min_accuracy",
        "minimum accuracy",
        minimum,
        "mean over j with l(j) < T of min over p after l(j) of a(p, j)",
        GAP,
        example="(min(.40, .60, .50, .70) + min(.30, .40)) / 2",
        remark="min-ACC in that paper: how deep old exams fall while others are taught, even where they recover.",
    ),
    _Line(
        "worst_case_accuracy",
        "worst-case accuracy",
        worst_case,
        "mean over j of a(P, j) where l(j) = T, else min over p after l(j) of a(p, j); P: the last p",
        GAP,
        example="(min(.40, .60, .50, .70) + min(.30, .40) + .92) / 3",
        remark="WC-ACC in that paper: 1/k of what is learned, 1 − 1/k of minimum accuracy, for k exams.",
    ),
]


def _exams(readout: str, words: str) -> Iterator[Summary]:
    """The summaries of one read-out."""
    for line in MATRIX:
        yield _exam(line, readout, words, partial(measure, metric=f"{readout}/accuracy", formula=line.formula))
    for within in TRACE:
        yield _exam(within, readout, words, partial(follow, metric=f"anytime/{readout}", formula=within.formula))


def _exam(line: _Line[Any], readout: str, words: str, compute: Callable[[Sequence[Row]], Value]) -> Summary:
    return Summary(
        id=f"{readout}/{line.name}",
        compute=compute,
        formula=f"{line.text}; a: {words} accuracy",
        citation=line.citation,
        unit="%",
        better=line.better,
        title=f"{line.title} ({readout})",
        example=line.example,
        remark=line.remark,
    )


def _last(
    id: str, title: str, text: str, citation: str, unit: str = "", better: str = "lower", remark: str = ""
) -> Summary:
    """The last value of the rows of the same name."""
    return Summary(
        id=id,
        compute=partial(latest, metric=id),
        formula=f"the last value of the rows {id}: {text}",
        citation=citation,
        unit=unit,
        better=better,
        title=title,
        remark=remark,
    )


SUMMARIES: dict[str, Summary] = {
    summary.id: summary
    for summary in (
        *_exams("class", READOUTS["class"]),
        Summary(
            id="class/recency",
            compute=partial(measure, metric="class/predicted_share", formula=recency),
            formula="the share of all class-incremental answers at T, on the exams taught so far, that are labels of "
            "the exams with l(j) = T; without bias it is the share that those exams have of the samples",
            citation=SURVEY,
            unit="%",
            better="",
            title="recency (class)",
            remark="If 90 % of all answers are labels of exam 4, which has a quarter of the samples, recency is .90 "
            "against .25. Neither more nor less is better by itself. Undefined where exams share classes.",
        ),
        *_exams("task", READOUTS["task"]),
        Summary(
            id="online/accuracy",
            compute=online,
            formula="the mean over experiences of the rows online/accuracy, weighted by their samples",
            citation=CLOC,
            unit="%",
            title="online accuracy",
            example="(100 * .50 + 300 * .70) / 400",
            remark="The example is of two experiences. The network is asked before its first step on the samples, and "
            "sees them as training does, augmented and in training mode; the best of the labels shown so far.",
        ),
        Summary(
            id="retrieval/accuracy",
            compute=partial(measure, metric="retrieval/accuracy", formula=final),
            formula="the mean over exams at the end of the rows retrieval/accuracy: the share of samples whose task "
            "the strategy finds again",
            citation="ours",
            unit="%",
            title="tasks found again",
            remark="A guess finds 1 / T of them. Undefined for a strategy that decides no such thing.",
        ),
        *REQUESTS,
        *RETENTION,
        _last(
            "calibration/ece",
            "expected calibration error",
            "sum over 15 equal bins of confidence of |accuracy - mean confidence|, weighted by the answers in the bin",
            ECE,
            "%",
        ),
        _last(
            "plasticity/dormant",
            "dormant units",
            "share of units whose mean activation is at most .025 of their layer's mean",
            DORMANT,
            "%",
        ),
        _last(
            "plasticity/effective_rank",
            "effective rank of the features",
            "exp of the entropy of their singular values, as shares of the sum",
            RANK,
            better="higher",
        ),
        _last(
            "cost/train_flops",
            "training compute",
            "matrix products and convolutions of all training, replay and extra phases included; exams are not",
            "ours",
            "FLOP",
        ),
        _last("cost/inference_flops", "inference compute per sample", "one prediction", "ours", "FLOP"),
        _last(
            "cost/parameters_trainable", "trainable parameters", "parameters that the last experience trains", "ours"
        ),
        _last(
            "cost/parameters_stored",
            "stored parameters",
            "parameters of the model and of what the strategy keeps beside it",
            "ours",
        ),
        _last(
            "cost/bytes_kept",
            "bytes kept",
            "what the strategy keeps from one experience to the next: samples, and state",
            "ours",
            "B",
        ),
        _last("cost/train_seconds", "training time", "wall time of learning", "ours", "s"),
        _last("cost/exam_seconds", "exam time", "wall time of all exams", "ours", "s"),
        _last(
            "cost/peak_memory",
            "peak memory",
            "the most memory in use so far: of the GPU where the run is on one, else of the process",
            "ours",
            "B",
        ),
    )
}
