"""Avalanche, beside clbench, in both directions (Lomonaco et al. 2021, "Avalanche: an end-to-end library for continual
learning", CVPR workshops; avalanche-lib 0.6).

`strategy=avalanche strategy.name=GEM` runs a training strategy of theirs as one of ours: on our streams, through our
exams, from our seed. Their loop trains our model in place, with our optimiser; hooks count its steps and operations.
`to_benchmark` makes an Avalanche benchmark of a stream, `from_benchmark` a stream of a benchmark. What is exact and
what differs stands in docs/avalanche.md.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from clbench.data import Data, Source
from clbench.errors import Mistake, unknown
from clbench.flops import counted
from clbench.learner import Learner
from clbench.modules import resting
from clbench.seeds import derive
from clbench.strategy import Strategy
from clbench.stream import Exam, Experience, Stream, Syllabus

Plain = bool | int | float | str | list[Any] | None
"""what an option of theirs can be given as"""
Encode = Callable[..., Tensor]
"""stored samples to network input; with a generator, augmented"""

SET = (
    "model", "optimizer", "criterion", "feature_extractor", "train_mb_size", "train_epochs", "eval_mb_size", "device",
    "plugins", "evaluator", "eval_every", "peval_mode",
)  # fmt: skip
"""arguments of their strategies that are set here, and are no options"""
WHOLE = {"JointTraining": "joint"}
"""strategies of theirs that are given the whole stream at once, and which of ours does the same"""


@cache
def _theirs(module: str) -> Any:
    """One of Avalanche's modules.

    Raises:
        Mistake: it is not installed.
    """
    from clbench.vision import torchvision

    torchvision()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The distutils package is deprecated", DeprecationWarning, "GPUtil")
        try:
            import avalanche

            return import_module(f"{avalanche.__name__}.{module}")
        except ModuleNotFoundError as error:
            raise Mistake(
                f"Avalanche can't be imported ({error}). Install it: pip install 'clbench[avalanche]'."
            ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """In here Avalanche does not warn of what it deprecates in itself; other warnings come after it."""
    with warnings.catch_warnings(record=True) as said:
        old = r"avalanche\.training\.plugins\.synaptic_intelligence"
        warnings.filterwarnings("ignore", "__array_wrap__ must accept context", DeprecationWarning, old)
        yield
    for one in said:
        if not str(one.message).startswith("Call to deprecated function"):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _made(kind: Any, path: str, options: Mapping[str, Plain], given: Mapping[str, Any]) -> Any:
    """A class of theirs, called with the options that stand at `path`, and with what is given.

    Raises:
        Mistake: an option that it does not take, takes otherwise, or lacks.
    """
    takes = {
        name: parameter
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in SET and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for name in options:
        if not takes:
            raise Mistake(f"Avalanche's {kind.__name__} takes no options: {path} has '{name}'.")
        if name not in takes:
            raise unknown(f"option of Avalanche's {kind.__name__}", name, takes)
    missing = [name for name, parameter in takes.items() if parameter.default is parameter.empty]
    missing = [name for name in missing if name not in options]
    if missing:
        raise Mistake(f"Avalanche's {kind.__name__} needs {', '.join(missing)}: {path}={{{missing[0]}:…}}.")
    try:
        return kind(**given, **options)
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        raise Mistake(
            f"Avalanche's {kind.__name__} can't be made: {str(error).rstrip('.') or type(error).__name__}."
        ) from None


def _data_set(data: Data, encode: Encode) -> Any:
    """Samples as a data set of theirs: network input and label, in order; all of task 0.

    What an augmentation draws comes from numpy's global generator. Without one, samples are encoded once.
    """
    utils = _theirs("benchmarks.utils")
    x, y = data.gather(torch.arange(len(data)))
    known = np.random.default_rng(0)
    before = known.bit_generator.state
    encode(x[:1], known)
    if known.bit_generator.state == before:
        x, groups = encode(x), {}
    else:
        drawn = np.random.Generator(np.random.get_bit_generator())  # type: ignore[attr-defined]
        groups = {"train": lambda one: encode(one[None], drawn)[0], "eval": lambda one: encode(one[None])[0]}
    return utils.TaskAwareSupervisedClassificationDataset(
        [torch.utils.data.TensorDataset(x, y)],
        data_attributes=[
            utils.DataAttribute(y.tolist(), "targets"),
            utils.TaskLabels(utils.ConstantSequence(0, len(y))),
        ],
        transform_groups=utils.TransformGroups(groups),
    )


# A strategy of theirs.


@dataclass
class Avalanche(Strategy):
    """A training strategy of Avalanche. Model, optimiser, epochs, batch and device are the learner's."""

    name: str = "Naive"
    """a class of avalanche.training.supervised: GEM, LwF, SynapticIntelligence, …"""
    options: dict[str, Plain] = field(default_factory=dict)
    """its arguments: {patterns_per_exp:256,memory_strength:0.5}"""
    plugins: dict[str, dict[str, Plain]] = field(default_factory=dict)
    """what is plugged into it from avalanche.training.plugins, each with its arguments: {LwFPlugin:{alpha:1}}"""

    needs: ClassVar[frozenset[str]] = frozenset({"task borders"})
    resumable: ClassVar[bool] = False
    fits: ClassVar[bool] = False

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        if learner.precision != "float32":
            raise Mistake(f"learner.precision={learner.precision}: Avalanche's loop knows float32 alone.")
        self.theirs = self._strategy(learner)
        self.hooks = Hooks(learner)
        self.hooks.into(self.theirs)
        self.seen: frozenset[int] = frozenset()

    def learn(self, learner: Learner, experience: Experience) -> None:
        theirs, optimizer = self.theirs, learner.optim
        assert optimizer is not None, "an experience is learned within a run"
        if theirs.optimizer is not optimizer.torch:
            theirs.optimizer, theirs.optimized_param_id = optimizer.torch, None
        with self.hooks.counting(), _quiet():
            theirs.train(self._lesson(learner, experience), eval_streams=[])
        self.seen |= experience.classes
        learner.model.eval()

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """What their evaluation loop answers."""
        theirs = self.theirs
        before = theirs.mbatch, theirs.mb_output, theirs.is_training
        none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        theirs.mbatch, theirs.is_training = [x, none, none], False
        theirs._before_eval_iteration()
        theirs._before_eval_forward()
        theirs.mb_output = theirs.forward()
        theirs._after_eval_forward()
        theirs._after_eval_iteration()
        answer = theirs.mb_output
        theirs.mbatch, theirs.mb_output, theirs.is_training = before
        return answer

    def _strategy(self, learner: Learner) -> Any:
        template = _theirs("training.templates.base").BaseTemplate
        things = vars(_theirs("training.supervised")).items()
        kinds = {name: kind for name, kind in things if isinstance(kind, type) and issubclass(kind, template)}
        if self.name in WHOLE:
            raise Mistake(
                f"strategy.name={self.name} is given all experiences at once, which a strategy here never is; "
                f"strategy={WHOLE[self.name]} does the same."
            )
        if self.name not in kinds:
            raise unknown("strategy of Avalanche", self.name, kinds)
        plain = learner.loss_mask == "all" and learner._criterion is Stream.criterion
        kind = kinds[self.name]
        takes = inspect.signature(kind).parameters
        if not {"model", "optimizer"} <= set(takes):
            raise Mistake(f"strategy.name={self.name} brings a model or an optimiser of its own, and can't train ours.")
        given = {
            "model": learner.model,
            "feature_extractor": getattr(learner.model, "body", None),
            "optimizer": learner.new_optimizer(1).torch,
            "criterion": torch.nn.CrossEntropyLoss() if plain else learner.criterion,
            "train_mb_size": learner.batch,
            "train_epochs": learner.epochs,
            "eval_mb_size": learner.eval_batch,
            "device": learner.where,
            "plugins": [self._plugin(name, options) for name, options in self.plugins.items()],
            "evaluator": lambda: SimpleNamespace(get_last_metrics=dict),
        }
        return _made(kind, "strategy.options", self.options, {k: v for k, v in given.items() if k in takes})

    def _plugin(self, name: str, options: Mapping[str, Plain]) -> Any:
        kinds = {n: kind for n, kind in vars(_theirs("training.plugins")).items() if n.endswith("Plugin")}
        if name not in kinds:
            raise unknown("plugin of Avalanche", name, kinds)
        return _made(kinds[name], f"strategy.plugins.{name}", options, {})

    def _lesson(self, learner: Learner, experience: Experience) -> Any:
        """An experience of theirs, which tells of the past and the present only."""
        data = _data_set(experience.train.to(torch.device("cpu")), learner.encode)
        lesson = _theirs("benchmarks").DatasetExperience(dataset=data, current_experience=experience.index)
        lesson.classes_in_this_experience = set(experience.classes)
        lesson.previous_classes = set(self.seen)
        lesson.classes_seen_so_far = set(self.seen | experience.classes)
        return lesson


