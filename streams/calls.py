"""Which name is called here? What the streams of code share: whose code, how much of it, and in which form.

Code is read by `clbench.code`, which also says which functions may be trained on and which examined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from clbench.code import Code, among, read
from clbench.code_tokens import TokenTransform, Vocabulary, published, vocabulary
from clbench.config import Recipe
from clbench.errors import Mistake
from clbench.stream import Exam, Experience, Stream, Syllabus
from clbench.streams.samples import Paper, named, tokenised
from clbench.transform import Transform
from clbench.types import Count, Share


@dataclass
class Calls(Stream):
    """A stream of code. Subclasses say which calls each experience teaches, and which each exam asks.

    What an exam can't ask since no lesson so far teaches the answer is left out, and counted: `Exam.coverage`.
    """

    packages: Literal["installed", "pinned", "releases"] | list[str] = "installed"
    """whose code: `installed`, the standard library and what clbench depends on; `pinned` and `releases`, wheels that
    pip brings, by their hashes; or a list of `stdlib`, installed distributions, folders, wheels, lists of wheels"""
    form: Literal["call", "code"] = "call"
    """what a sample is: `call`, the lexical tokens before a callee, its label the callee's last name; `code`, a block
    of tokens, each the label of the place before it, for language models"""
    ask: Literal["call", "usage"] = "call"
    """what exams of `form=code` ask for: the tokens of the callee's last name, or of the whole call"""
    context: Count = 56
    """tokens that are shown: lexical ones before the callee; of `form=code` the length of a block"""
    tokenizer: str = "bpe"
    """of `form=code`: `bpe`, a byte-level BPE learned from code that calls no domain; or a Hugging Face model's name"""
    vocabulary: Count = 4096
    """tokens of `bpe`"""
    samples: Count | None = 4000
    """calls that an experience teaches at the most, held-out ones included; null: all. Drawn once for all runs"""
    exam_samples: Count | None = 1000
    """calls that an exam asks at the most, drawn likewise; null: all"""
    rare: Count = 5
    """of `form=call`: how often a name must be called in training to be a label"""
    test_share: Share = 0.1
    """of the files, that are for exams"""
    validation: Share = 0.0
    """share of the training files that is held out of training"""
    exam_on: Literal["test", "validation"] = "test"
    """what exams are made of; tuning selects on `validation`, never on `test`"""

    SCENARIO: ClassVar[str]

    def __post_init__(self) -> None:
        if self.validation:
            self.version = 2  # type: ignore[misc]

    def open(self, seed: int) -> None:
        if self.exam_on == "validation" and not self.validation:
            raise Mistake("stream.exam_on=validation needs a share to hold out: set stream.validation=0.1, say.")
        if self.ask == "usage" and self.form == "call":
            raise Mistake("stream.ask=usage asks for a whole call, which takes a language model: stream.form=code.")
        code = self._read()
        lessons, papers = self._plan(code)
        lessons = [few(sites, count) for sites, count in zip(lessons, self._counts(len(lessons)), strict=True)]
        held = np.isin(code.sites[:, 0], np.flatnonzero(self._held_out(code)))
        if self.exam_on == "validation":
            papers = [Paper(str(index), sites[held[sites]], index) for index, sites in enumerate(lessons)]
        lessons = [sites[~held[sites]] for sites in lessons]
        papers = [paper._replace(sites=few(paper.sites, self.exam_samples)) for paper in papers]
        if self.form == "call":
            self._samples = named(code, lessons, papers, self.context, self.rare)
            self._size, self._transform = len(self._samples.labels), Transform()
        else:
            words = self._words()
            self.offers = type(self).offers - {"single labels"}  # type: ignore[misc]
            self._samples = tokenised(code, lessons, papers, words, self.context, self.ask == "usage")
            self._size, self._transform = words.size, TokenTransform(words)

    def _read(self) -> Code:
        return read(self.packages, self.test_share)

    def _words(self) -> Vocabulary:
        if self.tokenizer == "bpe":
            return vocabulary(self.packages, self.test_share, self.vocabulary)
        return published(self.tokenizer)

    def _plan(self, code: Code) -> tuple[list[np.ndarray], list[Paper]]:
        """The calls that each experience teaches, and those that each exam asks: rows of `code.sites`."""
        raise NotImplementedError

    def _counts(self, lessons: int) -> list[int | None]:
        """How many calls each experience teaches at the most."""
        return [self.samples] * lessons

    def _held_out(self, code: Code) -> np.ndarray:
        """Which functions are held out of training: those of a share of the files, in every release (bool, F)."""
        held = [among(f"validation/{file}", self.validation) for file in code.card["files"]]
        return np.array(held, bool)[code.arrays["file"]]

    def __len__(self) -> int:
        return len(self._samples.lessons)

    def __getitem__(self, index: int) -> Experience:
        return Experience(index, self._samples.lesson(index), self._samples.classes[index])

    def exams(self) -> Sequence[Exam]:
        return self._samples.exams

    def transform(self) -> Transform:
        return self._transform

    def syllabus(self) -> Syllabus:
        sets = self._samples.classes
        return Syllabus(
            lessons=len(self),
            classes=self._size,
            shape=(self.context,),
            sizes=tuple(map(len, self._samples.lessons)),
            shared=sum(map(len, sets)) > len(frozenset().union(*sets)),
            places=() if self.form == "call" else (self.context,),
            answers="taught" if self.form == "call" else "all",
        )

    def checksums(self) -> dict[str, str]:
        return self._read().checksums()

    def protocol(self) -> dict[str, Any]:
        code = self._read()
        form: dict[str, Any] = {"calls of a label": self.rare}
        if self.form == "code":
            words = self._words()
            form = {"asked for": self.ask, "tokens": words.size, "tokenizer content": words.content[:12]}
        return {
            "scenario": self.SCENARIO,
            "code content": code.card["content"][:12],
            "form": self.form,
            "context": self.context,
            **form,
            "calls an experience": self.samples,
            "calls an exam": self.exam_samples,
            "share of test files": self.test_share,
            "validation": self.validation,
            "exams": self.exam_on,
        }


def few(sites: np.ndarray, count: int | None) -> np.ndarray:
    """At most so many of the sites, in their order; fewer from among more."""
    if count is None or len(sites) <= count:
        return sites
    keys = np.random.PCG64(0).random_raw(len(sites))
    return sites[np.sort(np.argsort(keys, kind="stable")[:count])]


def importer(code: Code) -> np.ndarray:
    """Of each function, the package that it stands in, as it is imported."""
    tops = [file.split("/")[1].removesuffix(".py") for file in code.card["files"]]
    return np.array(tops)[code.arrays["file"]]


_HOUSE = "clbench's own, for two cores"
RECIPES = {
    "house": Recipe(
        {
            "probes": ["exams", "cost", "timing", "loss", "ranks"],
            "model": "hashed_context",
            "learner.epochs": 3,
            "learner.batch": 32,
            "learner.optimizer": "adamw",
            "learner.lr": 0.003,
            "learner.threads": 1,
            "learner.eval_batch": 512,
        },
        _HOUSE,
    ),
    "gpt": Recipe(
        {
            "probes": ["exams", "cost", "timing", "loss"],
            "stream.form": "code",
            "stream.context": 128,
            "stream.samples": 1000,
            "stream.exam_samples": 200,
            "model": "gpt",
            "learner.epochs": 3,
            "learner.batch": 16,
            "learner.optimizer": "adamw",
            "learner.lr": 0.0005,
            "learner.eval_batch": 16,
        },
        _HOUSE + ", untuned",
    ),
}
"""of every stream of calls"""
