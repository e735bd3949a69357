"""The contract of strategies: what is learned depends on options, lessons and seed alone, interrupted or not."""

from __future__ import annotations

import copy
import csv
import gc
import io
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from clbench.data import Data, Source
from clbench.learner import Learner, Model
from clbench.metric import Look, Probe, Row
from clbench.strategy import Strategy, lacking, needs
from clbench.stream import Exam, Experience, Stream, Syllabus
from clbench.testing.bench import (
    Bench,
    Outcome,
    Perceptron,
    bits,
    briefly,
    data_of,
    differing,
    generators,
    holder,
    interrupted,
    is_inert,
    maker,
    undisturbed,
)
from clbench.transform import Transform

T = TypeVar("T")


def check_strategy(
    make: str | Strategy | Callable[[], Strategy],
    *,
    stream: str | Stream | Callable[[], Stream] = "toy",
    model: str | Model | None = None,
    learner: Learner | None = None,
) -> None:
    """Hold a strategy to the contract, by some twelve runs on a small stream.

    An instance is inert, and copies equal it; it learns; nothing but its state changes, and all of that can be saved;
    `predict` changes nothing, whatever the batches; one seed gives one result, also on an instance used before, next to
    another run, and after an interruption at every save; and no exam and no later lesson has any influence on what is
    learned.

    Args:
        stream: what is learned; small, since it is learned about twelve times.
        model: an entry of the models' catalogue, or whatever has `build`; None: a perceptron with batch normalisation
            and dropout, its parts named `body` and `head`.
        learner: the settings; None: 2 epochs in batches of 16, on the CPU.

    Raises:
        AssertionError: what is broken, and the likely cause.
    """
    bench = _bench(make, stream, model, learner)
    with undisturbed():
        _fits(bench)
        is_inert(bench.strategy(), "start")
        alone = bench.run(probes=[_Watch(bench.name)])
        _learns(bench, alone)
        _repeats(bench, alone)
        _keeps_to_itself(bench, alone)
        _goes_on(bench, alone)
        _sees_no_more_than_its_lessons(bench)


def check_resume(
    make: str | Strategy | Callable[[], Strategy],
    *,
    stream: str | Stream | Callable[[], Stream] = "toy",
    model: str | Model | None = None,
    learner: Learner | None = None,
) -> None:
    """Hold a strategy to one part of the contract: interrupted at every save, it ends as it does otherwise.

    Three runs, for options of a strategy that keeps the whole contract under others. Arguments and errors are those of
    `check_strategy`.
    """
    bench = _bench(make, stream, model, learner)
    with undisturbed():
        _fits(bench)
        _goes_on(bench, bench.run(probes=[_Watch(bench.name)]))


def _bench(
    make: str | Strategy | Callable[[], Strategy],
    stream: str | Stream | Callable[[], Stream],
    model: str | Model | None,
    learner: Learner | None,
) -> Bench:
    return Bench(
        maker("strategy", make),
        maker("stream", stream),
        maker("model", Perceptron() if model is None else model)(),
        learner or Learner(epochs=2, batch=16, threads=1, device="cpu"),
    )


def _fits(bench: Bench) -> None:
    strategy, stream = bench.strategy(), bench.stream()
    hold = holder(bench.name)
    hold(isinstance(strategy, Strategy), "is no clbench.Strategy; derive it from that.")
    missing = " and ".join(lacking(needs(strategy), stream, bench.model))
    neither = f"neither {type(stream).__name__} nor {type(bench.model).__name__} offers"
    hold(not missing, f"needs {missing}, which {neither}: give check_strategy a stream or a model that does.")


def _learns(bench: Bench, alone: Outcome) -> None:
    hold, stream = holder(bench.name), bench.stream()
    stream.open(0)
    last, classes = len(stream), stream.syllabus().classes
    whole = bench.strategy().whole_stream
    taught = [exam for exam in stream.exams() if exam.since is not None]
    just = {exam.name for exam in taught if whole or exam.since == last - 1}
    here = stream[last - 1].classes  # where the last lesson teaches nothing first, what it teaches again is asked for
    just = just or {exam.name for exam in taught if exam.until is None and exam.classes & here}
    cells = [
        row
        for row in csv.DictReader(io.StringIO(alone.rows))
        if row["metric"] == "class/accuracy" and row["step"] == str(last) and row["subject"] in just
    ]
    hold(bool(cells), f"can't be seen to learn: {type(stream).__name__} has no exam on its last lesson.")
    n = sum(int(row["n"]) for row in cells)
    accuracy = sum(float(row["value"] or 0) * int(row["n"]) for row in cells) / n
    chance = 1 / classes + 3 * math.sqrt(1 / classes * (1 - 1 / classes) / n)
    hold(
        accuracy > chance,
        f"does not learn: {100 * accuracy:.0f} % on the lesson it just learned, {n} samples of {classes} classes; "
        f"chance ends at {100 * chance:.0f} %. Likely the loss does not reach the weights, or lr does not suit.",
    )