def _shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in model.named_parameters()}


class Hooks:
    """What `Learner.fit` and `Learner.passes` do beside training, done from within a loop of theirs.

    Operations are counted in full outside of iterations. In each experience the first two iterations of each kind (what
    trains, shape of the batch that comes in) are counted, and further ones cost what the second did: the first may find
    memory empty.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner, self.shapes = learner, _shapes(learner.model)
        self.counter: tuple[ExitStack, Callable[[], int]] | None = None

    def into(self, theirs: Any) -> None:
        """Become the first and the last of their plugins."""
        theirs.plugins.insert(0, SimpleNamespace(before_training_iteration=self._before_iteration))
        theirs.plugins.append(
            SimpleNamespace(
                after_train_dataset_adaptation=self._in_place,
                before_training_epoch=self._before_epoch,
                before_update=self._before_update,
                after_training_iteration=self._after_iteration,
                after_training_epoch=self._after_epoch,
            )
        )

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Around the training on one experience."""
        self.costs: dict[Any, list[int]] = {}
        self.passes = self.learner.passes()
        next(self.passes)
        self._open()
        try:
            yield
        finally:
            self.learner.flops.total += self._close()

    def _open(self) -> None:
        stack = ExitStack()
        self.counter = stack, stack.enter_context(counted())

    def _close(self) -> int:
        """Operations since the counter was opened; 0 where it is not open."""
        if self.counter is None:
            return 0
        (stack, count), self.counter = self.counter, None
        stack.close()
        return count()

    def _in_place(self, theirs: Any) -> None:
        """A strategy that puts a copy in the model's place (GDumb) trains the model instead."""
        model = self.learner.model
        if theirs.model is not model:
            model.load_state_dict(theirs.model.state_dict())
            theirs.model = model

    def _before_epoch(self, theirs: Any) -> None:
        if _shapes(theirs.model) != self.shapes:
            name = type(theirs).__name__
            raise Mistake(f"strategy.name={name} puts other layers into the model, which no probe can follow.")
        self.learner.flops.total += self._close()
        self.learner.seed_globals("global")

    def _before_iteration(self, theirs: Any) -> None:
        trains = "".join("01"[parameter.requires_grad] for parameter in theirs.model.parameters())
        self.cost = self.costs.setdefault((trains, *(part.shape for part in theirs.mbatch)), [])
        if len(self.cost) < 2:
            self._open()

    def _before_update(self, theirs: Any) -> None:
        assert self.learner.optim is not None
        self.learner.optim.prepare()

    def _after_iteration(self, theirs: Any) -> None:
        if self.counter is not None:
            self.cost.append(self._close())
        self.learner.flops.total += self.cost[-1]
        self.learner.stepped(theirs.loss)

    def _after_epoch(self, theirs: Any) -> None:
        self.learner.passed()
        with resting(theirs.model):
            next(self.passes, None)
        self._open()


