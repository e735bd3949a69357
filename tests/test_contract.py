"""Everything in the catalogues keeps the contract, and what breaks it is caught, each by its own check."""

import gc
import inspect
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from small import Reordered, Requests, Transformer, libraries
from torch import nn

from clbench.batch import Batch
from clbench.catalogue import names, resolve
from clbench.data import Data, Source
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.metric import Look, Probe, Row, Summary, Value
from clbench.strategy import Strategy, needs
from clbench.stream import Exam, Experience, Stream, Syllabus
from clbench.streams.incremental import Permuted
from clbench.streams.toy import Toy
from clbench.testing import check_metric, check_resume, check_strategy, check_stream
from clbench.testing.strategies import InMemory

QUICK: dict[str, dict[str, Any]] = {
    "coda_prompt": {"components": 6, "blocks": (0, 1)},
    "dual_prompt": {"general_blocks": (0,), "expert_blocks": (1,)},
    "ema_online": {"decay": 0.8},
    "gdumb": {"epochs": 4},
    "gs_lora": {"epochs": 2},
    "gs_lora_pp": {"epochs": 2},
    "offline_merge": {"over_time": "tenth"},
    "ranpac": {"projection": 50},
}
"""options by which a strategy learns the toy stream in less time, or fits the small transformer"""
FASTER = {"coda_prompt", "l2p", "meta_schedule", "sur_lid"}
"""strategies that learn too little at the usual rate: it falls, the network stands still and is a random one, or the
classes' part of the loss has a small weight"""
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
FITTING: dict[str, type[Stream]] = {"requests": Requests, "shared classes": Reordered}
"""small streams that offer what the toy stream does not"""
SHORT: dict[str, dict[str, Any]] = {
    "api_evolution": {
        "packages": ["jinja2", "hydra-core", "tabulate"],
        "domains": ("language", "system"),
        "test_share": 0.3,
        "rare": 1,
    },
    "api_releases": {"packages": libraries()},
    "cir_cifar100": {"experiences": 12},
    "cir_cifar100_slots": {"experiences": 10},
    "forgery": {"per_photograph": 6, "resolution": 16},
    "forgery_categories": {"per_photograph": 2, "resolution": 16},
    "forgery_long": {"per_photograph": 10, "resolution": 16},
    "mnist_360": {"stretches": 1},
    "permuted_mnist_long": {"tasks": 4, "exam_every": 2, "look_every": 1},
    "scole_cifar10": {"experiences": 12},
    "scole_cifar100": {"experiences": 12},
    "scole_fashion": {"experiences": 12},
    "scole_mnist": {"experiences": 12},
}
"""long streams, cut short; streams of code, of little code"""


