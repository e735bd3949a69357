"""The contract that every stream, strategy and metric keeps, ours and those of plug-ins, each checked in one line:

    from clbench.testing import check_strategy

    def test_mine():
        check_strategy(Mine)

What is checked is given as a name from a catalogue, as an instance, or as a function (a class) that makes one. A check
that fails raises AssertionError; its one line says what is broken and what the likely cause is. A check takes about a
second, needs no data, and leaves the global generators and the thread count as they were.
"""

from __future__ import annotations

import copy
import csv
import gc
import hashlib
import io
import json
import math
import random
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from clbench.catalogue import names, resolve
from clbench.data import Data, Source
from clbench.learner import Learner, Model
from clbench.metric import Look, Probe, Row, Summary, Value
from clbench.recorder import Recorder
from clbench.run import Run
from clbench.state import Unpackable, pack, pack_value
from clbench.strategy import Strategy
from clbench.stream import Exam, Experience, Stream, Syllabus
from clbench.transform import Transform

T = TypeVar("T")

INTERRUPTIONS = 40
"""an interrupted run stops at every save, or at so many where there are more"""
DUPLICATES = 0.01
"""share of an exam's samples that may have a twin among the lessons, as real data sets do"""


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
        model: an entry of the models' catalogue, or whatever has `build`; None: a perceptron with batch normalisation and
            dropout, its parts named `body` and `head`.
        learner: the settings; None: 2 epochs in batches of 16, on the CPU.

    Raises:
        AssertionError: what is broken, and the likely cause.
    """
    bench = _Bench(
        _maker("strategy", make),
        _maker("stream", stream),
        _maker("model", _Perceptron() if model is None else model)(),
        learner or Learner(epochs=2, batch=16, threads=1, device="cpu"),
    )
    with _undisturbed():
        _fits(bench)
        _is_inert(bench.strategy(), "start")
        alone = bench.run(probes=[_Watch(bench.name)])
        _learns(bench, alone)
        _repeats(bench, alone)
        _keeps_to_itself(bench, alone)
        _goes_on(bench, alone)
        _sees_no_more_than_its_lessons(bench)


def check_stream(make: str | Stream | Callable[[], Stream], *, seed: int = 0) -> None:
    """Hold a stream to the contract: lessons and exams are what the syllabus says, the same whenever they are asked for,
    decided by the seed alone, and apart from one another.

    Raises:
        AssertionError: what is broken, and the likely cause.
        Mistake: its data is missing.
    """
    fresh = _maker("stream", make)
    stream = fresh()
    name = type(stream).__name__
    with _undisturbed():
        _is_inert(stream, "open")
        _says_what_it_is(name, stream)
        chance = _chance()
        stream.open(seed)
        lessons, exams, syllabus = list(stream), list(stream.exams()), stream.syllabus()
        first = _content(lessons, exams)
        _hold(chance == _chance(), f"{name} draws from the global generators; draw from default_rng(derive(seed, …)).")
        _teaches_what_it_says(name, stream, lessons, syllabus)
        _sets_proper_exams(name, exams, lessons, syllabus)
        _keeps_exams_apart(name, lessons, exams)
        hint = "Likely something is drawn outside `open`, or not from its seed."
        both = [pair for pairs in zip(stream, stream, strict=True) for pair in pairs]
        _hold(
            _content(both[::2], exams) == first == _content(both[1::2], exams),
            f"{name}, iterated twice, differs. {hint}",
        )
        again = fresh()
        again.open(seed)
        _hold(_content([*again], again.exams()) == first, f"{name}, opened twice with one seed, differs. {hint}")
        stream.open(seed)
        _hold(_content([*stream], stream.exams()) == first, f"{name}, opened again, differs: `open` must begin anew.")
        _hold(stream == fresh(), f"{name} changes its own fields; they are options, and state is what `open` creates.")


def check_metric(
    make: str | Probe | Summary | Callable[[], Probe],
    *,
    strategy: str | Strategy | Callable[[], Strategy] = Strategy,
    stream: str | Stream | Callable[[], Stream] = "toy",
    rows: Sequence[Row] | None = None,
) -> None:
    """Hold a probe or a summary to the contract.

    A probe changes nothing, gives the same rows when asked twice, and in a second or an interrupted run. A summary is a
    pure function of rows, and where it is undefined it says why.

    Args:
        strategy: whose runs a probe looks at.
        stream: on what.
        rows: what a summary is computed from; None: the rows of a run under every probe that is installed.

    Raises:
        AssertionError: what is broken, and the likely cause.
    """
    metric = _maker("metric", cast(Any, make))
    thing: Any = metric()
    with _undisturbed():
        if isinstance(thing, Summary):
            _sums_up(thing, _sample() if rows is None else tuple(rows))
            return
        learner = Learner(epochs=2, batch=16, threads=1, device="cpu")
        _looks(metric, _Bench(_maker("strategy", strategy), _maker("stream", stream), _Perceptron(), learner))


# A strategy.


def _fits(bench: _Bench) -> None:
    strategy, stream = bench.strategy(), bench.stream()
    _hold(isinstance(strategy, Strategy), f"{bench.name} is no clbench.Strategy; derive it from that.")
    missing = sorted(strategy.needs - stream.offers)
    need, name = " and ".join(missing), type(stream).__name__
    _hold(
        not missing, f"{bench.name} needs {need}, which {name} does not offer: give check_strategy a stream that does."
    )


def _is_inert(thing: Any, begin: str) -> None:
    name = type(thing).__name__
    _hold(is_dataclass(thing), f"{name} is no dataclass; its options are the fields of one.")
    state = _beyond_fields(thing)
    _hold(
        not state, f"{name} has {_some(state)} before `{begin}`. Fields are options; `{begin}` creates everything else."
    )
    _hold(copy.deepcopy(thing) == thing, f"A copy of {name} differs from it. Likely a field without a plain value.")


def _learns(bench: _Bench, alone: _Outcome) -> None:
    stream = bench.stream()
    stream.open(0)
    last, classes = len(stream), stream.syllabus().classes
    whole = bench.strategy().whole_stream
    just = {exam.name for exam in stream.exams() if exam.since is not None and (whole or exam.since == last - 1)}
    cells = [
        row
        for row in csv.DictReader(io.StringIO(alone.rows))
        if row["metric"] == "class/accuracy" and row["step"] == str(last) and row["subject"] in just
    ]
    _hold(
        bool(cells),
        f"{type(stream).__name__} has no exam on its last lesson, so what {bench.name} learns can't be seen.",
    )
    n = sum(int(row["n"]) for row in cells)
    accuracy = sum(float(row["value"] or 0) * int(row["n"]) for row in cells) / n
    needed = 1 / classes + 3 * math.sqrt(1 / classes * (1 - 1 / classes) / n)
    _hold(
        accuracy > needed,
        f"{bench.name} does not learn: {100 * accuracy:.0f} % on the lesson it just learned, {n} samples of {classes} "
        f"classes; chance ends at {100 * needed:.0f} %. Likely the loss does not reach the weights, or lr does not suit.",
    )


def _repeats(bench: _Bench, alone: _Outcome) -> None:
    strategy = bench.strategy()
    found = alone.difference(bench.run(strategy))
    _hold(
        not found,
        f"{bench.name}, run twice with one seed, gives two results: {found}. Likely it draws from the clock, the system or "
        "a set's order (draw from `learner.rng(purpose)`), or keeps state on its class or module.",
    )
    found = alone.difference(bench.run(strategy))
    _hold(
        not found,
        f"{bench.name} remembers an earlier run: {found}. `start` must create all state anew, whatever there is.",
    )


def _keeps_to_itself(bench: _Bench, alone: _Outcome) -> None:
    other = bench.run(seed=1)

    def run(seed: int, hand_over: Callable[[], None]) -> _Outcome:
        return bench.run(probes=[_Baton(hand_over)], told=lambda progress: hand_over(), seed=seed)

    together = _in_turns([lambda hand_over, seed=seed: run(seed, hand_over) for seed in (0, 1)])  # type: ignore[misc]
    for apart, beside in zip((alone, other), together, strict=True):
        found = apart.difference(beside)
        _hold(
            not found,
            f"{bench.name}, two runs taking turns, gives other results than each alone: {found}. Likely state on the class "
            "or the module, or a draw from the global generators between two passes.",
        )


def _goes_on(bench: _Bench, alone: _Outcome) -> None:
    if not bench.strategy().resumable:
        return
    saved = bench.run(every=0.0)
    found = alone.difference(saved)
    _hold(not found, f"{bench.name} learns something else when checkpoints are written: {found}.")
    stride = -(-saved.saves // INTERRUPTIONS)
    with TemporaryDirectory() as folder:
        for attempt in range(saved.saves + 1):
            try:
                ended = bench.run(every=0.0, folder=Path(folder), stop=stride)
                break
            except _Interruption:
                continue
            except Exception as error:
                raise AssertionError(
                    f"{bench.name} can't go on after interruption {attempt}: {type(error).__name__}: {error}. Likely state "
                    "of `learn` that `start` does not make: make it in `start`, or let go of it when the loop is done."
                ) from error
        else:
            raise AssertionError(
                f"{bench.name}, interrupted at every save, never ends: an epoch is learned again and again."
            )
    found = alone.difference(ended)
    _hold(
        not found,
        f"{bench.name}, interrupted at every save, ends otherwise than in one go: {found}. Likely `learn` keeps something in "
        "a local variable from one pass to the next (a generator, an optimiser, a list): keep it on `self`.",
    )


def _sees_no_more_than_its_lessons(bench: _Bench) -> None:
    reach = (
        "Likely it reaches the stream, or reads `experience.train.source` beyond `experience.train.index`: a strategy may "
        "use the syllabus and the experiences that it was given, no more."
    )

    def observed(**change: Any) -> tuple[_Outcome, list[dict[str, bytes]]]:
        gc.collect()  # so that no other stream is left to be found
        states = _States()
        return bench.run(stream=_altered(bench.stream(), **change), probes=[states]), states.states

    gc.collect()
    gc.freeze()
    try:
        outcome, states = observed()
        for known in range(len(states) - 1):
            other = observed(known=known)[1]
            for step in range(known + 2):
                found = _differing(states[step], other[step])
                when = f"after lesson {step - 1}" if step else "after `start`"
                what = "the exams" if known == len(states) - 2 else "the exams or of later lessons"
                _hold(not found, f"{bench.name}: {_some(found)} {when} depends on the content of {what}. {reach}")
        others = observed(labels_only=True)[0]
    finally:
        gc.unfreeze()
    found = [name for name in _differing(outcome.predictions, others.predictions) if name != "truth.npz"]
    _hold(not found, f"{bench.name} answers by the labels of the exams: with others {_some(found)} differ. {reach}")


def _altered(stream: Stream, known: int | None = None, labels_only: bool = False) -> _InMemory:
    """The same stream held in memory, all samples in one source; with `known`, lessons after that one and all exams have
    other samples and labels; with `labels_only`, exams have other labels."""
    stream.open(0)
    lessons, exams = list(stream), list(stream.exams())
    xs, ys, places, start = [], [], [], 0
    for number, part in enumerate((*lessons, *exams)):
        data = _data(part)
        x, y = data.gather(torch.arange(len(data)))
        later = known is not None and number > known
        xs.append(_other(x) if later else x)
        ys.append(_turned(y) if later or (labels_only and isinstance(part, Exam)) else y)
        places.append(torch.arange(start, start := start + len(data)))
    source = Source(torch.cat(xs), torch.cat(ys))
    taught = [
        replace(lesson, train=Data(source, place, lesson=lesson.index))
        for lesson, place in zip(lessons, places, strict=False)
    ]
    set_ = [replace(exam, data=Data(source, place)) for exam, place in zip(exams, places[len(lessons) :], strict=True)]
    return _InMemory(taught, set_, stream.syllabus(), stream.transform(), type(stream))


def _data(part: Any) -> Data:
    return part.train if isinstance(part, Experience) else part.data


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


# A stream.


def _says_what_it_is(name: str, stream: Stream) -> None:
    sums, protocol = stream.checksums(), stream.protocol()
    whole = all(isinstance(k, str) and re.fullmatch("[0-9a-f]{64}", v) for k, v in sums.items())
    _hold(
        whole,
        f"{name}.checksums() must map the name of each data set to its sha256, 64 hexadecimal digits, not {sums}.",
    )
    _hold(stream.checksums() == sums, f"{name}.checksums() differs between two calls; it may depend on content alone.")
    plain = all(isinstance(k, str) and isinstance(v, str | int | float | bool | None) for k, v in protocol.items())
    _hold(plain, f"{name}.protocol() must map names to plain values (text, numbers, null), not {protocol}.")
    _hold(isinstance(stream.offers, frozenset), f"{name}.offers must be a frozenset of words.")


def _teaches_what_it_says(name: str, stream: Stream, lessons: Sequence[Experience], syllabus: Syllabus) -> None:
    counts = {len(stream), len(lessons), len(syllabus.sizes), syllabus.lessons or len(lessons)}
    _hold(
        len(counts) == 1 and bool(lessons),
        f"{name} has len {len(stream)}, teaches {len(lessons)} lessons, and its syllabus speaks of {syllabus.lessons}, of "
        f"which it gives {len(syllabus.sizes)} sizes; they must be the same, and not 0.",
    )
    transform, rng = stream.transform(), np.random.default_rng(0)
    for number, lesson in enumerate(lessons):
        where = f"lesson {number} of {name}"
        _hold(lesson.index == number, f"The {where} says that its index is {lesson.index}.")
        _hold(
            lesson.train.lesson == number,
            f"The {where} gives Data(lesson={lesson.train.lesson}); it must be {number}, for checkpoints to find it again.",
        )
        _hold(
            len(lesson.train) == syllabus.sizes[number] > 0,
            f"The {where} has {len(lesson.train)} samples; the syllabus says {syllabus.sizes[number]}.",
        )
        labels = frozenset(lesson.train.labels.tolist())
        _hold(labels == lesson.classes, f"The {where} has labels {sorted(labels)}, but says {sorted(lesson.classes)}.")
        beyond = sorted((labels | lesson.forget) - frozenset(range(syllabus.classes)))
        _hold(not beyond, f"The {where} has labels {beyond}; those of the syllabus are 0 to {syllabus.classes - 1}.")
        _gives_samples(where, lesson.train, transform, rng, syllabus)
    taught = [lesson.classes for lesson in lessons]
    shared = sum(map(len, taught)) > len(frozenset().union(*taught))
    _hold(shared == syllabus.shared, f"{name} says shared={syllabus.shared}; its lessons say otherwise.")
    logits, y = torch.linspace(-1, 1, 4 * syllabus.classes).view(4, -1), lessons[0].train.labels[:4]
    loss = stream.criterion(logits[: len(y)], y)
    _hold(loss.numel() == 1 and bool(loss.isfinite()), f"{name}.criterion gives {loss}; it must be one finite number.")


def _gives_samples(where: str, data: Data, transform: Transform, rng: np.random.Generator, syllabus: Syllabus) -> None:
    some = torch.arange(min(len(data), 4))
    raw, y = data.gather(some)
    _hold(torch.equal(y.cpu(), data.labels[some]), f"The labels of the {where} differ between `gather` and `labels`.")
    for x in (transform(raw), transform(raw, rng)):
        good = x.dtype.is_floating_point and bool(x.isfinite().all())
        _hold(
            good,
            f"The samples of the {where}, transformed, must be finite numbers in floating point; they are {x.dtype}.",
        )
        given, said = tuple(x.shape[1:]), tuple(syllabus.shape)
        _hold(given == said, f"A sample of the {where}, transformed, has shape {given}; the syllabus says {said}.")


def _sets_proper_exams(name: str, exams: Sequence[Exam], lessons: Sequence[Experience], syllabus: Syllabus) -> None:
    called = [exam.name for exam in exams]
    _hold(bool(exams), f"{name} sets no exam.")
    _hold(
        len(set(called)) == len(called) and all(called), f"The exams of {name} need names of their own, not {called}."
    )
    taught: set[int] = set()
    known = [frozenset(taught := taught | lesson.classes) for lesson in lessons]
    for exam in exams:
        where = f"exam {exam.name} of {name}"
        _hold(len(exam.data) > 0, f"The {where} has no sample.")
        _hold(
            bool(re.fullmatch(r"\S(.*\S)?", exam.name)),
            f"The name of the {where} has space around it, or a line break.",
        )
        labels = frozenset(exam.data.labels.tolist())
        _hold(
            labels <= exam.classes <= frozenset(range(syllabus.classes)),
            f"The {where} asks for labels {sorted(labels)} and leaves {sorted(exam.classes)} open, of {syllabus.classes}.",
        )
        for what, when in (("since", exam.since), ("until", exam.until)):
            _hold(
                when is None or 0 <= when < len(lessons),
                f"The {where} says {what}={when}; there are {len(lessons)} lessons.",
            )
        if exam.since is not None:
            early = (
                {i for i in range(exam.since) if exam.classes & lessons[i].classes} if not syllabus.shared else set()
            )
            _hold(
                not early,
                f"The {where} says since={exam.since}; lesson {min(early, default=0)} teaches its labels before.",
            )
            _hold(
                exam.classes <= known[exam.since],
                f"The {where} says since={exam.since}, which does not teach all its labels.",
            )
            _hold(exam.until is None or exam.until > exam.since, f"The {where} is to be forgotten before it is taught.")


def _keeps_exams_apart(name: str, lessons: Sequence[Experience], exams: Sequence[Exam]) -> None:
    hint = "Likely a split that is not one: exams must hold samples that are never trained on."
    for exam in exams:
        for lesson in lessons:
            both = _in_common(lesson.train, exam.data)
            _hold(not both, f"{name}: {both} samples of exam {exam.name} are also in lesson {lesson.index}. {hint}")
    seen = {number for lesson in lessons for number in _fingerprints(lesson.train)}
    for exam in exams:
        numbers = _fingerprints(exam.data)
        twins = sum(number in seen for number in numbers)
        _hold(
            twins <= DUPLICATES * len(numbers),
            f"{name}: {twins} of {len(numbers)} samples of exam {exam.name} have the same content as one in a lesson. {hint}",
        )


def _in_common(a: Data, b: Data) -> int:
    """How many samples of `b` are the very ones of `a`: the same place in the same array, seen in the same way."""
    if a.source.x.data_ptr() != b.source.x.data_ptr():
        return 0
    keys = []
    for data in (a, b):
        view = data.view if isinstance(data.view, Tensor) else torch.full_like(data.index, data.view or 0)
        keys.append(data.index + view * len(data.source.x))
    return int(torch.isin(keys[1], keys[0]).sum())


def _fingerprints(data: Data) -> list[int]:
    """A number for each sample, by its content."""
    found: list[int] = []
    for part in torch.arange(len(data)).split(4096):
        x = data.gather(part)[0].flatten(1).contiguous().view(torch.uint8).numpy()
        weights = np.random.default_rng(0).integers(-(2**62), 2**62, x.shape[1])
        found += (x.astype(np.int64) @ weights).tolist()
    return found


def _content(lessons: Sequence[Experience], exams: Sequence[Exam]) -> list[str]:
    """What lessons and exams hold, in brief: everything but the samples, of which up to 256 are read."""
    found = []
    for part in (*lessons, *exams):
        data = _data(part)
        some = torch.linspace(0, len(data) - 1, min(len(data), 256)).long()
        digest = hashlib.sha256(data.gather(some)[0].contiguous().view(torch.uint8).numpy().tobytes())
        digest.update(data.labels.numpy().tobytes())
        rest = {f.name: getattr(part, f.name) for f in fields(part) if f.name not in ("train", "data")}
        found.append(f"{rest} {digest.hexdigest()}")
    return found


# A metric.


def _looks(make: Callable[[], Probe], bench: _Bench) -> None:
    probe = make()
    name = type(probe).__name__
    _hold(isinstance(probe, Probe), f"{name} is neither a clbench.Probe nor a clbench.Summary; derive it from one.")
    _hold(probe.when in ("experience", "epoch"), f"{name}.when is {probe.when!r}; it must be 'experience' or 'epoch'.")
    whole = bench.run(probes=[_Checked(name, make())], others=(), every=0.0)
    if not probe.repeats:
        return
    again = bench.run(probes=[_Checked(name, make())], others=())
    found = whole.difference(again)
    _hold(
        not found,
        f"{name} gives other rows in a second run: {found}. What a run does not repeat says `repeats = False`.",
    )
    with TemporaryDirectory() as folder:
        for _ in range(whole.saves + 1):
            try:
                ended = bench.run(probes=[make()], others=(), every=0.0, folder=Path(folder), stop=1)
                break
            except _Interruption:
                continue
    found = whole.difference(ended)
    _hold(
        not found,
        f"{name} gives other rows after an interruption: {found}. Its state must be attributes that can be saved.",
    )


def _are_rows(name: str, rows: Sequence[Row], look: Look) -> None:
    seen = set()
    for row in rows:
        _hold(isinstance(row, Row), f"{name} gives a {type(row).__name__}; it must give clbench.Row.")
        _hold(
            (row.step, row.at) == (look.step, look.at),
            f"{name} gives {row}, at step {look.step}, at {look.at}: take both from the look.",
        )
        _hold(
            bool(re.fullmatch(r"[\w.-]+/[\w.-]+", row.metric)),
            f"{name} calls a metric {row.metric!r}; it must be group/name.",
        )
        key = (row.metric, row.subject)
        _hold(key not in seen, f"{name} gives two rows of {key} in one look.")
        seen.add(key)
        _is_value(f"{name}, {row.metric} of {row.subject!r}", row.value, row.note)


def _is_value(what: str, value: object, note: str) -> None:
    number = isinstance(value, int | float) and math.isfinite(value)
    _hold(value is None or number, f"{what} is {value!r}; undefined is None, with a note that says why.")
    _hold(value is not None or bool(note), f"{what} has no value and no note: say why.")


def _sums_up(summary: Summary, rows: tuple[Row, ...]) -> None:
    name = f"Summary {summary.id}"
    _hold(bool(re.fullmatch(r"[\w.-]+/[\w.-]+", summary.id)), f"{name}: the id must be group/name.")
    _hold(bool(summary.formula and summary.citation), f"{name} needs a formula and a citation (`ours` is one).")
    _hold(
        summary.better in ("higher", "lower", ""), f"{name} says better={summary.better!r}; higher, lower or nothing."
    )

    def compute(given: Sequence[Row]) -> Value:
        handed = list(given)
        value = summary.compute(handed)
        _hold(handed == list(given), f"{name} changes the rows that it is given.")
        _hold(isinstance(value, Value), f"{name} gives a {type(value).__name__}; it must give clbench.Value.")
        _is_value(name, *value)
        return value

    def is_same(given: Sequence[Row], change: str) -> None:
        now = compute(given)
        both = value.number is not None and now.number is not None
        same = math.isclose(value.number, now.number, rel_tol=1e-9) if both else value == now  # type: ignore[arg-type]
        _hold(same, f"{name} is {value}, but {change} {now}: it must be a function of the rows alone.")

    value = compute(rows)
    is_same(rows, "computed again")
    for seed in range(3):
        mixed = list(rows)
        random.Random(seed).shuffle(mixed)
        mixed.sort(key=lambda row: (row.step, row.at))
        is_same(mixed, "with the rows of each look in another order")
    is_same([*rows, Row(1, 1, "no/such", "thing", 0.5, 1)], "with a row of another metric added")
    _hold(compute([]).number is None, f"{name} of no rows is a number; it must be undefined, with the reason.")
    empty = [row if row.metric.startswith("exam/") else row._replace(value=None, note="why not") for row in rows]
    _hold(
        compute(empty).number is None,
        f"{name} of rows without values is a number; it must be undefined, with the reason.",
    )
    for step in sorted({row.step for row in rows}):
        compute([row for row in rows if row.step <= step])
    for metric in sorted({row.metric for row in rows}):
        compute([row for row in rows if row.metric != metric])


@cache
def _sample() -> tuple[Row, ...]:
    """The rows of a run under every probe that is installed."""
    found: list[Row] = []
    entries = [resolve("metric", name) for name in names("metric")]
    probes = [_Kept(kind(), found) for kind in entries if isinstance(kind, type) and issubclass(kind, Probe)]
    learner = Learner(epochs=2, batch=16, threads=1, device="cpu")
    _Bench(Strategy, _maker("stream", "toy"), _Perceptron(), learner).run(probes=probes, others=())
    return tuple(found)


# Runs.


def _maker(kind: str, make: str | T | Callable[[], T]) -> Callable[[], T]:
    """What makes the thing anew, each time it is called."""
    entry: Any = resolve(kind, make) if isinstance(make, str) else make
    if isinstance(entry, Summary):
        return cast(Callable[[], T], lambda: entry)
    is_thing = is_dataclass(entry) and not isinstance(entry, type)
    return cast(Callable[[], T], (lambda: copy.deepcopy(entry)) if is_thing or not callable(entry) else entry)


def _hold(condition: bool, line: str) -> None:
    if not condition:
        raise AssertionError(line)


def _some(paths: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


def _beyond_fields(thing: Any, path: str = "") -> list[str]:
    """Paths of attributes that are no fields, of a dataclass and of the dataclasses in its fields."""
    held = {f.name for f in fields(thing)}
    found = [path + name for name in vars(thing) if name not in held]
    for name in sorted(held):
        if isinstance(getattr(thing, name), Strategy | Stream):
            found += _beyond_fields(getattr(thing, name), f"{path}{name}.")
    return found


def _options(thing: Any, path: str = "") -> dict[str, Any]:
    """The fields of a strategy, and of those within it, by path."""
    found: dict[str, Any] = {}
    for f in fields(thing):
        value = getattr(thing, f.name)
        found |= _options(value, f"{path}{f.name}.") if isinstance(value, Strategy) else {path + f.name: value}
    return found


def _bits(learner: Learner, strategy: Strategy) -> dict[str, bytes]:
    """All that a run has learned, by path: model, optimiser, counters and the strategy's state."""
    tree, tensors = pack_value({k: v for k, v in learner.state_dict().items() if k != "seconds"}, "learner")
    nodes = {"learner": tree}
    if strategy.resumable:
        own, more = pack(strategy)
        tensors |= more
        nodes |= {f"strategy.{name}": node for name, node in own.items()}
    found = {path: t.reshape(-1).view(torch.uint8).numpy().tobytes() for path, t in tensors.items()}
    return found | {path: json.dumps(node).encode() for path, node in nodes.items()}


