"""One run: a learner goes through a stream, and probes look before the first experience and after each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from clbench import checkpoint
from clbench.learner import Diverged, Learner, Model
from clbench.looks import Looks
from clbench.metric import Look, Probe, Row
from clbench.recorder import Recorder
from clbench.state import pack, pack_value, unpack, unpack_value
from clbench.strategy import Strategy, resumable
from clbench.stream import Experience, Stream


@dataclass
class Progress:
    """How far a run is; read by whoever shows it, at any time."""

    experiences: int = 0
    experience: int = 0
    """the one being learned, from 1; 0 before the first"""
    accuracy: float | None = None
    """mean over the exams taught so far, at the last look"""
    learner: Learner | None = None
    steps: int = 0
    """optimiser steps in all, if every experience is learned in the ordinary way"""
    resumed: int | None = None
    """the step that the run went on from"""


@dataclass
class Run:
    """What is run, and what looks at it."""

    stream: Stream
    strategy: Strategy
    model: Model
    learner: Learner
    seed: int
    probes: Sequence[Probe]
    recorder: Recorder
    every: float = 15.0
    """seconds between checkpoints, at the least"""
    say: Callable[[str], None] = lambda line: None
    """told what a user should know: one line each"""
    told: Callable[[Progress], None] = lambda progress: None
    """called after each look"""
    progress: Progress = field(default_factory=Progress)

    def __call__(self) -> None:
        """Teach the whole stream, going on where an interrupted run stopped.

        Raises:
            Diverged: a loss, or a weight after an experience, was not finite.
        """
        stream, strategy, learner = self.stream, self.strategy, self.learner
        self.open()
        learner.seed_globals("start")
        strategy.start(learner, stream.syllabus())
        first = self._resume()
        if first is None:
            self.recorder.answers("truth", {exam.name: exam.data.labels.numpy() for exam in self._exams})
            self._measure(first := 0)
        for index in range(first, len(stream)):
            experience = stream[index]
            self._begin(experience)
            strategy.learn(learner, experience)
            learner.end()
            self._measure(index + 1)
            self._save(index + 1, last=index + 1 == len(stream))

    def open(self) -> None:
        """Open the stream, make the model."""
        self.stream.open(self.seed)
        syllabus = self.stream.syllabus()
        self.learner.open(
            self.model, syllabus, self.stream.transform(), self.stream.criterion, self.seed, self.stream.pool()
        )
        self.learner.after_epoch = self._after_epoch
        counts = sorted({n for probe in self.probes for n in probe.when if isinstance(n, int)})
        self.learner.looks = Looks(counts, self._look_inside)
        self.learner.watchers = [probe.watch for probe in self.probes if type(probe).watch is not Probe.watch]
        self._exams, self._syllabus = self.stream.exams(), syllabus
        self._taught: Counter[int] = Counter()
        self._exam_seconds = 0.0
        self._clock = self._saved_at = time.monotonic()
        self._start: tuple[dict[str, Any], dict[str, torch.Tensor]] | None = None
        self._restored: Callable[[], None] | None = None
        self.progress.experiences, self.progress.learner = len(self.stream), self.learner
        self.progress.steps = sum(self.learner.steps(size) for size in syllabus.sizes)

    def _begin(self, experience: Experience) -> None:
        self.progress.experience = experience.index + 1
        self._start = self._pack(f"start{experience.index}")
        self._taught.update(experience.classes)
        self.learner.begin(experience)
        for probe in self.probes:
            probe.begin(experience)
        if self._restored is not None:
            self._restored()
            self._restored = None
        self._clock = time.monotonic()

    def _after_epoch(self, call: int, epoch: int) -> None:
        self._tick()
        index = self.progress.experience - 1
        self._look({"epoch"}, index)
        if self._due() and resumable(self.strategy):
            start, now = self._start, self._pack(f"epoch{index}")
            assert start is not None
            tree = {"experience": index, "call": call, "epoch": epoch, "start": start[0], "now": now[0]}
            self._write(tree, {**start[1], **now[1]})
        self._clock = time.monotonic()

    def _look_inside(self, count: int) -> None:
        self._tick()
        self._look({count}, self.progress.experience - 1)
        self._clock = time.monotonic()

    def _measure(self, step: int) -> None:
        if step:
            self._tick()
        looked = step in (0, len(self.stream)) or self.stream.looks(step)
        self._look({"experience", "every"} if looked else {"every"}, step)
        self.told(self.progress)

    def _tick(self) -> None:
        now = time.monotonic()
        self.learner.seconds += now - self._clock
        self._clock = now

    def _look(self, now: Set[str | int], step: int) -> None:
        learner = self.learner
        seen, taught = frozenset(self._taught), dict(self._taught)
        look = Look(step, learner.step, learner, self.strategy, self._syllabus, self._exams, seen, taught=taught)
        found: list[Row] = []
        for probe in self.probes:
            due = next((entry for entry in probe.when if entry in now), None)
            if due is None:
                continue
            look.when, look.exam_seconds, started = due, self._exam_seconds, time.monotonic()
            rows = list(probe(look))
            self.recorder.write(rows, "rows.csv" if probe.repeats else "timings.csv")
            found += rows
            self._exam_seconds += time.monotonic() - started
        if look.predictions:
            answers = {f"{readout}/{exam}": a for readout, by in look.predictions.items() for exam, a in by.items()}
            self.recorder.answers(f"{step:03d}", answers)
        old = {exam.name for exam in self._exams if exam.since is not None and exam.since < step}
        right = [r.value for r in found if r.metric == "class/accuracy" and r.subject in old and r.value is not None]
        if right:
            self.progress.accuracy = sum(right) / len(right)

    # Going on after an interruption.

    def _due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.every

    def _pack(self, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        if not resumable(self.strategy):
            return {}, {}
        strategy, tensors = pack(self.strategy, f"{name}.strategy")
        taught = sorted(self._taught.items())
        tree: dict[str, Any] = {"strategy": strategy, "taught": taught, "exam_seconds": self._exam_seconds}
        tree["learner"], more = pack_value(self.learner.state_dict(), f"{name}.learner")
        probes = [pack(probe, f"{name}.probes.{number}") for number, probe in enumerate(self.probes)]
        tree["probes"] = [state for state, _ in probes]
        for held in (more, *(held for _, held in probes)):
            tensors |= held
        return tree, tensors

    def _save(self, step: int, last: bool) -> None:
        if resumable(self.strategy) and (last or self._due()):
            tree, tensors = self._pack("start")
            self._write({"experience": step, "start": tree}, tensors)

    def _write(self, tree: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        files = {"files": self.recorder.lengths(), "step": self.learner.step}
        checkpoint.save(self.recorder.folder / "checkpoint", tree, tensors, files)
        self._saved_at = time.monotonic()

    def _resume(self) -> int | None:
        saved = checkpoint.load(self.recorder.folder / "checkpoint", self.say)
        if saved is not None and not self.recorder.cut(saved[2]["files"]):
            self.say("The rows that the checkpoint speaks of are not all there; the run starts over.")
            saved = None
        if saved is None:
            self.recorder.clear_rows()
            return None
        tree, tensors, files = saved
        self.progress.resumed = files["step"]
        self.restore(tree["start"], tensors)
        if "now" in tree:
            again = (tree["call"], tree["epoch"], lambda: self.restore(tree["now"], tensors))
            self._restored = lambda: self.learner.resume(*again)
        return tree["experience"]

    def restore(self, tree: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Put the state back that a checkpoint holds."""
        device = self.learner.where
        lesson = lambda index: self.stream[index].train  # noqa: E731
        for thing, state in zip((self.strategy, *self.probes), (tree["strategy"], *tree["probes"]), strict=True):
            unpack(thing, state, tensors, lesson, device)
        if self.learner.optim is None:
            self.learner.optim = self.learner.new_optimizer(1)
        state = unpack_value(tree["learner"], tensors, self.learner.state_dict(), lesson, device)
        self.learner.load_state_dict(state)
        self._taught, self._exam_seconds = Counter(dict(tree["taught"])), tree["exam_seconds"]