def maker(kind: str, name: str, **options: Any) -> Callable[[], Any]:
    entry = resolve(kind, name)
    return lambda: replace(entry() if isinstance(entry, type) else entry, **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", sorted(names("strategy")))
def test_strategy(name, device):
    if name == "avalanche" and find_spec("avalanche") is None:
        pytest.skip("avalanche-lib is not installed")
    make = maker("strategy", name, **QUICK.get(name, {}))
    learner = Learner(epochs=2, batch=16, threads=1, device=device)
    wants = needs(make())
    check_strategy(
        make,
        stream=next((stream() for want, stream in FITTING.items() if want in wants), "toy"),
        model=Transformer() if wants & Transformer.offers else None,
        learner=replace(learner, lr=0.5) if name in FASTER else learner,
    )


@pytest.mark.parametrize("name", sorted(names("stream")))
def test_stream(name):
    try:
        maker("stream", name, **SHORT.get(name, {}))().open(0)
    except Mistake as missing:
        pytest.skip(str(missing))
    check_stream(maker("stream", name, **SHORT.get(name, {})))


@pytest.mark.parametrize("name", sorted(names("metric")))
def test_metric(name):
    check_metric(name)


@pytest.mark.parametrize(
    "stream", [Toy(validation=0.25), Toy(validation=0.25, exam_on="validation"), Toy(order="seed")]
)
def test_stream_under_options(stream):
    check_stream(stream, seed=3)


def test_views_of_one_data_set_are_lessons():
    check_stream(Permuted(data="digits", tasks=3))


def test_checks_leave_the_generators_and_threads_alone():
    torch.set_num_threads(2)
    torch.manual_seed(1)
    np.random.seed(2)  # noqa: NPY002
    random.seed(3)
    check_strategy(Strategy)
    drawn = torch.rand(1), np.random.rand(), random.random(), torch.get_num_threads()  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(2)  # noqa: NPY002
    random.seed(3)
    assert drawn == (torch.rand(1), np.random.rand(), random.random(), 2)  # noqa: NPY002


# Strategies that break the contract.


@dataclass
class Dark(Strategy):
    """Whole, and hard to check: a teacher made in `start`, samples kept, random draws, two loops of passes."""

    weight: float = 0.1

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.teacher = nn.Linear(syllabus.classes, syllabus.classes)
        self.kept: list[torch.Tensor] = []
        self.noise = torch.ones(1)
        self.rng = learner.rng("dark")

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        self.kept.append(experience.train.gather(torch.arange(2))[0] + int(torch.rand(1) < self.rng.random()))
        self.phase = learner.new_optimizer(10, lr=0.01, kind="adam")
        for _ in learner.passes(3):
            self.noise = torch.rand(1)
            learner.fit(learner.batches(experience.train), self.noisy, optimizer=self.phase)
        del self.phase

    def noisy(self, learner: Learner, batch: Batch) -> torch.Tensor:
        return learner.criterion(learner(batch.x), batch.y) * self.noise

    def predict(self, learner: Learner, x: torch.Tensor) -> torch.Tensor:
        return learner(x) + 0.01 * self.teacher(learner(x))


class Forgetful(Strategy):
    """Learns by what it finds in `self.found`, of any kind."""

    def train_on(self, learner: Learner, x: torch.Tensor, y: torch.Tensor) -> None:
        learner.fit(
            [Batch(learner.encode(x), y, x)], lambda learner, batch: learner.criterion(learner(batch.x), batch.y)
        )


@dataclass
class PeeksByStack(Forgetful):
    """Finds the exams in the frames that called it, after the last lesson."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        held = [f.frame.f_locals.get("stream") for f in inspect.stack(0)]
        stream = next(s for s in held if isinstance(s, Stream))
        if experience.index + 1 == len(stream):
            exam = stream.exams()[0].data
            self.train_on(learner, *exam.gather(torch.arange(len(exam))))


@dataclass
class PeeksByGarbage(Forgetful):
    """Finds the exams among all objects, and keeps their first labels."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        gc.collect()
        ours = (Toy, InMemory)
        streams = [o for o in gc.get_objects() if type(o) in ours and len(vars(o)) > len(fields(o))]
        self.label = sum(int(stream.exams()[0].data.labels[0]) for stream in streams)


@dataclass
class PeeksAhead(Forgetful):
    """Trains on the next lesson too."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        stream = learner.after_epoch.__self__.stream  # type: ignore[attr-defined]
        if experience.index + 1 < len(stream):
            later = stream[experience.index + 1].train
            self.train_on(learner, *later.gather(torch.arange(16)))


@dataclass
class ReadsTheSource(Forgetful):
    """Trains on samples that stand beside its own."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        source = experience.train.source
        self.train_on(learner, source.x[-16:], source.y[-16:])


@dataclass
class Answers(Strategy):
    """Answers by the labels of the exams."""

    def predict(self, learner: Learner, x: torch.Tensor) -> torch.Tensor:
        exams = learner.after_epoch.__self__._exams  # type: ignore[attr-defined]
        papers = torch.cat([learner.encode(e.data.gather(torch.arange(len(e.data)))[0]) for e in exams])
        labels = torch.cat([e.data.labels for e in exams])
        place = torch.cdist(x.flatten(1), papers.flatten(1)).argmin(1)
        return nn.functional.one_hot(labels[place], learner(x).shape[1]).float()


@dataclass
class Adapts(Strategy):
    """Normalises by the exam."""

    def predict(self, learner: Learner, x: torch.Tensor) -> torch.Tensor:
        learner.model.train()
        logits = learner(x)
        learner.model.eval()
        return logits


@dataclass
class Caches(Strategy):
    """Keeps its first answer."""

    def predict(self, learner: Learner, x: torch.Tensor) -> torch.Tensor:
        logits = learner(x)
        if not hasattr(self, "first"):
            self.first = logits.mean().item()
        return logits


@dataclass
class Centres(Strategy):
    """Its answers depend on their neighbours."""

    def predict(self, learner: Learner, x: torch.Tensor) -> torch.Tensor:
        logits = learner(x)
        return logits - logits.mean(0)


@dataclass
class Guesses(Strategy):
    """Breaks ties at random."""

    def predict(self, learner: Learner, x: torch.Tensor) -> torch.Tensor:
        logits = learner(x)
        return logits + 1e-9 * torch.rand_like(logits)


@dataclass
class Freezes(Strategy):
    """Forgets to thaw."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        next(learner.model.parameters()).requires_grad_(False)


@dataclass
class StaysInTraining(Strategy):
    """Leaves dropout on."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        learner.model.train()


@dataclass
class Counts(Strategy):
    """State in a field."""

    lessons: list[int] = field(default_factory=list)

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        self.lessons.append(experience.index)


@dataclass
class Early(Strategy):
    """State before `start`."""

    def __post_init__(self) -> None:
        self.memory: list[int] = []


@dataclass
class Hooks(Strategy):
    """State that no file can hold."""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.parts = {"hook": [lambda x: x]}


@dataclass
class Logs(Strategy):
    """An open file."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        self.log = open(os.devnull)  # noqa: SIM115
        self.log.close()
        super().learn(learner, experience)


@dataclass
class Grows(Strategy):
    """The model grows with each lesson."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        learner.model.register_parameter(f"lesson{experience.index}", nn.Parameter(torch.zeros(1)))


@dataclass
class Shy(Strategy):
    """The loss does not reach the weights."""

    def loss(self, learner: Learner, batch: Batch) -> torch.Tensor:
        return 0 * learner.criterion(learner(batch.x), batch.y)


@dataclass
class Random(Strategy):
    """Draws from the system."""

    def loss(self, learner: Learner, batch: Batch) -> torch.Tensor:
        return (1 + os.urandom(1)[0] / 255) * learner.criterion(learner(batch.x), batch.y)


@dataclass
class Accumulates(Strategy):
    """`start` keeps what is there."""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.runs = getattr(self, "runs", 0) + 1


@dataclass
class Shares(Strategy):
    """State on the class, which `start` clears."""

    seen: ClassVar[list[int]] = []

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.seen.clear()

    def loss(self, learner: Learner, batch: Batch) -> torch.Tensor:
        self.seen.append(len(batch.y))
        return learner.criterion(learner(batch.x), batch.y) * (1 + len(self.seen) / 100)


@dataclass
class KeepsLocally(Strategy):
    """A generator that lives as long as `learn`."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        rng = learner.rng("weights")
        for _ in learner.passes():
            self.weight = rng.random()
            learner.fit(learner.batches(experience.train), self.weighted)

    def weighted(self, learner: Learner, batch: Batch) -> torch.Tensor:
        return learner.criterion(learner(batch.x), batch.y) * self.weight


@dataclass
class Unmade(Strategy):
    """A module that `start` did not make."""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.teacher: nn.Module | None = None

    def learn(self, learner: Learner, experience: Experience) -> None:
        super().learn(learner, experience)
        self.teacher = nn.Linear(2, 2)


@dataclass
class Wants(Strategy):
    """Needs what the toy stream does not offer."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})


def test_a_strategy_with_much_state_keeps_the_contract():
    check_strategy(Dark)
    check_strategy(Dark(weight=0.2), learner=Learner(epochs=2, batch=16, threads=1, device="cpu", keep_optimizer=True))


@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (PeeksByStack, r"PeeksByStack depends on the content of the exams: learner.* after lesson 2\."),
        (
            PeeksByGarbage,
            r"PeeksByGarbage depends on the content of the exams or of later lessons: strategy\.label after lesson 0",
        ),
        (PeeksAhead, r"PeeksAhead depends on .* later lessons: learner.* after lesson 0"),
        (
            ReadsTheSource,
            r"ReadsTheSource depends on .*: learner.* after lesson 0\. .*`experience\.train\.source` beyond",
        ),
        (Answers, r"Answers answers by the labels of the exams: with others, 000\.npz"),
        (Adapts, r"Adapts\.predict changes learner\.model\.body\.2\.num_batches_tracked"),
        (Caches, r"Caches\.predict changes strategy\.first"),
        (Centres, r"Centres\.predict depends on how the exam is batched"),
        (Guesses, r"Guesses\.predict draws from the global generators"),
        (Freezes, r"Freezes leaves requires_grad changed after lesson 0 \(body\.1\.weight\)"),
        (StaysInTraining, r"StaysInTraining leaves the model, body, .* in training mode after lesson 0"),
        (Counts, r"Counts changes its field lessons"),
        (Early, r"Early has memory before `start`"),
        (Hooks, r"The state of Hooks can't be saved: strategy\.parts\.hook\[0\] is a builtins\.function"),
        (Logs, r"The state of Logs can't be saved: strategy\.log is a _io\.TextIOWrapper"),
        (Grows, r"Grows changes names or shapes of parameters after lesson 0 \(lesson0\)"),
        (Shy, r"Shy does not learn: \d+ % on the lesson it just learned"),
        (Random, r"Random gives two results in two runs with one seed: line \d+ of rows\.csv"),
        (Accumulates, r"Accumulates remembers an earlier run: strategy\.runs differ"),
        (Shares, r"Shares gives other results in two runs taking turns"),
        (KeepsLocally, r"KeepsLocally ends otherwise when it is interrupted at every save: .* in a local variable"),
        (Unmade, r"Unmade can't go on after an interruption: LookupError: a checkpoint holds a module"),
        (Wants, r"Wants needs text, which neither Toy nor Perceptron offers"),
        (object, r"object is no clbench\.Strategy"),
    ],
)
def test_a_broken_strategy_is_caught(strategy, line):
    gc.freeze()  # so that PeeksByGarbage has less to look through
    with pytest.raises(AssertionError, match=line):
        check_strategy(strategy)
    gc.unfreeze()


