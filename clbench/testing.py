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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, partial
from itertools import islice, pairwise, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from clbench.catalogue import names, resolve
from clbench.data import Data, Source
from clbench.learner import Batch, Learner, Model
from clbench.metric import Look, Probe, Row, Summary, Value
from clbench.recorder import Recorder
from clbench.run import Run
from clbench.state import Unpackable, pack, pack_value
from clbench.strategy import Strategy, lacking
from clbench.stream import Exam, Experience, Stream, Syllabus
from clbench.transform import Transform

T = TypeVar("T")

INTERRUPTIONS = 40
"""an interrupted run stops at every save, or at so many where there are more"""
DUPLICATES = 0.05
"""share of an exam's samples that may have a twin among the lessons, as in real data sets"""
COMPARED = 100_000
"""so many samples of lessons, and of exams, are looked through for twins"""
ID = re.compile(r"[\w.-]+/[\w.@-]+")
"""of a metric: group/name, or group/name@library for the definition of another library"""


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
    """Hold a stream to the contract: lessons and exams are what the syllabus says, the same whenever they are asked
    for, decided by the seed alone, and apart from one another.

    Raises:
        AssertionError: what is broken, and the likely cause.
        Mistake: its data is missing.
    """
    fresh = _maker("stream", make)
    stream = fresh()
    name = type(stream).__name__
    hold = _holder(name)
    with _undisturbed():
        _is_inert(stream, "open")
        _says_what_it_is(name, stream)
        chance = _chance()
        stream.open(seed)
        lessons, exams, syllabus = list(stream), list(stream.exams()), stream.syllabus()
        first = _content(lessons, exams)
        hold(chance == _chance(), "draws from the global generators; draw from default_rng(derive(seed, purpose)).")
        _teaches_what_it_says(name, stream, lessons, syllabus)
        _sets_proper_exams(name, exams, lessons, syllabus)
        _keeps_exams_apart(name, lessons, exams)
        cause = "Likely something is drawn outside `open`, or not from its seed."
        both = [lesson for pair in zip(stream, stream, strict=True) for lesson in pair]
        same = _content(both[::2], exams) == first == _content(both[1::2], exams)
        hold(same, f"differs when it is iterated again, or twice at once. {cause}")
        again = fresh()
        again.open(seed)
        hold(_content([*again], again.exams()) == first, f"differs from another that is opened with its seed. {cause}")
        stream.open(seed)
        hold(_content([*stream], stream.exams()) == first, "differs when it is opened again: `open` must begin anew.")
        hold(stream == fresh(), "changes its own fields; they are options, and state is what `open` creates.")


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
    hold = _holder(bench.name)
    hold(isinstance(strategy, Strategy), "is no clbench.Strategy; derive it from that.")
    missing = " and ".join(lacking(strategy, stream, bench.model))
    neither = f"neither {type(stream).__name__} nor {type(bench.model).__name__} offers"
    hold(not missing, f"needs {missing}, which {neither}: give check_strategy a stream or a model that does.")


def _is_inert(thing: Any, begin: str) -> None:
    hold = _holder(type(thing).__name__)
    hold(is_dataclass(thing), "is no dataclass; its options are the fields of one.")
    state = _some(_beyond_fields(thing))
    hold(not state, f"has {state} before `{begin}`. Fields are options; `{begin}` creates everything else.")
    hold(copy.deepcopy(thing) == thing, "differs from its copy. Likely a field without a plain value.")


def _learns(bench: _Bench, alone: _Outcome) -> None:
    hold, stream = _holder(bench.name), bench.stream()
    stream.open(0)
    last, classes = len(stream), stream.syllabus().classes
    whole = bench.strategy().whole_stream
    taught = [exam for exam in stream.exams() if exam.since is not None]
    just = {exam.name for exam in taught if whole or exam.since == last - 1}
    here = stream[last - 1].classes  # where the last lesson teaches nothing first, what it teaches again is asked for
    just = just or {exam.name for exam in taught if exam.until is None and exam.classes <= here}
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


def _repeats(bench: _Bench, alone: _Outcome) -> None:
    hold, strategy = _holder(bench.name), bench.strategy()
    found = alone.difference(bench.run(strategy))
    cause = (
        "Likely it draws from the clock, the system or a set's order (draw from `learner.rng(purpose)`), or keeps "
        "state on its class or module."
    )
    hold(not found, f"gives two results in two runs with one seed: {found}. {cause}")
    found = alone.difference(bench.run(strategy))
    hold(not found, f"remembers an earlier run: {found}. `start` must create all state anew, whatever there is.")