def _repeats(bench: Bench, alone: Outcome) -> None:
    hold, strategy = holder(bench.name), bench.strategy()
    found = alone.difference(bench.run(strategy))
    cause = (
        "Likely it draws from the clock, the system or a set's order (draw from `learner.rng(purpose)`), or keeps "
        "state on its class or module."
    )
    hold(not found, f"gives two results in two runs with one seed: {found}. {cause}")
    found = alone.difference(bench.run(strategy))
    hold(not found, f"remembers an earlier run: {found}. `start` must create all state anew, whatever there is.")


def _keeps_to_itself(bench: Bench, alone: Outcome) -> None:
    def run(seed: int, hand_over: Callable[[], None]) -> Outcome:
        return bench.run(probes=[_Baton(hand_over)], told=lambda progress: hand_over(), seed=seed)

    hold = holder(bench.name)
    cause = "Likely state on the class or the module, or draws from the global generators between two passes."
    together = _in_turns([partial(run, seed) for seed in (0, 1)])
    for one, beside in zip((alone, bench.run(seed=1)), together, strict=True):
        found = one.difference(beside)
        hold(not found, f"gives other results in two runs taking turns than in each alone: {found}. {cause}")


def _goes_on(bench: Bench, alone: Outcome) -> None:
    if not bench.strategy().resumable:
        return
    hold, saved = holder(bench.name), bench.run(every=0.0)
    found = alone.difference(saved)
    hold(not found, f"learns something else when checkpoints are written: {found}.")
    try:
        found = alone.difference(interrupted(bench.run, saved.saves))
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(
            f"{bench.name} can't go on after an interruption: {type(error).__name__}: {error}. Likely state of `learn` "
            "that `start` does not make: make it in `start`, or let go of it when the loop is done."
        ) from error
    cause = (
        "Likely `learn` keeps something in a local variable from one pass to the next (a generator, an optimiser, a "
        "list): keep it on `self`."
    )
    hold(not found, f"ends otherwise when it is interrupted at every save: {found}. {cause}")


def _sees_no_more_than_its_lessons(bench: Bench) -> None:
    def observed(**change: Any) -> tuple[Outcome, list[dict[str, bytes]]]:
        gc.collect()
        states = _States()
        outcome = bench.run(stream=_altered(bench.stream(), **change), probes=[states], others=("exams",))
        return outcome, states.states

    hold = holder(bench.name)
    cause = (
        "Likely it reaches the stream, or reads `experience.train.source` beyond `experience.train.index`: it may use "
        "the syllabus and the experiences that it is given, no more."
    )
    gc.collect()
    gc.freeze()  # what is there is not looked at again: only streams of these runs are collected, and soon
    try:
        outcome, states = observed()
        for known in range(len(states) - 1):
            other = observed(known=known)[1]
            for step in range(known + 2):
                found = briefly(differing(states[step], other[step]))
                when = f"after lesson {step - 1}" if step else "after `start`"
                what = "the exams" if known == len(states) - 2 else "the exams or of later lessons"
                hold(not found, f"depends on the content of {what}: {found} {when}. {cause}")
        others = observed(labels_only=True)[0]
    finally:
        gc.unfreeze()
    found = briefly([name for name in differing(outcome.predictions, others.predictions) if name != "truth.npz"])
    hold(not found, f"answers by the labels of the exams: with others, {found} differs. {cause}")


def _altered(stream: Stream, known: int | None = None, labels_only: bool = False) -> InMemory:
    """The same stream held in memory, all samples in one source.

    Args:
        known: lessons after this one, and all exams, have other samples and labels.
        labels_only: exams have other labels.
    """
    stream.open(0)
    lessons, exams = list(stream), list(stream.exams())
    xs, ys, places, start = [], [], [], 0
    for number, part in enumerate((*lessons, *exams)):
        data = data_of(part)
        x, y = data.gather(torch.arange(len(data)))
        later = known is not None and number > known
        xs.append(_other(x) if later else x)
        ys.append(_turned(y) if later or (labels_only and isinstance(part, Exam)) else y)
        places.append(torch.arange(start, start := start + len(data)))
    source = Source(torch.cat(xs), torch.cat(ys))
    taught = [replace(e, train=Data(source, at, lesson=e.index)) for e, at in zip(lessons, places, strict=False)]
    asked = [replace(e, data=Data(source, at)) for e, at in zip(exams, places[len(lessons) :], strict=True)]
    return InMemory(taught, asked, stream.syllabus(), stream.transform(), type(stream))


def _other(x: Tensor) -> Tensor:
    match x.dtype:
        case torch.uint8:
            return 255 - x
        case kind if kind.is_floating_point:
            return -x
    return x.flip(0)


def _turned(y: Tensor) -> Tensor:
    """Each label becomes the next of those that occur."""
    labels, place = y.unique(return_inverse=True)
    return labels[(place + 1) % len(labels)]


