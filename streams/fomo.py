"""FoMo-in-Flux: a model that knows many things is updated, a few concepts at a time, and should stay what it was.

Roth, Udandarao, Dziadzio, Prabhu, Cherti, Vinyals, Hénaff, Albanie, Bethge and Akata 2024 ("A Practitioner's Guide to
Continual Multimodal Pretraining", NeurIPS, Datasets and Benchmarks; arXiv 2408.14471). A concept is a class of a data
set. The concepts of the data sets that are adapted to, in some order, are cut into tasks; each task trains on its
concepts' samples, mixed with those of all tasks before and with a pretraining pool; every data set, those that are
never taught included, is asked for before the first task and after each.

What differs here, and why. Their 63 data sets can't come with a package, so the stream is over any data sets, each with
a role. Captions are class names in a prompt, one a concept, where theirs differ from image to image: images of one
caption in a batch are then all right answers to it, and share the target of the contrastive loss (Yang et al. 2022,
"Unified Contrastive Learning in Image-Text-Label Space", CVPR) instead of counting as wrong ones. The pool is always
asked for too, by its test samples: it is what the model knew at first.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.data import Data, Source
from clbench.datasets import open_dataset, sha256
from clbench.errors import Mistake
from clbench.mixture import Mixture, Pool
from clbench.seeds import derive
from clbench.stream import Exam, Experience, Stream, Syllabus
from clbench.streams.concepts import Concepts
from clbench.streams.orderings import Concept, Order, chunks, frequent, listed, scored, similar
from clbench.transform import ImageTransform, Transform
from clbench.types import Count, Fraction, Natural, Share


@dataclass
class Fomo(Stream):
    """Concepts of several data sets, cut into tasks, for a model that was pretrained on others.

    Version 2: an exam counts as taught from the first task on that teaches some of its concepts, not from the last.
    """

    version: ClassVar[int] = 2

    sets: list[Concepts] = field(default_factory=list)
    """the data sets, each with its role"""
    tasks: Count = 10
    """into how many the concepts are cut; of N = qT + r concepts the first r tasks have q + 1"""
    order: Order = "random"
    """of the concepts: random; dataset, a task for each data set; time, by the data sets' years; similarity, neighbours
    have names of near meaning; frequency, rare ones in the pool's captions first; performance or loss, easy ones first
    by `scores`; or a file, a JSON list of `data set+++class`"""
    reverse: bool = False
    """the other way round"""
    order_seed: int | Literal["seed"] = 0
    """of what is random in the order: a number that every run shares, or `seed`, each run's own"""
    scores: str = ""
    """performance, loss: the file that `python -m clbench.streams.scores` writes"""
    embedding: Literal["hashed", "minilm"] = "hashed"
    """similarity: of class names"""
    mixture: dict[Pool, Fraction] = field(
        default_factory=lambda: {"pretraining": 1 / 3, "update": 1 / 3, "buffer": 1 / 3}
    )
    """shares of a batch, summing to 1; their order decides who has the odd samples. update alone: nothing is mixed"""
    resolution: Count | None = None
    """images are brought to this many pixels a side; null: as they are"""
    per_class: Count | None = None
    """training samples of a concept at the most, drawn once for all runs; null: all"""
    exam_samples: Count | None = None
    """samples of an exam at the most, evenly over its classes, at least two of each; null: all"""
    crop: Natural = 0
    """augmentation: black border, in pixels, from which windows are cut at random"""
    flip: bool = False
    """augmentation: mirrored left to right, half of the time"""
    validation: Share = 0.0
    """share of each class's training samples that is held out"""
    exam_on: Literal["test", "validation"] = "test"
    """what exams are made of; tuning selects on `validation`, never on `test`"""

    def open(self, seed: int) -> None:
        self._check()
        self._mixed = bool(self.mixture.get("buffer") or self.mixture.get("pretraining"))
        if self._mixed:
            self.offers = type(self).offers - {"unmixed lessons"}  # type: ignore[misc]
        self._names: list[str] = []
        self._concepts: list[Concept] = []
        self._labels: dict[str, range] = {}
        images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
        labels: dict[str, list[np.ndarray]] = {"train": [], "test": []}
        for concepts in self.sets:
            first = len(self._names)
            names, found = concepts.read(
                self.resolution, self.per_class, self.exam_samples, self.validation, self.exam_on == "validation"
            )
            self._names += [concepts.prompt.format(name.replace("_", " ")) for name in names]
            self._labels[concepts.title] = range(first, len(self._names))
            if concepts.role == "adapt":
                self._concepts += [
                    Concept(concepts.title, name, label, concepts.year) for label, name in enumerate(names, first)
                ]
            for split, (x, y) in found.items() if concepts.role != "eval" else [("test", found["test"])]:
                images[split].append(x)
                labels[split].append(y + first)
        shapes = {x.shape[1:3] for x in images["test"]}
        if len(shapes) > 1:
            sizes = ", ".join(f"{height} x {width}" for height, width in sorted(shapes))
            raise Mistake(f"The data sets have images of {sizes} pixels: bring them to one size by stream.resolution.")
        channels = max(x.shape[3] for x in images["test"])
        self._sources = {
            split: Source(
                torch.from_numpy(np.concatenate([np.broadcast_to(x, (*x.shape[:3], channels)) for x in images[split]])),
                torch.from_numpy(np.concatenate(labels[split])),
            )
            for split in images
        }
        y = self._sources["train"].y.numpy()
        pretraining = [label for c in self.sets if c.role == "pretraining" for label in self._labels[c.title]]
        self._pool = np.flatnonzero(np.isin(y, pretraining))
        self._tasks = self._arranged(seed)
        self._lessons = [np.flatnonzero(np.isin(y, task)) for task in self._tasks]

    def _check(self) -> None:
        titles = [concepts.title for concepts in self.sets]
        if "adapt" not in [concepts.role for concepts in self.sets]:
            raise Mistake("This stream needs data sets to adapt to: stream.sets=[{data:NAME,role:adapt},…].")
        if twice := next((title for title in titles if titles.count(title) > 1), None):
            raise Mistake(f"Two of stream.sets are called {twice}: give one of them a name of its own, name:…")
        if abs(sum(self.mixture.values()) - 1) > 1e-6:
            raise Mistake(f"stream.mixture must sum to 1, not to {sum(self.mixture.values()):g}.")
        if self.mixture.get("pretraining") and "pretraining" not in [concepts.role for concepts in self.sets]:
            raise Mistake("stream.mixture has a share for pretraining, and none of stream.sets has that role.")
        if not self.mixture.get("update") and not self.mixture.get("pretraining"):
            raise Mistake("stream.mixture leaves the first task without samples: it needs update or pretraining.")
        if self.exam_on == "validation" and not self.validation:
            raise Mistake("stream.exam_on=validation needs a share to hold out: set stream.validation=0.1, say.")

    def _arranged(self, seed: int) -> list[list[int]]:
        """The labels of each task."""
        rng = np.random.default_rng(derive(seed, "order of concepts") if self.order_seed == "seed" else self.order_seed)
        concepts = self._concepts
        match self.order:
            case "random" | "dataset":
                places = rng.permutation(len(concepts)) if self.order == "random" else range(len(concepts))
                chosen = [concepts[place] for place in places]
            case "time":
                chosen = sorted(concepts, key=lambda concept: concept.year)
            case "similarity":
                chosen = similar(concepts, self.embedding, int(rng.integers(len(concepts))))
            case "frequency":
                chosen = frequent(concepts, self._pool_captions())
            case "performance" | "loss":
                chosen = scored(concepts, self.order, self.scores)
            case _:
                chosen = listed(concepts, Path(self.order))
        if self.reverse:
            chosen = chosen[::-1]
        if self.order == "dataset":
            titles = list(dict.fromkeys(concept.dataset for concept in chosen))
            return [[concept.label for concept in chosen if concept.dataset == title] for title in titles]
        ends = chunks(len(chosen), self.tasks)
        return [[c.label for c in chosen[start:end]] for start, end in itertools.pairwise(ends)]

    def _pool_captions(self) -> dict[str, int]:
        """The captions of the pretraining pool, each with its number of samples."""
        labels, counts = np.unique(self._sources["train"].y.numpy()[self._pool], return_counts=True)
        return {self._names[label]: int(count) for label, count in zip(labels, counts, strict=True)}

    def pool(self) -> Data | None:
        return Data(self._sources["train"], torch.from_numpy(self._pool)) if len(self._pool) else None

    def concepts(self) -> Iterator[tuple[Concept, Data, range]]:
        """Each concept that can be adapted to, its training samples, and the labels of its data set."""
        source = self._sources["train"]
        y = source.y.numpy()
        for concept in self._concepts:
            rows = torch.from_numpy(np.flatnonzero(y == concept.label))
            yield concept, Data(source, rows), self._labels[concept.dataset]

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> Experience:
        source, rows = self._sources["train"], torch.from_numpy(self._lessons[index])
        train = Data(source, rows, lesson=index)
        if self._mixed:
            past = np.concatenate([np.empty(0, np.int64), *self._lessons[:index]])
            used = self._pool if self.mixture.get("pretraining") else np.empty(0, np.int64)
            pools: dict[Pool, Tensor] = {
                "update": rows, "buffer": torch.from_numpy(past), "pretraining": torch.from_numpy(used)
            }  # fmt: skip
            train = Mixture(source, pools, self.mixture, lesson=index)
        return Experience(index, train, frozenset(self._tasks[index]))

    def exams(self) -> Sequence[Exam]:
        source, found = self._sources["test"], []
        task_of = {label: task for task, labels in enumerate(self._tasks) for label in labels}
        y = source.y.numpy()
        for concepts in self.sets:
            labels = frozenset(self._labels[concepts.title])
            if concepts.role == "adapt":
                labels &= task_of.keys()
            if labels:
                rows = torch.from_numpy(np.flatnonzero(np.isin(y, sorted(labels))))
                since = min(task_of[label] for label in labels) if concepts.role == "adapt" else None
                found.append(Exam(concepts.title, Data(source, rows), labels, since=since))
        return found

    def syllabus(self) -> Syllabus:
        *sides, channels = self._sources["train"].x.shape[1:]
        sizes = tuple(map(len, self._lessons))
        names = tuple(self._names)
        return Syllabus(len(self), len(names), (channels, *sides), sizes, shared=False, answers="all", names=names)

    def transform(self) -> Transform:
        channels = self._sources["train"].x.shape[3]
        return ImageTransform((0.0,) * channels, (1.0,) * channels, self.crop, self.flip)

    def checksums(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for concepts in self.sets:
            dataset = open_dataset(concepts.data, self.resolution)
            alone = found.get(dataset.name, dataset.checksum) == dataset.checksum
            found[dataset.name if alone else concepts.title] = dataset.checksum
        files = [Path(name).expanduser() for name in (self.scores, self.order)]
        return found | {file.name: sha256(file) for file in files if file.is_file()}

    def protocol(self) -> dict[str, Any]:
        augmentation = ([f"crop {self.crop}"] if self.crop else []) + (["flip"] if self.flip else [])
        sets = [replace(concepts, data=Path(concepts.data).name) for concepts in self.sets]
        return {
            "scenario": "concept-incremental (FoMo-in-Flux)",
            "data": ", ".join(f"{c.title} ({c.role})" for c in self.sets),
            "sets": hashlib.sha256(repr(sets).encode()).hexdigest()[:12],
            "data content": ", ".join(value[:12] for value in self.checksums().values()),
            "experiences": "a data set each" if self.order == "dataset" else self.tasks,
            "order": f"{self.order}{', reversed' if self.reverse else ''}, {self.order_seed}",
            **({"embedding": self.embedding} if self.order == "similarity" else {}),
            "mixture": ", ".join(f"{pool} {share:.3g}" for pool, share in self.mixture.items()),
            "resolution": self.resolution,
            "samples a concept": self.per_class,
            "samples an exam": self.exam_samples,
            "augmentation": ", ".join(augmentation) or "none",
            "validation": self.validation,
            "exams": self.exam_on,
        }

    @staticmethod
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        """The contrastive loss of images and captions in a batch; of one sample, its caption among all."""
        return contrastive(output, target)


def contrastive(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each image over the batch's captions and of each caption over the batch's images, their mean.

    Where several have one caption they share the target equally (Yang et al. 2022, UniCL). A batch of one says nothing
    so; its loss is that of its caption among all labels, which methods that ask for p(y|x) of a sample take.

    Args:
        output: of each image for each label's caption, B x classes
        target: labels, B
    """
    if len(target) == 1:
        return F.cross_entropy(output, target)
    pairs = output.index_select(1, target)
    same = (target[:, None] == target).to(pairs.dtype)
    share = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(pairs, share) + F.cross_entropy(pairs.T, share)) / 2