def _differing(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    return sorted(path for path in a.keys() | b.keys() if path not in a or path not in b or a[path] != b[path])


def _chance() -> list[bytes]:
    """Where the global generators stand."""
    return [
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state()).encode(),  # noqa: NPY002
        repr(random.getstate()).encode(),
    ]


def _scatter(seed: int) -> None:
    """Put the global generators anywhere."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Whatever happens within, the global generators and the number of threads are as before."""
    threads, ours, theirs = torch.get_num_threads(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(ours)
        np.random.set_state(theirs)  # noqa: NPY002


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


class _Interruption(BaseException):
    """What a kill is, within a process."""


@dataclass
class _Outcome:
    """What a run leaves."""

    rows: str
    predictions: dict[str, bytes]
    final: dict[str, bytes]
    saves: int

    def difference(self, other: _Outcome) -> str:
        """Where two outcomes differ first; empty: nowhere."""
        mine, theirs = self.rows.splitlines(), other.rows.splitlines()
        if mine != theirs:
            line = len([*takewhile(lambda pair: pair[0] == pair[1], zip(mine, theirs, strict=False))])
            a, b = (lines[line] if line < len(lines) else "nothing" for lines in (mine, theirs))
            return f"line {line + 1} of rows.csv is {a}, or {b}"
        if found := _differing(self.predictions, other.predictions):
            return f"{_some(found)} in predictions differ"
        if found := _differing(self.final, other.final):
            return f"{_some(found)} differ at the end"
        return ""


@dataclass
class _Bench:
    """Makes runs of one strategy on one stream, each from fresh objects and with the global generators anywhere."""

    strategy: Callable[[], Strategy]
    stream: Callable[[], Stream]
    model: Model
    learner: Learner
    runs: int = 0

    @property
    def name(self) -> str:
        return type(self.strategy()).__name__

    def run(
        self,
        strategy: Strategy | None = None,
        stream: Stream | None = None,
        *,
        seed: int = 0,
        probes: Sequence[Probe] = (),
        others: Sequence[str] = ("exams", "cost", "loss"),
        every: float = math.inf,
        folder: Path | None = None,
        stop: int = 0,
        told: Callable[[Any], None] = lambda progress: None,
    ) -> _Outcome:
        """One run.

        Args:
            probes: these look first.
            others: names of probes that look after them.
            every: seconds between checkpoints.
            folder: goes on from what is there; None: a new one.
            stop: _Interruption comes after so many saves; 0: never.
        """
        self.runs += 1
        _scatter(self.runs)
        if folder is None:
            with TemporaryDirectory() as new:
                return self.run(
                    strategy, stream, seed=seed, probes=probes, others=others, every=every, folder=Path(new), told=told
                )
        looking = [*probes, *(resolve("metric", name)() for name in others)]
        strategy, stream = strategy or self.strategy(), stream or self.stream()
        learner = replace(self.learner)
        with Recorder(folder) as recorder:
            run = _Interruptible(stream, strategy, self.model, learner, seed, looking, recorder, every, told=told)
            run.stop = stop
            try:
                run()
            except Unpackable as error:
                raise AssertionError(f"The state of {type(strategy).__name__} can't be saved: {error}") from None
            rows = (folder / "rows.csv").read_text() if (folder / "rows.csv").exists() else ""
            answers = {path.name: path.read_bytes() for path in sorted((folder / "predictions").iterdir())}
        return _Outcome(rows, answers, _bits(learner, strategy), run.saves)


@dataclass
class _Interruptible(Run):
    """A run that is interrupted right after a save."""

    stop: int = 0
    saves: int = 0

    def _write(self, tree: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super()._write(tree, tensors)
        self.saves += 1
        if self.saves == self.stop:
            raise _Interruption


@dataclass
class _Perceptron:
    """One hidden layer, with what makes a model hard to resume: buffers, and draws from the global generator."""

    hidden: int = 32

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), self.hidden),
            nn.BatchNorm1d(self.hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
        )
        return nn.Sequential(OrderedDict(body=body, head=nn.Linear(self.hidden, classes)))