@pytest.mark.parametrize(
    ("strategy", "line"),
    [(KeepsLocally, "ends otherwise when it is interrupted"), (Unmade, "can't go on"), (Caches, "predict changes")],
)
def test_what_can_not_be_gone_on_with_is_caught_by_itself(strategy, line):
    check_resume(Dark)
    with pytest.raises(AssertionError, match=line):
        check_resume(strategy)


# Streams that break the contract.


@dataclass
class Leaks(Toy):
    """Half of the exam was taught."""

    def exams(self) -> list[Exam]:
        found = super().exams()
        train = self[0].train
        return [replace(found[0], data=train.subset(torch.arange(0, len(train), 2))), *found[1:]]


@dataclass
class LeaksCopies(Toy):
    """The exam was taught, as copies of the samples."""

    def exams(self) -> list[Exam]:
        found = super().exams()
        x, y = self[0].train.gather(torch.arange(8))
        return [replace(found[0], data=Data(Source(x, y), torch.arange(8))), *found[1:]]


@dataclass
class Unseeded(Toy):
    """Lessons in an order of their own."""

    def open(self, seed: int) -> None:
        super().open(seed)
        self._lessons = [np.random.default_rng().permutation(lesson) for lesson in self._lessons]


@dataclass
class DrawsGlobally(Toy):
    """Draws where everyone does."""

    def open(self, seed: int) -> None:
        super().open(seed)
        torch.rand(1)