def _keeps_to_itself(bench: _Bench, alone: _Outcome) -> None:
    def run(seed: int, hand_over: Callable[[], None]) -> _Outcome:
        return bench.run(probes=[_Baton(hand_over)], told=lambda progress: hand_over(), seed=seed)

    hold = _holder(bench.name)
    cause = "Likely state on the class or the module, or draws from the global generators between two passes."
    together = _in_turns([partial(run, seed) for seed in (0, 1)])
    for one, beside in zip((alone, bench.run(seed=1)), together, strict=True):
        found = one.difference(beside)
        hold(not found, f"gives other results in two runs taking turns than in each alone: {found}. {cause}")


def _goes_on(bench: _Bench, alone: _Outcome) -> None:
    if not bench.strategy().resumable:
        return
    hold, saved = _holder(bench.name), bench.run(every=0.0)
    found = alone.difference(saved)
    hold(not found, f"learns something else when checkpoints are written: {found}.")
    try:
        found = alone.difference(_interrupted(bench.run, saved.saves))
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


def _sees_no_more_than_its_lessons(bench: _Bench) -> None:
    def observed(**change: Any) -> tuple[_Outcome, list[dict[str, bytes]]]:
        gc.collect()
        states = _States()
        outcome = bench.run(stream=_altered(bench.stream(), **change), probes=[states], others=("exams",))
        return outcome, states.states

    hold = _holder(bench.name)
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
                found = _some(_differing(states[step], other[step]))
                when = f"after lesson {step - 1}" if step else "after `start`"
                what = "the exams" if known == len(states) - 2 else "the exams or of later lessons"
                hold(not found, f"depends on the content of {what}: {found} {when}. {cause}")
        others = observed(labels_only=True)[0]
    finally:
        gc.unfreeze()
    found = _some([name for name in _differing(outcome.predictions, others.predictions) if name != "truth.npz"])
    hold(not found, f"answers by the labels of the exams: with others, {found} differs. {cause}")


def _altered(stream: Stream, known: int | None = None, labels_only: bool = False) -> _InMemory:
    """The same stream held in memory, all samples in one source.

    Args:
        known: lessons after this one, and all exams, have other samples and labels.
        labels_only: exams have other labels.
    """
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
    taught = [replace(e, train=Data(source, at, lesson=e.index)) for e, at in zip(lessons, places, strict=False)]
    asked = [replace(e, data=Data(source, at)) for e, at in zip(exams, places[len(lessons) :], strict=True)]
    return _InMemory(taught, asked, stream.syllabus(), stream.transform(), type(stream))


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
    hold, sums, protocol = _holder(name), stream.checksums(), stream.protocol()
    whole = all(isinstance(k, str) and re.fullmatch("[0-9a-f]{64}", v) for k, v in sums.items())
    hold(whole, f"has checksums {sums}; they must map names of data sets to sha256s, 64 hexadecimal digits each.")
    hold(stream.checksums() == sums, "has other checksums when asked again; they may depend on content alone.")
    plain = all(isinstance(k, str) and isinstance(v, str | int | float | bool | None) for k, v in protocol.items())
    hold(plain, f"has the protocol {protocol}; it must map names to plain values (text, numbers, null).")
    hold(isinstance(stream.offers, frozenset), "must offer a frozenset of words.")


def _teaches_what_it_says(name: str, stream: Stream, lessons: Sequence[Experience], syllabus: Syllabus) -> None:
    hold, lengths = _holder(name), (len(stream), len(lessons), len(syllabus.sizes), syllabus.lessons or len(lessons))
    hold(
        len(set(lengths)) == 1, f"has len, lessons, sizes and lessons in its syllabus {lengths}; all must be the same."
    )
    hold(bool(lessons), "teaches nothing.")
    transform = stream.transform()
    for number, lesson in enumerate(lessons):
        here, data, size = _holder(f"Lesson {number} of {name}"), lesson.train, syllabus.sizes[number]
        here(lesson.index == number, f"says that its index is {lesson.index}.")
        here(data.lesson == number, f"gives Data(lesson={data.lesson}), by which no checkpoint finds it again.")
        here(len(data) == size > 0, f"has {len(data)} samples; the syllabus says {size}.")
        labels = data.classes
        here(labels == lesson.classes, f"has labels {sorted(labels)}, but says {sorted(lesson.classes)}.")
        beyond = sorted((labels | lesson.forget) - frozenset(range(syllabus.classes)))
        here(not beyond, f"has labels {beyond}; those of the syllabus are 0 to {syllabus.classes - 1}.")
        _gives_samples(here, data, transform, syllabus.shape)
    taught = [lesson.classes for lesson in lessons]
    shared = sum(map(len, taught)) > len(frozenset().union(*taught))
    hold(shared == syllabus.shared, f"says shared={syllabus.shared}; its lessons say otherwise.")
    y = lessons[0].train.labels[:4]
    logits = torch.linspace(-1, 1, y.numel() * syllabus.classes).view(len(y), syllabus.classes, *syllabus.places)
    loss = stream.criterion(logits, y)
    hold(loss.numel() == 1 and bool(loss.isfinite()), f"has a criterion that gives {loss}, not one finite number.")


