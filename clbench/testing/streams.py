"""The contract of streams: lessons and exams are what the syllabus says, by the seed alone, and apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clbench.data import Data
from clbench.stream import Exam, Experience, Stream, Syllabus
from clbench.testing.bench import (
    Hold,
    data_of,
    generators,
    holder,
    is_inert,
    maker,
    undisturbed,
)
from clbench.transform import Transform

DUPLICATES = 0.05
"""share of an exam's samples that may have a twin among the lessons, as in real data sets"""


COMPARED = 100_000
"""so many samples of lessons, and of exams, are looked through for twins"""


def check_stream(make: str | Stream | Callable[[], Stream], *, seed: int = 0) -> None:
    """Hold a stream to the contract: lessons and exams are what the syllabus says, the same whenever they are asked
    for, decided by the seed alone, and apart from one another.

    Raises:
        AssertionError: what is broken, and the likely cause.
        Mistake: its data is missing.
    """
    fresh = maker("stream", make)
    stream = fresh()
    name = type(stream).__name__
    hold = holder(name)
    with undisturbed():
        is_inert(stream, "open")
        _says_what_it_is(name, stream)
        chance = generators()
        stream.open(seed)
        lessons, exams, syllabus = list(stream), list(stream.exams()), stream.syllabus()
        first = _content(lessons, exams)
        hold(chance == generators(), "draws from the global generators; draw from default_rng(derive(seed, purpose)).")
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


def _says_what_it_is(name: str, stream: Stream) -> None:
    hold, sums, protocol = holder(name), stream.checksums(), stream.protocol()
    whole = all(isinstance(k, str) and re.fullmatch("[0-9a-f]{64}", v) for k, v in sums.items())
    hold(whole, f"has checksums {sums}; they must map names of data sets to sha256s, 64 hexadecimal digits each.")
    hold(stream.checksums() == sums, "has other checksums when asked again; they may depend on content alone.")
    plain = all(isinstance(k, str) and isinstance(v, str | int | float | bool | None) for k, v in protocol.items())
    hold(plain, f"has the protocol {protocol}; it must map names to plain values (text, numbers, null).")
    hold(isinstance(stream.offers, frozenset), "must offer a frozenset of words.")


def _teaches_what_it_says(name: str, stream: Stream, lessons: Sequence[Experience], syllabus: Syllabus) -> None:
    hold, lengths = holder(name), (len(stream), len(lessons), len(syllabus.sizes), syllabus.lessons or len(lessons))
    hold(
        len(set(lengths)) == 1, f"has len, lessons, sizes and lessons in its syllabus {lengths}; all must be the same."
    )
    hold(bool(lessons), "teaches nothing.")
    transform = stream.transform()
    for number, lesson in enumerate(lessons):
        here, data, size = holder(f"Lesson {number} of {name}"), lesson.train, syllabus.sizes[number]
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


def _gives_samples(hold: Hold, data: Data, transform: Transform, shape: tuple[int, ...]) -> None:
    some = torch.arange(min(len(data), 4))
    raw, y = data.gather(some)
    hold(torch.equal(y.cpu(), data.labels[some]), "has other labels in `gather` than in `labels`.")
    for x in (transform(raw), transform(raw, np.random.default_rng(0))):
        given, finite = tuple(x.shape[1:]), x.dtype.is_floating_point and bool(x.isfinite().all())
        hold(finite, f"gives the network {x.dtype}, or infinite numbers; it must be finite floating point.")
        hold(given == tuple(shape), f"gives the network shape {given}; the syllabus says {tuple(shape)}.")


def _sets_proper_exams(name: str, exams: Sequence[Exam], lessons: Sequence[Experience], syllabus: Syllabus) -> None:
    hold, called = holder(name), [exam.name for exam in exams]
    hold(bool(exams), "sets no exam.")
    proper = len(set(called)) == len(called) and all(re.fullmatch(r"\S(.*\S)?", one) for one in called)
    hold(proper, f"sets exams {called}; each needs a name of its own, on one line, without space around it.")
    for exam in exams:
        here, labels = holder(f"Exam {exam.name} of {name}"), exam.data.classes
        here(len(exam.data) > 0, "has no sample.")
        here(labels <= exam.classes, f"asks for labels {sorted(labels)} and leaves {sorted(exam.classes)} open.")
        here(max(exam.classes) < syllabus.classes, f"leaves {sorted(exam.classes)} open, of {syllabus.classes}.")
        for what, when in (("since", exam.since), ("until", exam.until)):
            here(when in (None, *range(len(lessons))), f"says {what}={when}; there are {len(lessons)} lessons.")
        if exam.since is None:
            continue
        taught = frozenset().union(*(lesson.classes for lesson in lessons[: exam.since + 1]))
        before = frozenset().union(*(lesson.classes for lesson in lessons[: exam.since]))
        whole = exam.classes <= taught or (syllabus.answers == "all" and exam.classes & taught)
        here(bool(whole), f"says since={exam.since}, when not all its labels have been taught.")
        late = f"says since={exam.since}; all its labels are taught before."
        here(syllabus.shared or not exam.classes <= before, late)
        here(exam.until is None or exam.until > exam.since, "is to be forgotten before it is taught.")


def _keeps_exams_apart(name: str, lessons: Sequence[Experience], exams: Sequence[Exam]) -> None:
    cause = "Likely a split that is not one: exams must hold samples that are never trained on."
    seen = set(islice((one for lesson in lessons for one in _fingerprints(lesson.train)), COMPARED))
    for exam in exams:
        hold = holder(f"Exam {exam.name} of {name}")
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
        data = data_of(part)
        some = torch.linspace(0, len(data) - 1, min(len(data), 256)).long()
        digest = hashlib.sha256(data.gather(some)[0].contiguous().view(torch.uint8).numpy().tobytes())
        digest.update(data.labels.numpy().tobytes())
        rest = {f.name: getattr(part, f.name) for f in fields(part) if f.name not in ("train", "data")}
        found.append(f"{rest} {digest.hexdigest()}")
    return found