def _in_turns(jobs: Sequence[Callable[[Callable[[], None]], T]]) -> list[T]:
    """Do jobs in threads of which one at a time goes on; a job hands over to the next by calling what it is given."""
    turns = [threading.Semaphore(0) for _ in jobs]
    going = list(range(len(jobs)))
    found: dict[int, T] = {}
    errors: list[BaseException] = []

    def after(me: int) -> int:
        return going[(going.index(me) + 1) % len(going)]

    def hand_over(me: int) -> None:
        turns[after(me)].release()
        turns[me].acquire()

    def work(me: int) -> None:
        turns[me].acquire()
        try:
            found[me] = jobs[me](lambda: hand_over(me))
        except BaseException as error:
            errors.append(error)
        finally:
            following = after(me)
            going.remove(me)
            if going:
                turns[following].release()

    workers = [threading.Thread(target=work, args=(me,)) for me in range(len(jobs))]
    for worker in workers:
        worker.start()
    turns[0].release()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return [found[me] for me in range(len(jobs))]


def _options(thing: Any, path: str = "") -> dict[str, Any]:
    """The fields of a strategy, and of those within it, by path."""
    found: dict[str, Any] = {}
    for f in fields(thing):
        value = getattr(thing, f.name)
        found |= _options(value, f"{path}{f.name}.") if isinstance(value, Strategy) else {path + f.name: value}
    return found


@dataclass
class InMemory(Stream):
    """A stream that holds what it teaches, and knows of nothing else."""

    lessons: list[Experience]
    papers: list[Exam]
    plan: Syllabus
    to_input: Transform
    kind: type[Stream]

    def open(self, seed: int) -> None:
        self.criterion = self.kind.criterion  # type: ignore[method-assign]

    def __len__(self) -> int:
        return len(self.lessons)

    def __getitem__(self, index: int) -> Experience:
        return self.lessons[index]

    def exams(self) -> Sequence[Exam]:
        return self.papers

    def syllabus(self) -> Syllabus:
        return self.plan

    def transform(self) -> Transform:
        return self.to_input


@dataclass
class _States(Probe):
    """Notes all that was learned, before any other probe looks."""

    states: list[dict[str, bytes]] = field(default_factory=list)

    def __call__(self, look: Look) -> list[Row]:
        self.states.append(bits(look.learner, look.strategy))
        return []


@dataclass
class _Watch(Probe):
    """Holds a strategy to what can be seen before any other probe looks."""

    name: str
    before: dict[str, Any] = field(default_factory=dict)

    def __call__(self, look: Look) -> list[Row]:
        hold, model, after = holder(self.name), look.learner.model, f"after lesson {look.step - 1}"
        now: dict[str, Any] = {
            "options": copy.deepcopy(_options(look.strategy)),
            "shapes": {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()},
            "trains": {key: parameter.requires_grad for key, parameter in model.named_parameters()},
        }
        self.before = self.before or now
        options, shapes, trains = (briefly(differing(self.before[what], now[what])) for what in now)
        training = briefly([key or "the model" for key, module in model.named_modules() if module.training])
        hold(not options, f"changes its field {options}: fields are options; state is what `start` creates.")
        cause = "Attach modules in `start`; what grows lives on the strategy."
        hold(not shapes, f"changes names or shapes of parameters {after} ({shapes}). {cause}")
        hold(not trains, f"leaves requires_grad changed {after} ({trains}): put it back when `learn` is done.")
        hold(not training, f"leaves {training} in training mode {after}: call `eval()` when `learn` is done.")
        self.predicts(look)
        return []

    def predicts(self, look: Look) -> None:
        hold, learner = holder(f"{self.name}.predict"), look.learner
        papers = [exam.data.to(learner.where) for exam in look.exams]
        x = torch.cat([learner.encode(data.between(0, len(data))) for data in papers])

        def answered(batches: Sequence[Tensor]) -> Tensor:
            with torch.inference_mode():
                return torch.cat([look.strategy.predict(learner, batch) for batch in batches])

        before, chance = bits(learner, look.strategy), generators()
        whole, shape = answered([x]), (len(x), look.syllabus.classes, *look.syllabus.places)
        hold(whole.shape == shape, f"gives {tuple(whole.shape)}; logits are samples x classes, {shape}.")
        found = briefly(differing(before, bits(learner, look.strategy)))
        hold(not found, f"changes {found}; it may change nothing, a cache on `self` included.")
        hold(chance == generators(), "draws from the global generators; an answer may not be random.")
        hold(not any(m.training for m in learner.model.modules()), "leaves the model in training mode.")
        for other in (answered(x.split(7)), answered([x.flip(0)]).flip(0)):
            close = torch.allclose(whole, other, rtol=1e-4, atol=1e-5, equal_nan=True)
            hold(close, "depends on how the exam is batched. Likely it normalises or decides over the batch.")


@dataclass
class _Baton(Probe):
    """Lets another run go on, after every epoch."""

    when: ClassVar[tuple[str | int, ...]] = ("epoch",)
    hand_over: Callable[[], None] = lambda: None

    def __call__(self, look: Look) -> list[Row]:
        self.hand_over()
        return []
