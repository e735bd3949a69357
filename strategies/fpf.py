"""Forgetting prioritised finetuning: only the modules that forget are fine-tuned, on a small memory, now and then.

Zhao, Zhou, Long, Jiang and Zhang 2023 ("Does continual learning equally forget all parameters?", ICML; arXiv
2304.04158). FPF follows any method, at its end; k-FPF interrupts plain training k times, regardless of task borders,
and replays nothing between.

What differs here, and why. The paper's k, steps and rates were not at hand: defaults are clbench's, and a preset says
where it comes from. Steps are a share of the stream's, or of its compute, so that other sets of modules can be compared
at equal cost. Running statistics are modules like any other: batch normalisation whose statistics are chosen normalises
by the batch and goes on averaging; all other is in evaluation mode while the chosen modules are fine-tuned.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clbench.batch import Batch, after_each
from clbench.config import Preset
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.memory import Memory, Reservoir
from clbench.modules import chosen, drift, groups, sensitivity, snapshot
from clbench.optimizer import cosine
from clbench.strategies.remembering import Remembering
from clbench.strategy import Strategy, memory_of
from clbench.stream import Experience, Syllabus
from clbench.types import Count, NonNegative, Positive


@dataclass
class FineTuning:
    """What FPF and k-FPF share: which modules are fine-tuned on memory, for how long, and how."""

    select: str | list[str] = "preset"
    """which module groups: `preset` (head and normalisation, and the first layer where experiences share classes);
    `score` (by sensitivity, and the head); `all`; a group or a list of groups, as the drift probe names them"""
    threshold: Positive = 1.0
    """score: how many times the mean score a group must exceed"""
    score_tasks: Count = 2
    """score: experiences over which it is formed; until then the preset is fine-tuned"""
    share: NonNegative = 0.1
    """fine-tuning in all, as a share of the training on the stream; 0: none"""
    share_of: Literal["steps", "compute"] = "steps"
    """what the share is of: optimiser steps, or floating-point operations"""
    rate: Positive = 0.1
    """at the first step of a phase; it falls to 0 by half a cosine"""
    batch: Count | None = None
    """samples of memory in a step; null: as many as other replay draws"""

    def prepare(self, learner: Learner, syllabus: Syllabus) -> None:
        """Before the stream: choose modules, count its steps.

        Raises:
            Mistake: the network has no such module group.
        """
        if self.select == "score" and self.score_tasks == 1:
            raise Mistake(
                "strategy.score_tasks=1: sensitivity is formed of how far modules go from one experience to the next, "
                "so of two experiences at the least."
            )
        there = groups(learner.model)
        match self.select:
            case "preset" | "score":
                self.modules = _preset(there, syllabus.shared)
            case "all":
                self.modules = [*there]
            case _:
                self.modules = [self.select] if isinstance(self.select, str) else self.select
        chosen(there, self.modules)
        self.stream_steps = sum(learner.steps(size) for size in syllabus.sizes)
        self.step_cost = learner.plain_cost(learner.batch) / learner.epochs
        self.scores = Scores(self.score_tasks if self.select == "score" else 0)

    def fine_tune(self, learner: Learner, memory: Memory, stream_steps: float) -> None:
        """A phase that stands for so many steps of the stream: CE on memory, moving nothing but the chosen modules."""
        if not (self.share and len(memory)):
            return
        if self.scores.ready:
            self.modules = self.scores.above(self.threshold)
        with learner.only(chosen(groups(learner.model), self.modules)):
            steps = self.length(learner, memory, stream_steps)
            draws = learner.draws(memory, learner.rng("fine-tuning"), steps, self.batch)
            if any(p.requires_grad for p in learner.model.parameters()):
                optimizer = learner.new_optimizer(steps, self.rate, factor=cosine, kind="sgd", momentum=0.0)
                learner.fit(draws, self.phase_loss, optimizer=optimizer)
            else:
                _average(learner, draws)
        self.scores.begin(learner.model)

    def length(self, learner: Learner, memory: Memory, stream_steps: float) -> int:
        """Steps of a phase that stands for so many steps of the stream, with what trains now."""
        steps = self.share * stream_steps
        if self.share_of == "compute":
            sample = next(learner.draws(memory, learner.rng("price"), 1, self.batch))
            steps *= self.step_cost / learner.price(sample, self.phase_loss)
        return max(round(steps), 1)

    def phase_loss(self, learner: Learner, batch: Batch) -> Tensor:
        """What a phase minimises."""
        return learner.criterion(learner(batch.x), batch.y)


@dataclass
class FPF(FineTuning, Remembering):
    """The base learns as it does; then the chosen modules are fine-tuned on its memory."""

    when: Literal["end", "each"] = "end"
    """after the last experience, or after each"""

    budgeted: ClassVar[bool] = False

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        if syllabus.lessons is None:
            raise Mistake("fpf fine-tunes a share of the stream's steps; a stream without an end has no such number.")
        self.lessons = syllabus.lessons
        self.prepare(learner, syllabus)

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.scores.start(learner.model)
        super().learn(learner, experience)
        memory = memory_of(self)
        assert memory is not None
        if self.when == "each":
            self.fine_tune(learner, memory, self.stream_steps / self.lessons)
        elif experience.index + 1 == self.lessons:
            self.fine_tune(learner, memory, self.stream_steps)
        else:
            return
        self.base.settle(learner)

    def around_batches(self, learner: Learner, batches: Generator[Batch, Any, None]) -> Generator[Batch, Any, None]:
        batches = super().around_batches(learner, batches)
        return after_each(batches, lambda batch, kept: self.scores.step(learner))


@dataclass
class KFPF(FineTuning, Strategy):
    """Plain training on the stream; k times, evenly over its steps, the chosen modules are fine-tuned on memory."""

    memory_size: Count = 500
    """samples kept"""
    k: Count | None = None
    """phases in the whole stream; null: one an experience, at its end where they are of one size"""
    every: Count | None = None
    """steps from one phase to the next, instead of k: for streams of unknown length"""
    distill: NonNegative = 0.0
    """weight of the squared distance to the logits that memory keeps, beside the cross-entropy (k-FPF-KD)"""

    budgeted: ClassVar[bool] = False

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.memory = Reservoir(self.memory_size)
        self.prepare(learner, syllabus)
        self.steps = 0
        if self.every is not None:
            if self.k is not None:
                raise Mistake(
                    f"strategy.k={self.k} strategy.every={self.every}: one says what the other does; set one."
                )
            self.triggers, self.interval = None, float(self.every)
            return
        if syllabus.lessons is None:
            raise Mistake("kfpf can't spread k phases over a stream without an end; set strategy.every, in steps.")
        k, steps = self.k or syllabus.lessons, self.stream_steps
        if k > steps:
            raise Mistake(f"strategy.k={k}: there is one phase after a step at most, and the stream has {steps} steps.")
        self.triggers = frozenset((2 * i * steps + k) // (2 * k) for i in range(1, k + 1))
        self.interval = steps / k

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.scores.start(learner.model)
        super().learn(learner, experience)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        rng = learner.rng("memory")
        for batch in learner.batches(experience.train):
            logits = yield batch
            self.memory.add(batch.raw, batch.y, rng, **({"logits": logits} if self.distill else {}))
            self.scores.step(learner)
            self.steps += 1
            if self.due():
                self.fine_tune(learner, self.memory, self.interval)

    def due(self) -> bool:
        """Whether a phase follows the step just done: round(i N / k) for an i, or a multiple of `every`."""
        return self.steps in self.triggers if self.triggers is not None else self.steps % int(self.interval) == 0

    def loss(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = learner(batch.x)
        return learner.criterion(logits, batch.y), logits

    def phase_loss(self, learner: Learner, batch: Batch) -> Tensor:
        logits = learner(batch.x)
        loss = learner.criterion(logits, batch.y)
        return loss + self.distill * F.mse_loss(logits, batch.kept["logits"]) if self.distill else loss


def _preset(there: Mapping[str, object], shared: bool) -> list[str]:
    """Head, normalisation and, where the domain changes, the first layer: what the paper is said to find sensitive.

    Not checked in its text.
    """
    kinds = {name.partition(".")[0] for name in there}
    first = [next(iter(there)).partition(".")[0]] if shared else []
    return [name for name in dict.fromkeys([*first, "bn", "norm", "head"]) if name in kinds]


def _average(learner: Learner, batches: Iterable[Batch]) -> None:
    """The running statistics that may change become the mean over these batches; nothing else moves."""
    before = learner.model.training
    learner.train(True)
    norms = [m for m in learner.model.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = [m.momentum for m in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None
    with torch.no_grad():
        for batch in batches:
            with learner.spending("statistics", batch.x.shape):
                learner(batch.x)
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    learner.train(before)


@dataclass
class Scores:
    """Sensitivity scores of module groups, from the drift of plain training: within experiences, at tenths of their
    steps, and from the end of one to the end of the next. Our reading of the paper (`modules.sensitivity`).
    """

    tasks: int
    """experiences that are looked at"""

    LOOKS = 10

    def __post_init__(self) -> None:
        self.left = self.tasks
        self.done = 0
        self.last: dict[str, Tensor] = {}
        self.end: dict[str, Tensor] = {}
        self.within: list[dict[str, float]] = []
        self.across: list[dict[str, float]] = []

    @property
    def ready(self) -> bool:
        return bool(self.tasks) and not self.left and bool(self.across)

    def start(self, model: nn.Module) -> None:
        """An experience begins."""
        self.done = 0
        self.begin(model)

    def begin(self, model: nn.Module) -> None:
        """Plain training goes on from here."""
        if self.left:
            self.last = snapshot(model)

    def step(self, learner: Learner) -> None:
        """A step is done; one of plain training where the experience's own optimiser took it."""
        assert learner.optim is not None
        model, steps, before = learner.model, learner.optim.steps, self.done
        self.done = learner.optim.done - learner.optim.first
        if not self.left or self.done * self.LOOKS // steps == before * self.LOOKS // steps:
            return
        now, there = snapshot(model), groups(model)
        self.within.append({name: moved.l1 for name, moved in drift(self.last, now, there).items()})
        self.last = now
        if self.done == steps:
            if self.end:
                self.across.append({name: moved.l1 for name, moved in drift(self.end, now, there).items()})
            self.left -= 1
            self.last, self.end = {}, now if self.left else {}

    def above(self, threshold: float) -> list[str]:
        """The groups whose score is more than so many times the mean score, and the head."""
        found = sensitivity(self.across, self.within)
        bar = threshold * sum(found.values()) / len(found)
        return [name for name, score in found.items() if score > bar or name == "head"]


PRESETS = [
    Preset(
        "kfpf",
        "digits",
        {
            "strategy.memory_size": 100,
            "strategy.select": ["fc1", "head"],
            "strategy.share_of": "compute",
            "strategy.share": 0.3,
            "strategy.rate": 0.1,
        },
        "tuned here on validation (protocol whole, seeds 0 to 2): modules, share and rate",
        model="mlp",
    ),
    Preset(
        "kfpf",
        "cifar100",
        {
            "strategy.select": "head",
            "strategy.share_of": "compute",
            "strategy.share": 0.13,
            "strategy.rate": 0.1,
        },
        "tuned here on validation (protocol whole, memory_size 2000, seed 0): modules, rate, k; share not",
        model="convbn",
    ),
]