def _gives_samples(hold: _Hold, data: Data, transform: Transform, shape: tuple[int, ...]) -> None:
    some = torch.arange(min(len(data), 4))
    raw, y = data.gather(some)
    hold(torch.equal(y.cpu(), data.labels[some]), "has other labels in `gather` than in `labels`.")
    for x in (transform(raw), transform(raw, np.random.default_rng(0))):
        given, finite = tuple(x.shape[1:]), x.dtype.is_floating_point and bool(x.isfinite().all())
        hold(finite, f"gives the network {x.dtype}, or infinite numbers; it must be finite floating point.")
        hold(given == tuple(shape), f"gives the network shape {given}; the syllabus says {tuple(shape)}.")


def _sets_proper_exams(name: str, exams: Sequence[Exam], lessons: Sequence[Experience], syllabus: Syllabus) -> None:
    hold, called = _holder(name), [exam.name for exam in exams]
    hold(bool(exams), "sets no exam.")
    proper = len(set(called)) == len(called) and all(re.fullmatch(r"\S(.*\S)?", one) for one in called)
    hold(proper, f"sets exams {called}; each needs a name of its own, on one line, without space around it.")
    for exam in exams:
        here, labels = _holder(f"Exam {exam.name} of {name}"), exam.data.classes
        here(len(exam.data) > 0, "has no sample.")
        here(labels <= exam.classes, f"asks for labels {sorted(labels)} and leaves {sorted(exam.classes)} open.")
        here(max(exam.classes) < syllabus.classes, f"leaves {sorted(exam.classes)} open, of {syllabus.classes}.")
        for what, when in (("since", exam.since), ("until", exam.until)):
            here(when in (None, *range(len(lessons))), f"says {what}={when}; there are {len(lessons)} lessons.")
        if exam.since is None:
            continue
        taught = frozenset().union(*(lesson.classes for lesson in lessons[: exam.since + 1]))
        before = frozenset().union(*(lesson.classes for lesson in lessons[: exam.since]))
        here(exam.classes <= taught, f"says since={exam.since}, when not all its labels have been taught.")
        here(syllabus.shared or not exam.classes & before, f"says since={exam.since}; its labels are taught before.")
        here(exam.until is None or exam.until > exam.since, "is to be forgotten before it is taught.")