@dataclass
class RunsOut(Toy):
    """Can be iterated once."""

    def open(self, seed: int) -> None:
        super().open(seed)
        self.left = len(self)

    def __getitem__(self, index: int) -> Experience:
        self.left -= 1
        lesson = super().__getitem__(index)
        return lesson if self.left >= 0 else replace(lesson, train=self._short(lesson))

    def _short(self, lesson: Experience) -> Data:
        return Data(lesson.train.source, lesson.train.index.flip(0), lesson=lesson.index)


@dataclass
class Miscounts(Toy):
    """Its syllabus speaks of more than there is."""

    def syllabus(self) -> Syllabus:
        found = super().syllabus()
        return replace(found, sizes=tuple(size + 1 for size in found.sizes))


@dataclass
class Mislabels(Toy):
    """A lesson says too little."""

    def __getitem__(self, index: int) -> Experience:
        return replace(super().__getitem__(index), classes=frozenset({2 * index}))


@dataclass
class Nameless(Toy):
    """Its data can't be found again."""

    def __getitem__(self, index: int) -> Experience:
        lesson = super().__getitem__(index)
        return replace(lesson, train=lesson.train.subset(torch.arange(len(lesson.train))))


@dataclass
class TooEarly(Toy):
    """An exam is called taught before it is."""

    def exams(self) -> list[Exam]:
        return [replace(exam, since=0) for exam in super().exams()]


