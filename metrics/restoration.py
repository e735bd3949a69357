"""The restoration probe: one group of weights is given back what it was, and the exam is sat again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from clbench import modules
from clbench.metric import Look, Probe, Row
from clbench.metrics.exams import labels_open, papers, short
from clbench.strategy import whole_stream
from clbench.stream import Exam
from clbench.types import Count

Weights = Mapping[str, Tensor]


@dataclass
class Restoration(Probe):
    """Drift says what moved; restoration says what mattered. After each experience but the first, the exam of the
    experience before it is sat with weights of two times: those now, and those before this experience.

    `before` and `after`: accuracy with all weights of then, and of now. For each group (`clbench.modules.groups`):
    `gain`: accuracy with the weights of now and the group of then, less `after`. `random`: the same with as many
    scalars of the whole network given back, drawn uniformly: what a group of this size gains for its size alone.
    `loss`: `before` less accuracy with the weights of then and the group of now, the reverse.

    Each is measured with the labels open that are taught by now (`class`), also for the weights of then, and with the
    exam's own labels open (`task`; not where experiences share classes). Only the model's weights go back: what a
    strategy keeps beside them (prototypes, memory) is that of now. A measure of ours. Where the stream is not looked at
    after each experience there are rows of those that it is; the weights of then are always those before the last
    experience (in version 1, those of the last look).
    """

    samples: Count = 1000
    """of each exam that are answered, evenly spread over it"""

    when: ClassVar[tuple[str | int, ...]] = ("experience", "every")
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        self.then: dict[str, Tensor] = {}
        """weights after the last experience"""

    def __call__(self, look: Look) -> Iterable[Row]:
        if whole_stream(look.strategy) or look.step == 0:
            return
        now = {name: t.detach().clone() for name, t in modules.tensors(look.learner.model).items()}
        exams = [
            short(exam, self.samples) for exam in look.exams if exam.since is not None and exam.since == look.step - 2
        ]
        if exams and look.when == "experience":
            yield from self._restore(look, _Desk(look, exams), now)
        self.then = now

    def _restore(self, look: Look, desk: _Desk, now: Weights) -> Iterator[Row]:
        then, groups = self.then, modules.groups(look.learner.model)
        before, after = desk.sit(then), desk.sit({})
        yield from desk.rows("before", "", before)
        yield from desk.rows("after", "", after)
        for group, names in groups.items():
            size, rng = sum(now[name].numel() for name in names), look.learner.rng(f"restoration/{group}")
            restored, mixed = desk.sit({name: then[name] for name in names}), desk.sit(_scattered(now, then, size, rng))
            reverse = desk.sit({name: weight for name, weight in then.items() if name not in names})
            yield from desk.rows("gain", group, restored - after)
            yield from desk.rows("random", group, mixed - after)
            yield from desk.rows("loss", group, before - reverse)


class _Desk:
    """Where exams are sat again and again, with other weights."""

    def __init__(self, look: Look, exams: Sequence[Exam]) -> None:
        learner = look.learner
        self.look = look
        self.papers = list(papers(learner, exams, learner.eval_batch))
        self.truth = torch.cat([exam.data.labels for exam in exams]).to(learner.where)
        sizes = torch.tensor([len(exam.data) for exam in exams])
        self.closed = {
            readout: (~labels).repeat_interleave(sizes, 0).to(learner.where)
            for readout, labels in labels_open(look, exams).items()
        }

    def sit(self, weights: Weights) -> np.ndarray:
        """Accuracy under each read-out when the model has these weights, and its own for the rest."""
        learner, strategy = self.look.learner, self.look.strategy
        with modules.swapped(learner.model, weights), torch.inference_mode():
            logits = torch.cat([strategy.predict(learner, learner.encode(raw)) for raw in self.papers])
        answers = (logits.masked_fill(closed, -torch.inf).argmax(1) for closed in self.closed.values())
        return np.array([float((given == self.truth).double().mean()) for given in answers])

    def rows(self, name: str, group: str, values: np.ndarray) -> Iterator[Row]:
        look = self.look
        for readout, value in zip(self.closed, values, strict=True):
            yield Row(look.step, look.at, f"restoration/{readout}_{name}", group, float(value), len(self.truth))


def _scattered(now: Weights, then: Weights, count: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """The weights of now, with `count` scalars of then at places drawn from all, without replacement."""
    ends = np.cumsum([weight.numel() for weight in now.values()])
    drawn = np.sort(rng.choice(ends[-1], count, replace=False, shuffle=False))
    parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
    found = {}
    for (name, weight), end, part in zip(now.items(), ends, parts, strict=True):
        places = torch.from_numpy(part - (end - weight.numel())).to(weight.device)
        mixed = weight.flatten().clone()
        mixed[places] = then[name].flatten()[places]
        found[name] = mixed.view_as(weight)
    return found