# Streams.


def to_benchmark(stream: Stream, seed: int = 0) -> Any:
    """A stream as an Avalanche benchmark: its lessons are the stream `train`, its exams the stream `test`.

    The same samples in the same order, as the stream's transform gives them to a network, with its augmentation in the
    transform group `train`. There is one head: every task label is 0.

    Args:
        seed: with which the stream is opened.
    """
    stream.open(seed)
    encode, benchmarks = stream.transform(), _theirs("benchmarks")
    made = benchmarks.benchmark_from_datasets(
        train=[_data_set(experience.train, encode) for experience in stream],
        test=[_data_set(exam.data, encode) for exam in stream.exams()],
    )
    return benchmarks.with_task_labels(benchmarks.with_classes_timeline(made))


def from_benchmark(benchmark: Any) -> Stream:
    """An Avalanche benchmark with the streams `train` and `test` as a stream of ours."""
    return Given(benchmark=benchmark)


@dataclass
class Classic(Stream):
    """A benchmark of Avalanche. Its samples are taken as their transform for evaluation gives them, once; an
    augmentation of theirs stays behind.
    """

    name: str = ""
    """a function of avalanche.benchmarks.classic: SplitMNIST, PermutedMNIST, …"""
    options: dict[str, Plain] = field(default_factory=dict)
    """its arguments: {n_experiences:5,dataset_root:PATH}; `seed` is the run's, where it takes one"""

    def open(self, seed: int) -> None:
        with _private_chance(derive(seed, "benchmark")):
            benchmark = self._benchmark(derive(seed, "benchmark") % 2**31)
            self._lessons, self._papers = (self._samples(benchmark, name) for name in ("train", "test"))
        sets = [frozenset(data.labels.tolist()) for data in self._lessons]
        self._sets, self._taught = sets, [frozenset().union(*sets[: i + 1]) for i in range(len(sets))]

    def _benchmark(self, seed: int) -> Any:
        """Theirs, made anew."""
        if not self.name:
            raise Mistake("This stream needs a benchmark of Avalanche: stream.name=SplitMNIST, say.")
        things = vars(_theirs("benchmarks.classic")).items()
        kinds = {n: kind for n, kind in things if callable(kind) and n[0].isupper() and "n_experiences" in _takes(kind)}
        if self.name not in kinds:
            raise unknown("benchmark of Avalanche", self.name, kinds)
        chance = {"seed": seed} if "seed" in _takes(kinds[self.name]) and "seed" not in self.options else {}
        try:
            return _made(kinds[self.name], "stream.options", {**chance, **self.options}, {})
        except (OSError, RuntimeError) as error:
            raise Mistake(f"stream.name={self.name} can't be made: {str(error).splitlines()[0]}") from None

    def _samples(self, benchmark: Any, name: str) -> list[Data]:
        """The samples of each experience of one of their streams, all in one source."""
        experiences = list(benchmark.streams[name])
        tasks = {task for experience in experiences for task in getattr(experience, "task_labels", ())}
        if len(tasks) > 1:
            raise Mistake("This benchmark has a head for each of several tasks; a stream here has one for all.")
        xs, ys, sizes = [], [], []
        for experience in experiences:
            data = experience.dataset.eval()
            for x, y, *_ in torch.utils.data.DataLoader(data, 256, collate_fn=data.collate_fn):
                xs.append(x)
                ys.append(y)
            sizes.append(len(data))
        source, lesson = Source(torch.cat(xs), torch.cat(ys)), name == "train"
        places = torch.arange(sum(sizes)).split(sizes)
        return [Data(source, place, lesson=i if lesson else None) for i, place in enumerate(places)]

    def __len__(self) -> int:
        return len(self._lessons)

    def __getitem__(self, index: int) -> Experience:
        return Experience(index, self._lessons[index], self._sets[index])

    def exams(self) -> Sequence[Exam]:
        sets = [frozenset(data.labels.tolist()) for data in self._papers]
        digits = len(str(len(sets) - 1))
        return [
            Exam(f"{i:0{digits}d}", self._papers[i], sets[i], since=self._since(i, sets[i])) for i in range(len(sets))
        ]

    def _since(self, number: int, classes: frozenset[int]) -> int | None:
        """The experience that is the last to bring a class of an exam; its own where they share classes."""
        whole = next((i for i, taught in enumerate(self._taught) if classes <= taught), None)
        paired = len(self._papers) == len(self) and self.syllabus().shared
        return max(whole, number) if paired and whole is not None else whole

    def syllabus(self) -> Syllabus:
        data = self._lessons[0]
        return Syllabus(
            lessons=len(self),
            classes=1 + max(int(part[0].source.y.max()) for part in (self._lessons, self._papers)),
            shape=tuple(data.source.x.shape[1:]),
            sizes=tuple(map(len, self._lessons)),
            shared=sum(map(len, self._sets)) > len(self._taught[-1]),
        )

    def checksums(self) -> dict[str, str]:
        fresh = copy.copy(self)
        fresh.open(0)
        digest = hashlib.sha256()
        for part in (fresh._lessons, fresh._papers):
            for array in (part[0].source.x, part[0].source.y):
                digest.update(array.numpy().tobytes())
        return {self.name or "benchmark": digest.hexdigest()}

    def protocol(self) -> dict[str, Any]:
        [(name, digest)] = self.checksums().items()
        return {"scenario": "a benchmark of Avalanche", "data": name, "data content": digest[:12]}


@dataclass
class Given(Classic):
    """A benchmark that is there already."""

    benchmark: Any = field(default=None, compare=False, repr=False)
    """theirs"""

    def _benchmark(self, seed: int) -> Any:
        return self.benchmark


def _takes(kind: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(kind).parameters
    except ValueError:
        return {}


@contextmanager
def _private_chance(seed: int) -> Iterator[None]:
    """In here the global generators are seeded; after it they are as they were."""
    ours, theirs = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(theirs)  # noqa: NPY002