@dataclass
class Twins(Toy):
    """Two exams of one name."""

    def exams(self) -> list[Exam]:
        return [replace(exam, name="exam") for exam in super().exams()]


@dataclass
class OddShape(Toy):
    """Its samples are not as the syllabus says."""

    def syllabus(self) -> Syllabus:
        return replace(super().syllabus(), shape=(3, 6, 6))


@dataclass
class BadProtocol(Toy):
    """Its protocol can't be written down."""

    def protocol(self) -> dict[str, Any]:
        return {"order": object()}


@dataclass
class BadSums(Toy):
    """Its checksum is none."""

    def checksums(self) -> dict[str, str]:
        return {"toy": str(random.random())}


@pytest.mark.parametrize(
    ("stream", "line"),
    [
        (Leaks, r"Exam 0 of Leaks has 40 samples that are also in lesson 0"),
        (LeaksCopies, r"Exam 0 of LeaksCopies has 8 samples, of 8, with the same content as one in a lesson"),
        (Unseeded, r"Unseeded differs from another that is opened with its seed"),
        (DrawsGlobally, r"DrawsGlobally draws from the global generators"),
        (RunsOut, r"RunsOut differs when it is iterated again"),
        (Miscounts, r"Lesson 0 of Miscounts has 80 samples; the syllabus says 81"),
        (Mislabels, r"Lesson 0 of Mislabels has labels \[0, 1\], but says \[0\]"),
        (Nameless, r"Lesson 0 of Nameless gives Data\(lesson=None\)"),
        (TooEarly, r"Exam 1 of TooEarly says since=0, when not all its labels have been taught"),
        (Twins, r"Twins sets exams .*; each needs a name of its own"),
        (OddShape, r"gives the network shape \(1, 6, 6\); the syllabus says \(3, 6, 6\)"),
        (BadProtocol, r"BadProtocol has the protocol .*; it must map names to plain values"),
        (BadSums, r"BadSums has checksums .*; they must map names"),
    ],
)
def test_a_broken_stream_is_caught(stream, line):
    with pytest.raises(AssertionError, match=line):
        check_stream(stream)


# Metrics that break the contract.


@dataclass
class Norm(Probe):
    """Whole: how far the weights moved since the last look."""

    def __call__(self, look: Look) -> list[Row]:
        now = torch.cat([p.detach().flatten() for p in look.learner.model.parameters()])
        moved = (now - getattr(self, "last", now)).norm().item()
        self.last = now
        return [Row(look.step, look.at, "weights/moved", "", moved)]