@dataclass
class _InMemory(Stream):
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
        self.states.append(_bits(look.learner, look.strategy))
        return []


@dataclass
class _Watch(Probe):
    """Holds a strategy to what can be seen before any other probe looks."""

    name: str
    before: dict[str, Any] = field(default_factory=dict)

    def __call__(self, look: Look) -> list[Row]:
        name, model = self.name, look.learner.model
        now: dict[str, Any] = {
            "options": copy.deepcopy(_options(look.strategy)),
            "shapes": {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()},
            "trains": {key: parameter.requires_grad for key, parameter in model.named_parameters()},
        }
        self.before = self.before or now
        changed = {what: _some(_differing(self.before[what], now[what])) for what in now}
        after = f"after lesson {look.step - 1}"
        _hold(
            not changed["options"],
            f"{name} changes its field {changed['options']}: fields are options; keep state in attributes made in `start`.",
        )
        _hold(
            not changed["shapes"],
            f"{name}: names or shapes of the model's parameters are not as after `start` ({changed['shapes']}, {after}). "
            "Attach modules in `start`; what grows lives on the strategy.",
        )
        _hold(
            not changed["trains"],
            f"{name} leaves requires_grad changed {after} ({changed['trains']}): put it back when `learn` is done.",
        )
        training = [key or "the model" for key, module in model.named_modules() if module.training]
        _hold(
            not training,
            f"{name} leaves {_some(training)} in training mode {after}: call `eval()` when `learn` is done.",
        )
        self.predicts(look)
        return []

    def predicts(self, look: Look) -> None:
        name, learner = self.name, look.learner
        papers = [exam.data.to(learner.where) for exam in look.exams]
        x = torch.cat([learner.encode(data.gather(torch.arange(len(data)))[0]) for data in papers])

        def answered(batches: Sequence[Tensor]) -> Tensor:
            with torch.inference_mode():
                return torch.cat([look.strategy.predict(learner, batch) for batch in batches])

        before, chance = _bits(learner, look.strategy), _chance()
        whole = answered([x])
        shape = (len(x), look.syllabus.classes)
        _hold(
            whole.shape == shape, f"{name}.predict gives {tuple(whole.shape)}; logits are samples x classes, {shape}."
        )
        found = _differing(before, _bits(learner, look.strategy))
        _hold(not found, f"{name}.predict changes {_some(found)}; it may change nothing, a cache on `self` included.")
        _hold(chance == _chance(), f"{name}.predict draws from the global generators; an answer may not be random.")
        _hold(
            not any(m.training for m in learner.model.modules()), f"{name}.predict leaves the model in training mode."
        )
        for other in (answered(x.split(7)), answered([x.flip(0)]).flip(0)):
            _hold(
                torch.allclose(whole, other, rtol=1e-4, atol=1e-5, equal_nan=True),
                f"{name}.predict depends on how the exam is batched. Likely it normalises or decides over the batch.",
            )


