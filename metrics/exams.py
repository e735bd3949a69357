"""The exam probe: every exam is sat, and its answers are marked under each read-out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from clbench.learner import Learner
from clbench.metric import Look, Probe, Row, exact
from clbench.strategy import whole_stream
from clbench.stream import Exam

AT_ONCE = 64
"""batches whose logits are masked and compared together; of sequences, one"""
SHARED = "experiences share classes, so a task identity leaves nothing open"
MOVING = "an exam is answered among other labels before it is taught than at the start, as more of them are taught"


def papers(learner: Learner, exams: Sequence[Exam], size: int) -> Iterator[Tensor]:
    """The samples of all exams in order, as they are stored, in batches of `size` that run across exams."""
    held: list[Tensor] = []
    room = size
    for exam in exams:
        data, start = learner.near(exam.data), 0
        while start < len(data):
            stop = min(start + room, len(data))
            held.append(data.between(start, stop).to(learner.where, non_blocking=True))
            start, room = stop, room - (stop - start)
            if room == 0:
                yield torch.cat(held) if len(held) > 1 else held[0]
                held, room = [], size
    if held:
        yield torch.cat(held)


def short(exam: Exam, samples: int) -> Exam:
    """At most so many samples of an exam, evenly spread over it."""
    size = len(exam.data)
    count = min(size, samples)
    some = torch.arange(count) * size // count
    about = {what: known[some] for what, known in exam.about.items()}
    return replace(exam, data=exam.data.subset(some), about=about)


def labels_open(look: Look, exams: Sequence[Exam]) -> dict[str, Tensor]:
    """The labels among which each exam is answered, exams x classes, by read-out: `class`, those taught so far (of an
    exam wholly untaught, its own), or all where the stream says so; `task`, its own. No `task` where experiences share
    classes.
    """
    own = torch.zeros(len(exams), look.syllabus.classes, dtype=torch.bool)
    for row, exam in zip(own, exams, strict=True):
        row[sorted(exam.classes)] = True
    taught = torch.zeros(look.syllabus.classes, dtype=torch.bool)
    taught[sorted(look.seen) if look.syllabus.answers == "taught" else slice(None)] = True
    known = torch.where((own & taught).any(1, keepdim=True), taught, own)
    return {"class": known} if look.syllabus.shared else {"class": known, "task": own}


def answers(look: Look, exams: Sequence[Exam]) -> dict[str, list[np.ndarray]]:
    """The answers to each exam, by read-out. All exams are predicted in one pass, and fetched at once."""
    learner, readouts = look.learner, labels_open(look, exams)
    closed = [None if labels.all() else (~labels).to(learner.where) for labels in readouts.values()]
    lengths = [len(exam.data) for exam in exams]
    exam_of = torch.repeat_interleave(torch.arange(len(exams)), torch.tensor(lengths)).to(learner.where)
    best: list[list[Tensor]] = [[] for _ in readouts]
    batches, start = papers(learner, exams, learner.eval_batch), 0
    at_once = 1 if look.syllabus.places else AT_ONCE
    with torch.inference_mode():
        while several := [look.strategy.predict(learner, learner.encode(raw)) for raw in islice(batches, at_once)]:
            logits = torch.cat(several)
            which = exam_of[start : start + len(logits)]
            for found, labels in zip(best, closed, strict=True):
                shut = None if labels is None else labels[which].view(*labels[which].shape, *(1,) * (logits.ndim - 2))
                left = logits if shut is None else logits.masked_fill(shut, -torch.inf)
                found.append(left.argmax(1))
            start += len(logits)
    cuts, kind = np.cumsum(lengths)[:-1], np.min_scalar_type(look.syllabus.classes - 1)
    split = [np.split(torch.cat(found).cpu().numpy().astype(kind), cuts) for found in best]
    return dict(zip(readouts, split, strict=True))


@dataclass
class Exams(Probe):
    """Class-incremental answers: the best of the labels taught so far (an exam wholly untaught is answered among its
    own labels), or of all labels where the stream says so (`Syllabus.answers`). Task-incremental answers: the best of
    the exam's own labels (van de Ven and Tolias 2019; a masked read-out of one network, not heads trained apart). All
    exams are predicted in one pass.
    """

    def __call__(self, look: Look) -> Iterable[Row]:
        if look.step == 0:
            yield from self._calendar(look)
        if whole_stream(look.strategy) and 0 < look.step < (look.syllabus.lessons or 0):
            note = f"{type(look.strategy).__name__} learns only at the last experience"
            for readout in ("class",) if look.syllabus.shared else ("class", "task"):
                yield from (
                    Row(look.step, look.at, f"{readout}/accuracy", e.name, None, len(e.data), note) for e in look.exams
                )
        else:
            found = answers(look, look.exams)
            for readout, given in found.items():
                yield from self._mark(look, readout, given)
            if not look.syllabus.shared:
                yield from self._shares(look, found["class"])
        if look.syllabus.shared:
            yield Row(look.step, look.at, "task/accuracy", "", None, 0, SHARED)
        if look.syllabus.shared and look.step == look.syllabus.lessons:
            yield from self._occurrences(look)

    def _calendar(self, look: Look) -> Iterator[Row]:
        later = [exam.classes for exam in look.exams if exam.since]
        masked = look.syllabus.shared and look.syllabus.answers == "taught"
        if masked and any(len(classes) < look.syllabus.classes for classes in later):
            yield Row(0, look.at, "class/fwt", "", None, 0, MOVING)
        for exam in look.exams:
            for name, when in (("since", exam.since), ("until", exam.until)):
                yield Row(0, look.at, f"exam/{name}", exam.name, when, len(exam.data), "never" if when is None else "")
            if exam.coverage is not None:
                yield Row(0, look.at, "exam/coverage", exam.name, exam.coverage, len(exam.data))

    def _occurrences(self, look: Look) -> Iterator[Row]:
        """How many experiences taught the class of each exam that has but one, where classes come again."""
        for exam in look.exams:
            if len(exam.classes) == 1:
                (label,) = exam.classes
                yield Row(look.step, look.at, "stream/occurrences", exam.name, look.taught.get(label, 0))

    def _mark(self, look: Look, readout: str, answers: list[np.ndarray]) -> Iterator[Row]:
        look.predictions[readout] = {exam.name: given for exam, given in zip(look.exams, answers, strict=True)}
        for exam, given in zip(look.exams, answers, strict=True):
            right = float(np.mean(exact(given, exam.data.labels.numpy())))
            yield Row(look.step, look.at, f"{readout}/accuracy", exam.name, right, len(given))

    def _shares(self, look: Look, answers: list[np.ndarray]) -> Iterator[Row]:
        taught = [a for e, a in zip(look.exams, answers, strict=True) if e.since is not None and e.since < look.step]
        if not taught:
            return
        counts = np.bincount(np.concatenate(taught), minlength=look.syllabus.classes)
        for exam in look.exams:
            share = counts[sorted(exam.classes)].sum() / counts.sum()
            yield Row(look.step, look.at, "class/predicted_share", exam.name, float(share), int(counts.sum()))