@dataclass
class Nudges(Norm):
    """Changes what it looks at."""

    def __call__(self, look: Look) -> list[Row]:
        with torch.no_grad():
            look.learner.model.head.bias.add_(1e-6)  # type: ignore[union-attr, operator]
        return super().__call__(look)


@dataclass
class Samples(Probe):
    """Looks at random."""

    def __call__(self, look: Look) -> list[Row]:
        return [Row(look.step, look.at, "weights/one", "", float(np.random.default_rng().random()))]


@dataclass
class DrawsToo(Probe):
    """Draws where everyone does."""

    def __call__(self, look: Look) -> list[Row]:
        torch.rand(1)
        return [Row(look.step, look.at, "weights/one", "", 1.0)]


@dataclass
class Forgets(Norm):
    """Its state is lost with the process."""

    key: list[Any] = field(default_factory=list)

    def __call__(self, look: Look) -> list[Row]:
        now = torch.cat([p.detach().flatten() for p in look.learner.model.parameters()])
        moved = (now - (self.key[-1] if self.key else now)).norm().item()
        self.key.append(now)
        return [Row(look.step, look.at, "weights/moved", "", moved)]


@dataclass
class Silent(Probe):
    """No value, and no word about it."""

    def __call__(self, look: Look) -> list[Row]:
        return [Row(look.step, look.at, "weights/none", "", None)]


@dataclass
class NotANumber(Probe):
    """NaN for undefined."""

    def __call__(self, look: Look) -> list[Row]:
        return [Row(look.step, look.at, "weights/none", "", float("nan"))]


@dataclass
class Ungrouped(Probe):
    """No group."""

    def __call__(self, look: Look) -> list[Row]:
        return [Row(look.step, look.at, "norm", "", 1.0)]


def last(rows, ids=("class/accuracy",)):
    found = [row.value for row in rows if row.metric in ids and row.value is not None]
    return Value(found[-1] if found else None, "" if found else "nothing was measured")


def summary(compute: Callable[..., Value]) -> Summary:
    return Summary("ours/mean", compute, "the mean", "ours")


def mean(rows, empty: Any = None, note: str = "nothing was measured"):
    values = [row.value for row in rows if row.metric == "class/accuracy" and row.value is not None]
    return Value(sum(values) / len(values) if values else empty, "" if values else note)


def consumes(rows):
    value = mean(rows)
    rows.clear()
    return value


def remembers(rows, calls=[]):  # noqa: B006
    calls.append(1)
    return Value(float(len(calls)))


def test_whole_metrics_keep_the_contract():
    check_metric(Norm)
    check_metric(summary(mean))


@pytest.mark.parametrize(
    ("metric", "line"),
    [
        (Nudges, r"Nudges changes learner\.model\.head\.bias; a probe may change nothing"),
        (Samples, r"Samples gives different rows when it is asked twice"),
        (DrawsToo, r"DrawsToo draws from the global generators"),
        (Forgets, r"Forgets gives other rows after an interruption"),
        (Silent, r"Silent, weights/none of '' has no value and no note"),
        (NotANumber, r"NotANumber, weights/none of '' is nan"),
        (Ungrouped, r"Ungrouped calls a metric 'norm'; it must be group/name"),
        (summary(last), r"with the rows of each look in another order"),
        (summary(lambda rows: mean(rows, empty=0.0)), r"is a number when there are no rows"),
        (summary(lambda rows: mean(rows, note="")), r"has no value and no note"),
        (summary(consumes), r"changes the rows that it is given"),
        (summary(remembers), r"but computed again Value\(number=2\.0"),
        (summary(lambda rows: Value(float(len(rows)))), r"with a row of another metric added"),
    ],
)
def test_a_broken_metric_is_caught(metric, line):
    with pytest.raises(AssertionError, match=line):
        check_metric(metric)