@dataclass
class _Baton(Probe):
    """Lets another run go on, after every epoch."""

    when = "epoch"
    hand_over: Callable[[], None] = lambda: None

    def __call__(self, look: Look) -> list[Row]:
        self.hand_over()
        return []


@dataclass
class _Kept(Probe):
    """Keeps the rows of a probe."""

    probe: Probe
    rows: list[Row]

    def __post_init__(self) -> None:
        self.when, self.repeats = self.probe.when, self.probe.repeats  # type: ignore[misc]

    def __call__(self, look: Look) -> list[Row]:
        rows = list(self.probe(look))
        self.rows += rows
        return rows


@dataclass
class _Checked(Probe):
    """Holds a probe to its contract at every look."""

    name: str
    probe: Probe

    def __post_init__(self) -> None:
        self.when, self.repeats = self.probe.when, self.probe.repeats  # type: ignore[misc]

    def __call__(self, look: Look) -> list[Row]:
        before, chance = _bits(look.learner, look.strategy), _chance()
        asked = [(copy.deepcopy(self.probe), replace(look, predictions={})) for _ in range(2)]
        twice = [[*probe(at)] for probe, at in asked]
        rows = [*self.probe(look)]
        found = _differing(before, _bits(look.learner, look.strategy))
        _hold(not found, f"{self.name} changes {_some(found)}; a probe may change nothing.")
        _hold(chance == _chance(), f"{self.name} draws from the global generators; seed a generator of its own.")
        training = any(m.training for m in look.learner.model.modules())
        _hold(not training, f"{self.name} leaves the model in training mode.")
        _are_rows(self.name, rows, look)
        for one, other in pairwise([*twice, rows]):
            same = one == other if self.probe.repeats else [r[:4] for r in one] == [r[:4] for r in other]
            _hold(same, f"{self.name}, asked twice at one look, gives different rows.")
        return rows
