"""Lessons in order, and the exams."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.data import Data
from clbench.transform import Transform


@dataclass(frozen=True)
class Experience:
    """One lesson."""

    index: int
    """its place in the stream, from 0"""
    train: Data
    """what may be trained on"""
    classes: frozenset[int] = frozenset()
    """labels present in it"""
    forget: frozenset[int] = frozenset()
    """labels to unlearn at this step"""


@dataclass(frozen=True)
class Exam:
    """One question paper, sat before the first lesson and after each."""

    name: str
    data: Data
    classes: frozenset[int]
    """the labels that the task-incremental read-out leaves open"""
    since: int | None = None
    """first experience by which all its labels are taught, or some where exams are answered among all labels; None:
    never taught"""
    until: int | None = None
    """experience that asks to forget it"""
    score: str = "accuracy"
    """how it is marked: a name in the metrics wing"""
    about: Mapping[str, Tensor] = field(default_factory=dict, compare=False)
    """what is known of each sample beside its label, row by row, for probes that ask for it: `video`, the number of the
    video that a frame is of (int64, N); `mask`, how far a pixel is forged (uint8, N x H x W)"""
    coverage: float | None = None
    """of what was to be asked, the share that the labels taught by `since` can answer, which is all that `data` holds;
    None: all of it"""


@dataclass(frozen=True)
class Syllabus:
    """What a strategy may know before it starts. No data, no exam."""

    lessons: int | None
    """how many experiences; None: open-ended"""
    classes: int
    """labels in all, 0 .. classes-1"""
    shape: tuple[int, ...]
    """of one network input, without the batch; images: C x H x W"""
    sizes: tuple[int, ...]
    """training samples of each experience"""
    shared: bool
    """whether experiences share classes, as domain-incremental ones do"""
    places: tuple[int, ...] = ()
    """shape of one sample's label; (): one label; (T,): one at each of T places, as a language model predicts tokens"""
    answers: Literal["taught", "all"] = "taught"
    """the labels among which class-incremental exams are answered: those taught so far, or all of them"""
    names: tuple[str, ...] = ()
    """what each label is called, for models that read; empty: the stream does not say"""


@dataclass
class Stream:
    """Lessons in order, and the exams. Subclasses say what the lessons are.

    Fields are the options of the protocol; `open` creates everything else.
    """

    version: ClassVar[int] = 1
    """raised when the same options and seed teach something else than before"""
    offers: ClassVar[frozenset[str]] = frozenset({"known length", "task borders", "unmixed lessons", "single labels"})
    """what strategies and loss masks may rely on; unmixed lessons: nothing but the samples of a lesson is trained on in
    it; single labels: a sample has one, not a sequence of them"""

    def open(self, seed: int) -> None:
        """Open the data and draw what the seed decides. Called once, before anything below.

        Raises:
            Mistake: the data is missing or damaged, or does not fit the options.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Experience:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Experience]:
        for index in range(len(self)):
            yield self[index]

    def exams(self) -> Sequence[Exam]:
        raise NotImplementedError

    def syllabus(self) -> Syllabus:
        raise NotImplementedError

    def pool(self) -> Data | None:
        """What a model may have been pretrained on before the stream begins, and nobody is asked for; None: nothing."""
        return None

    def looks(self, step: int) -> bool:
        """Whether the run is looked at after so many experiences. It is before the first and after the last in any
        case; a stream of a thousand experiences says here how often in between.
        """
        return True

    def checksums(self) -> dict[str, str]:
        """Content of each data set used, as name to sha256. Does not need `open`."""
        return {}

    def protocol(self) -> dict[str, Any]:
        """What two rows must share, as far as the stream decides it. Does not need `open`."""
        return {}

    def transform(self) -> Transform:
        """From stored samples to network input, with the augmentation of training."""
        return Transform()

    @staticmethod
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch: cross-entropy unless the stream says otherwise."""
        return F.cross_entropy(output, target)


def manifest(stream: Stream) -> dict[str, Any]:
    """What an opened stream teaches and asks, as digests that are the same on every machine.

    Each entry of `experiences` and `exams` has a SHA-256 over the positions of its samples in their source, their
    labels, and the view under which each is seen; the last `sha256` is over all of these. The content of the samples is
    named by `checksums`.
    """
    experiences = [
        {
            "index": e.index,
            "samples": len(e.train),
            "classes": sorted(e.classes),
            **({"forget": sorted(e.forget)} if e.forget else {}),
            "sha256": _digest(e.train),
        }
        for e in stream
    ]
    exams = [
        {
            "name": e.name,
            "samples": len(e.data),
            "classes": sorted(e.classes),
            "since": e.since,
            **({} if e.until is None else {"until": e.until}),
            "sha256": _digest(e.data),
        }
        for e in stream.exams()
    ]
    whole = hashlib.sha256(json.dumps([experiences, exams]).encode()).hexdigest()
    return {"data": stream.checksums(), "experiences": experiences, "exams": exams, "sha256": whole}


def _digest(data: Data) -> str:
    """SHA-256 over positions and labels, and over the views with who is seen under which."""
    parts = [data.index, data.labels]
    if data.view is not None:
        assert data.source.views is not None
        used, which = torch.as_tensor(data.view).unique(return_inverse=True)
        parts += [data.source.views[used], which]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()