def _keeps_exams_apart(name: str, lessons: Sequence[Experience], exams: Sequence[Exam]) -> None:
    cause = "Likely a split that is not one: exams must hold samples that are never trained on."
    seen = set(islice((one for lesson in lessons for one in _fingerprints(lesson.train)), COMPARED))
    for exam in exams:
        hold = _holder(f"Exam {exam.name} of {name}")
        for lesson in lessons:
            both = _in_common(lesson.train, exam.data)
            hold(not both, f"has {both} samples that are also in lesson {lesson.index}. {cause}")
        asked = list(islice(_fingerprints(exam.data), COMPARED // len(exams)))
        twins = sum(one in seen for one in asked)
        few = twins <= DUPLICATES * len(asked)
        hold(few, f"has {twins} samples, of {len(asked)}, with the same content as one in a lesson. {cause}")


def _in_common(a: Data, b: Data) -> int:
    """How many samples of `b` are the very ones of `a`: the same place in the same array, seen in the same way."""
    if a.source.x.data_ptr() != b.source.x.data_ptr():
        return 0
    keys = []
    for data in (a, b):
        view = data.view if isinstance(data.view, Tensor) else torch.full_like(data.index, data.view or 0)
        keys.append(data.index + view * len(data.source.x))
    return int(torch.isin(keys[1], keys[0]).sum())


def _fingerprints(data: Data) -> Iterator[int]:
    """A number for each sample, by its content."""
    for part in torch.arange(len(data)).split(1024):
        yield from (hash(sample.tobytes()) for sample in data.gather(part)[0].numpy())


def _content(lessons: Sequence[Experience], exams: Sequence[Exam]) -> list[str]:
    """What lessons and exams hold, in brief: everything but the samples, of which up to 256 are read."""
    found = []
    part: Any
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
    hold = _holder(name)
    hold(isinstance(probe, Probe), "is neither a clbench.Probe nor a clbench.Summary; derive it from one.")
    fitting = isinstance(probe.when, tuple) and all(
        entry in ("experience", "epoch") or (type(entry) is int and entry > 0) for entry in probe.when
    )
    hold(fitting, f"says when={probe.when!r}; it must be a tuple of 'experience', 'epoch' or looks an experience.")
    first, second = (bench.run(probes=[_Checked(name, make())], others=(), every=0.0) for _ in range(2))
    if not probe.repeats:
        return
    found = first.difference(second)
    hold(not found, f"gives other rows in a second run: {found}. What a run does not repeat says `repeats = False`.")
    ended = _interrupted(lambda **how: bench.run(probes=[make()], others=(), **how), first.saves)
    found = first.difference(ended)
    hold(not found, f"gives other rows after an interruption: {found}. Its state must be attributes that can be saved.")


def _are_rows(name: str, rows: Sequence[Row], look: Look) -> None:
    hold = _holder(name)
    for row in rows:
        hold(isinstance(row, Row), f"gives a {type(row).__name__}; it must give clbench.Row.")
        hold(row[:2] == (look.step, look.at), f"gives step and at {row[:2]}; the look says {(look.step, look.at)}.")
        hold(bool(ID.fullmatch(row.metric)), f"calls a metric {row.metric!r}; it must be group/name.")
        _is_value(f"{name}, {row.metric} of {row.subject!r}", row.value, row.note)
    named = [(row.metric, row.subject) for row in rows]
    hold(len(set(named)) == len(named), "gives two rows of one metric and subject in one look.")


def _is_value(what: str, value: object, note: str) -> None:
    hold, number = _holder(what), isinstance(value, int | float) and math.isfinite(value)
    hold(value is None or number, f"is {value!r}; undefined is None, with a note that says why.")
    hold(value is not None or bool(note), "has no value and no note: say why.")


def _sums_up(summary: Summary, rows: tuple[Row, ...]) -> None:
    name = f"Summary {summary.id}"
    hold = _holder(name)
    hold(bool(ID.fullmatch(summary.id)), "must have an id of the form group/name.")
    hold(bool(summary.formula and summary.citation), "needs a formula and a citation (`ours` is one).")
    hold(summary.better in ("higher", "lower", ""), f"says better={summary.better!r}, not higher, lower or nothing.")

    def compute(given: Sequence[Row]) -> Value:
        handed = list(given)
        value = summary.compute(handed)
        hold(handed == list(given), "changes the rows that it is given.")
        hold(isinstance(value, Value), f"gives a {type(value).__name__}; it must give clbench.Value.")
        _is_value(name, *value)
        return value

    def is_same(given: Sequence[Row], change: str) -> None:
        now = compute(given)
        both = value.number is not None and now.number is not None
        same = math.isclose(value.number, now.number, rel_tol=1e-9) if both else value == now  # type: ignore[arg-type]
        hold(same, f"is {value}, but {change} {now}: it must be a function of the rows alone.")

    value = compute(rows)
    is_same(rows, "computed again")
    for seed in range(3):
        mixed = list(rows)
        random.Random(seed).shuffle(mixed)
        is_same(sorted(mixed, key=lambda row: row[:2]), "with the rows of each look in another order")
    is_same([*rows, Row(1, 1, "no/such", "thing", 0.5, 1)], "with a row of another metric added")
    hold(compute([]).number is None, "is a number when there are no rows; it must be undefined, and say why.")
    empty = [row if row.metric.startswith("exam/") else row._replace(value=None, note="why not") for row in rows]
    hold(compute(empty).number is None, "is a number when no row has a value; it must be undefined, and say why.")
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


_Hold = Callable[[bool, str], None]


def _holder(who: str) -> _Hold:
    """What raises AssertionError with a line about `who`, unless the condition holds."""

    def hold(condition: bool, line: str) -> None:
        if not condition:
            raise AssertionError(f"{who} {line}")

    return hold


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
    _, key, place, *_ = np.random.get_state()  # noqa: NPY002
    ours = repr(random.getstate()).encode()
    return [torch.get_rng_state().numpy().tobytes(), np.asarray(key).tobytes(), bytes(str(place), "ascii"), ours]


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


def _interrupted(run: Callable[..., _Outcome], saves: int) -> _Outcome:
    """The end of a run that is interrupted at each of its saves, and gone on with from its folder."""
    with TemporaryDirectory() as folder:
        for _ in range(saves + 1):
            try:
                return run(every=0.0, folder=Path(folder), stop=-(-saves // INTERRUPTIONS))
            except _Interruption:
                continue
    raise AssertionError(
        f"A run with {saves} saves, interrupted at each, never ends: what was learned is learned again."
    )


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
        looking = [*probes, *(resolve("metric", name)() for name in others)]
        strategy = self.strategy() if strategy is None else strategy
        stream = self.stream() if stream is None else stream
        learner = replace(self.learner)
        with ExitStack() as stack:
            folder = folder or Path(stack.enter_context(TemporaryDirectory()))
            recorder = stack.enter_context(Recorder(folder))
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
        hold, model, after = _holder(self.name), look.learner.model, f"after lesson {look.step - 1}"
        now: dict[str, Any] = {
            "options": copy.deepcopy(_options(look.strategy)),
            "shapes": {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()},
            "trains": {key: parameter.requires_grad for key, parameter in model.named_parameters()},
        }
        self.before = self.before or now
        options, shapes, trains = (_some(_differing(self.before[what], now[what])) for what in now)
        training = _some([key or "the model" for key, module in model.named_modules() if module.training])
        hold(not options, f"changes its field {options}: fields are options; state is what `start` creates.")
        cause = "Attach modules in `start`; what grows lives on the strategy."
        hold(not shapes, f"changes names or shapes of parameters {after} ({shapes}). {cause}")
        hold(not trains, f"leaves requires_grad changed {after} ({trains}): put it back when `learn` is done.")
        hold(not training, f"leaves {training} in training mode {after}: call `eval()` when `learn` is done.")
        self.predicts(look)
        return []

    def predicts(self, look: Look) -> None:
        hold, learner = _holder(f"{self.name}.predict"), look.learner
        papers = [exam.data.to(learner.where) for exam in look.exams]
        x = torch.cat([learner.encode(data.gather(torch.arange(len(data)))[0]) for data in papers])

        def answered(batches: Sequence[Tensor]) -> Tensor:
            with torch.inference_mode():
                return torch.cat([look.strategy.predict(learner, batch) for batch in batches])

        before, chance = _bits(learner, look.strategy), _chance()
        whole, shape = answered([x]), (len(x), look.syllabus.classes, *look.syllabus.places)
        hold(whole.shape == shape, f"gives {tuple(whole.shape)}; logits are samples x classes, {shape}.")
        found = _some(_differing(before, _bits(learner, look.strategy)))
        hold(not found, f"changes {found}; it may change nothing, a cache on `self` included.")
        hold(chance == _chance(), "draws from the global generators; an answer may not be random.")
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


@dataclass
class _Kept(Probe):
    """Keeps the rows of a probe."""

    probe: Probe
    rows: list[Row]

    def __post_init__(self) -> None:
        self.when, self.repeats = self.probe.when, self.probe.repeats  # type: ignore[misc]

    def watch(self, batch: Batch, logits: Tensor) -> None:
        self.probe.watch(batch, logits)

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

    def watch(self, batch: Batch, logits: Tensor) -> None:
        self.probe.watch(batch, logits)

    def __call__(self, look: Look) -> list[Row]:
        before, chance = _bits(look.learner, look.strategy), _chance()
        asked = [(copy.deepcopy(self.probe), replace(look, predictions={})) for _ in range(2)]
        twice = [[*probe(at)] for probe, at in asked]
        rows = [*self.probe(look)]
        found, hold = _some(_differing(before, _bits(look.learner, look.strategy))), _holder(self.name)
        hold(not found, f"changes {found}; a probe may change nothing.")
        hold(chance == _chance(), "draws from the global generators; seed a generator of its own.")
        hold(not any(m.training for m in look.learner.model.modules()), "leaves the model in training mode.")
        _are_rows(self.name, rows, look)
        for one, other in pairwise([*twice, rows]):
            same = one == other if self.probe.repeats else [r[:4] for r in one] == [r[:4] for r in other]
            hold(same, "gives different rows when it is asked twice at one look.")
        return rows