def execute(run: Run, config: str, meta: dict[str, Any], again: bool = False) -> str:
    """Do a run and say how it ended: done, diverged, or skipped, where its folder says that it was done before.

    What fails leaves the status `failed` with the error's line, and raises it.
    """
    recorder = run.recorder
    if again:
        recorder.clear()
    before = recorder.state()
    if before.get("state") in ("done", "diverged"):
        return "skipped" if before["state"] == "done" else "diverged"
    if not before or not (recorder.folder / "checkpoint").exists():
        recorder.describe(config, {**meta, "started": datetime.now(UTC).isoformat(timespec="milliseconds")})
    else:
        recorder.goes_on(meta)
    recorder.status("running")
    try:
        run()
    except Diverged as error:
        recorder.status("diverged", run.progress.experience - 1, error.step, str(error))
        return "diverged"
    except Exception as error:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        with suppress(OSError):
            recorder.status("failed", max(run.progress.experience - 1, 0), 0, line)
        raise
    recorder.status("done", len(run.stream), run.learner.step)
    return "done"


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the last checkpoint of a run: the model's under `start.learner.model.`."""
    saved = checkpoint.load(folder / "checkpoint", lambda line: None)
    if saved is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    return saved[1]


def revived(folder: Path) -> Run:
    """A finished run as it stood at its end, to look at again or to train on: stream, strategy and learner, with their
    state from the last checkpoint. Nothing is written to its folder.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
    """
    from clbench.config import resolve

    plan = resolve({"config": str(folder / "config.yaml")})
    saved = checkpoint.load(folder / "checkpoint", lambda line: None)
    if saved is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    with Recorder(folder) as recorder:
        strategy = plan.budget.around(plan.strategy)
        run = Run(plan.stream, strategy, plan.model, plan.learner, plan.seed, plan.probes, recorder)
        run.open()
        strategy.start(run.learner, run.stream.syllabus())
        run.restore(saved[0]["start"], saved[1])
    return run
