"""Calls as samples: for a classifier of names, and for a language model.

For a classifier a sample is the lexical tokens before a callee; its label, the callee's last name. For a language model
lessons are whole functions, packed into blocks, with the next token as the label at each place; an exam asks for the
tokens of a call alone. The most likely token at each of these places is what greedy decoding gives, as long as it is
right; so an answer is right exactly where greedy decoding is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from clbench.code import Code
from clbench.code_tokens import END, Vocabulary, blocks
from clbench.data import Data, Source
from clbench.errors import Mistake
from clbench.stream import Exam

USAGE = 30
"""tokens of a call at the most, where the whole call is asked for (Weyssow et al. 2023)"""


class Paper(NamedTuple):
    """The calls of an exam."""

    name: str
    sites: np.ndarray
    """rows of `Code.sites`"""
    since: int
    until: int | None = None


@dataclass(eq=False)
class Samples:
    """What a stream of code teaches and asks."""

    source: Source
    lessons: list[np.ndarray]
    """rows of the source"""
    labels: list[str]
    """the names; of tokens, none"""
    exams: list[Exam] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.classes = [self._data(rows).classes for rows in self.lessons]

    def _data(self, rows: np.ndarray, lesson: int | None = None) -> Data:
        return Data(self.source, torch.from_numpy(rows), lesson=lesson)

    def lesson(self, index: int) -> Data:
        return self._data(self.lessons[index], index)

    def examine(self, paper: Paper, rows: np.ndarray, score: str = "accuracy", there: int | None = None) -> None:
        """Add an exam over the rows whose labels have been taught by then.

        Args:
            there: how many there were to ask; None: as many as `rows`
        """
        taught = frozenset().union(*self.classes[: paper.since + 1])
        y = self.source.y[torch.from_numpy(rows)].reshape(len(rows), -1)
        known = (torch.isin(y, torch.tensor(sorted(taught))) | (y == -100)).all(1).numpy()
        kept = rows[known]
        if not len(kept):
            raise Mistake(f"Exam {paper.name} has no call; more packages or a smaller stream.rare may give it some.")
        data = self._data(kept)
        open_ = self.classes[paper.since] | data.classes
        share = len(kept) / (len(rows) if there is None else there)
        self.exams.append(Exam(paper.name, data, open_, paper.since, paper.until, score, coverage=share))


def named(code: Code, lessons: Sequence[np.ndarray], papers: Sequence[Paper], context: int, rare: int) -> Samples:
    """Samples for a classifier. Labels are the names called `rare` times or more in all lessons together; an exam asks
    for no context that a lesson shows.

    Raises:
        Mistake: an experience or exam has none.
    """
    of_api, called = code.names(), code.sites[:, 1]
    names, counts = np.unique(of_api[called[np.concatenate(lessons)]], return_counts=True)
    labels = names[counts >= rare].tolist()
    number = {name: label for label, name in enumerate(labels)}
    label = np.array([number.get(name, -1) for name in of_api], np.int64)[called]
    lessons = [sites[label[sites] >= 0] for sites in lessons]
    for index, sites in enumerate(lessons):
        if not len(sites):
            raise Mistake(f"Experience {index} of the stream has no call that is made stream.rare={rare} times.")
    parts = [*lessons, *(paper.sites for paper in papers)]
    sites, rows = np.concatenate(parts), np.split(np.arange(sum(map(len, parts))), np.cumsum([*map(len, parts)])[:-1])
    x = contexts(code, sites, context)
    samples = Samples(Source(torch.from_numpy(x), torch.from_numpy(label[sites])), rows[: len(lessons)], labels)
    shown = {one.tobytes() for one in x[: sum(map(len, lessons))]}
    for paper, asked in zip(papers, rows[len(lessons) :], strict=True):
        samples.examine(paper, asked[[x[row].tobytes() not in shown for row in asked]])
    return samples


def contexts(code: Code, sites: np.ndarray, length: int) -> np.ndarray:
    """The lexical tokens before each callee, S x length, int32: numbers from 1 to 2^24 - 1; 0 before the function."""
    function, before = code.sites[sites, 0], code.sites[sites, 2]
    begin = code.arrays["token_at"][function]
    places = (begin + before)[:, None] + np.arange(-length, 0)
    inside = places >= begin[:, None]
    found = code.arrays["tokens"][np.where(inside, places, 0)] % (2**24 - 1) + 1
    return np.where(inside, found, 0).astype(np.int32)


def tokenised(
    code: Code,
    lessons: Sequence[np.ndarray],
    papers: Sequence[Paper],
    words: Vocabulary,
    context: int,
    usage: bool,
) -> Samples:
    """Samples for a language model: the functions of a lesson's calls, in blocks of `context` tokens; exams ask for the
    tokens of the callee, or of the whole call (`usage`), after what stands before it.

    Raises:
        Mistake: an experience or exam has none.
    """
    xs, ys, rows, start = [], [], [], 0
    for index, sites in enumerate(lessons):
        functions = np.unique(code.sites[sites, 0])
        encoded = words.encode([code.source(one) for one in functions])
        x, y = blocks(np.concatenate([np.append(tokens, END) for tokens, _ in encoded]), context)
        if not len(x):
            raise Mistake(f"Experience {index} of the stream has less than stream.context={context} tokens of code.")
        xs.append(x)
        ys.append(y)
        rows.append(np.arange(start, start := start + len(x)))
    asked = []
    for paper in papers:
        x, y = questions(code, paper.sites, words, context, usage)
        xs.append(x)
        ys.append(y)
        asked.append(np.arange(start, start := start + len(x)))
    source = Source(torch.from_numpy(np.concatenate(xs).astype(np.int32)), torch.from_numpy(np.concatenate(ys)))
    samples = Samples(source, rows, [])
    for paper, places in zip(papers, asked, strict=True):
        samples.examine(paper, places, "usage" if usage else "accuracy")
    return samples


def questions(
    code: Code, sites: np.ndarray, words: Vocabulary, context: int, usage: bool
) -> tuple[np.ndarray, np.ndarray]:
    """For each call the tokens up to its last but one (n x context; END after it) and what comes next (-100 but at the
    call's). A whole call of more than USAGE tokens is left out, and so is one longer than the context.
    """
    functions, which = np.unique(code.sites[sites, 0], return_inverse=True)
    encoded = words.encode([code.source(one) for one in functions])
    xs, ys = [], []
    for number, (_, api, _, start, end, call, close) in zip(which, code.sites[sites], strict=True):
        tokens, ends = encoded[number]
        if usage:
            start, end = start if "()" in code.apis[api] else call, close
        first, last = np.searchsorted(ends, start, "right"), np.searchsorted(ends, end, "left") + 1
        if not first or last - first > (USAGE if usage else context // 2):
            continue
        begin = max(last - 1 - context, 0)
        x, y = np.full(context, END, np.int64), np.full(context, -100, np.int64)
        x[: last - 1 - begin] = tokens[begin : last - 1]
        y[first - 1 - begin : last - 1 - begin] = tokens[first:last]
        xs.append(x)
        ys.append(y)
    empty = np.empty((0, context), np.int64)
    return (np.stack(xs), np.stack(ys)) if xs else (empty, empty)
