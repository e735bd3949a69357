"""Code whose libraries change: which call comes next, where each experience brings APIs that were not taught before.

After Weyssow, Zhou, Kim, Lo and Sahraoui 2023 ("On the Usage of Continual Learning for Out-of-Distribution
Generalization in Pre-trained Language Models of Code", FSE): a model of code meets one domain of APIs after another,
and is asked for calls of each. What differs here, and why: Python packages, read as they are installed or from pinned
wheels, in place of Java methods from GitHub, so that the stream can be made anywhere without a network; splits by
file, and near copies dropped, where theirs splits rows at random; and a second stream, of true releases. The whole
protocol is in docs/streams.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch

from clbench.code import INSTALLED, PINNED, Code, read
from clbench.config import Recipe
from clbench.data import Data, Source
from clbench.errors import Mistake, unknown
from clbench.stream import Exam, Experience, Stream, Syllabus
from clbench.types import Count, Share

DOMAINS = {
    "language": (
        "abc", "ast", "collections", "contextlib", "copy", "dataclasses", "enum", "functools", "heapq", "inspect",
        "itertools", "json", "math", "operator", "random", "re", "string", "textwrap", "traceback", "types", "weakref",
    ),
    "system": (
        "argparse", "ctypes", "datetime", "fcntl", "glob", "importlib", "io", "logging", "multiprocessing", "os",
        "pathlib", "pickle", "platform", "posixpath", "shlex", "shutil", "signal", "stat", "struct", "subprocess",
        "sys", "tarfile", "tempfile", "threading", "time", "zipfile",
    ),
    "numeric": ("numpy", "scipy"),
    "tensors": ("torch", "torchvision", "triton"),
    "services": (
        "aiohttp", "alembic", "asyncio", "base64", "click", "cryptography", "django", "email", "fastapi", "flask",
        "hashlib", "hmac", "html", "http", "opentelemetry", "pydantic", "requests", "secrets", "socket", "sqlalchemy",
        "sqlite3", "ssl", "starlette", "urllib", "uuid", "werkzeug", "xml",
    ),
    "frames": ("matplotlib", "PIL", "pandas", "pyarrow", "skimage", "sklearn", "statsmodels"),
    "symbolic": ("mpmath", "networkx", "sympy"),
}  # fmt: skip
"""the packages whose APIs make up a domain, as they are imported; no package is in two"""


class Paper(NamedTuple):
    """The calls of an exam."""

    name: str
    sites: np.ndarray
    since: int
    until: int | None = None


@dataclass
class Calls(Stream):
    """Which name is called here? A sample is the lexical tokens before a callee, its label the callee's last name.

    Labels are the names that are called `rare` times or more in all lessons together. What an exam can't ask since no
    lesson so far teaches the name is left out, and counted: `Exam.coverage`. Subclasses say who is taught when.
    """

    packages: Literal["installed", "pinned"] | list[str] = "installed"
    """whose code: `installed`, the standard library and what clbench depends on; `pinned`, wheels by their hashes; or a
    list: `stdlib`, installed distributions, folders, wheels, lists of pinned wheels"""
    context: Count = 56
    """lexical tokens before the callee that are shown"""
    samples: Count | None = 4000
    """calls that an experience teaches at the most, held-out ones included; null: all. Drawn once for all runs"""
    exam_samples: Count | None = 1000
    """calls that an exam asks at the most, drawn likewise; null: all"""
    rare: Count = 5
    """how often a name must be called in training to be a label"""
    test_share: Share = 0.1
    """of the files, that are for exams"""
    validation: Share = 0.0
    """share of the training files that is held out of training"""
    exam_on: Literal["test", "validation"] = "test"
    """what exams are made of; tuning selects on `validation`, never on `test`"""

    SCENARIO: ClassVar[str]

    def open(self, seed: int) -> None:
        if self.exam_on == "validation" and not self.validation:
            raise Mistake("stream.exam_on=validation needs a share to hold out: set stream.validation=0.1, say.")
        code = self._read()
        lessons, papers = self._plan(code)
        lessons = [few(sites, self.samples) for sites in lessons]
        held = np.isin(code.sites[:, 0], np.flatnonzero(self._held_out(code)))
        if self.exam_on == "validation":
            papers = [Paper(f"{i}", sites[held[sites]], i) for i, sites in enumerate(lessons)]
        lessons = [sites[~held[sites]] for sites in lessons]
        self._label(code, lessons, [paper._replace(sites=few(paper.sites, self.exam_samples)) for paper in papers])

    def _read(self) -> Code:
        if isinstance(self.packages, list):
            return read(self.packages, self.test_share)
        return read(INSTALLED if self.packages == "installed" else [str(PINNED)], self.test_share)

    def _plan(self, code: Code) -> tuple[list[np.ndarray], list[Paper]]:
        """The calls that each experience teaches, and those that each exam asks: rows of `code.sites`."""
        raise NotImplementedError

    def _held_out(self, code: Code) -> np.ndarray:
        """Which functions are held out of training: those of a share of the files (bool, F)."""
        keys = np.random.PCG64(1).random_raw(len(code.card["files"])) / 2**64
        return (keys < self.validation)[code.arrays["file"]]

    def _label(self, code: Code, lessons: list[np.ndarray], papers: list[Paper]) -> None:
        """Numbers the names, and makes the arrays that lessons and exams look into."""
        of_api, called = code.names(), code.sites[:, 1]
        names, counts = np.unique(of_api[called[np.concatenate(lessons)]], return_counts=True)
        self.labels = names[counts >= self.rare].tolist()
        number = {name: label for label, name in enumerate(self.labels)}
        label = np.array([number.get(name, -1) for name in of_api], np.int64)[called]
        lessons = [sites[label[sites] >= 0] for sites in lessons]
        for index, sites in enumerate(lessons):
            if not len(sites):
                raise Mistake(f"Experience {index} of the stream has no call that is made {self.rare} times or more.")
        rows = np.concatenate([*lessons, *(paper.sites for paper in papers)])
        x = contexts(code, rows, self.context)
        self._source = Source(torch.from_numpy(x), torch.from_numpy(label[rows]))
        cuts = np.cumsum([len(part) for part in (*lessons, *(paper.sites for paper in papers))])[:-1]
        parts = np.split(np.arange(len(rows)), cuts)
        self._lessons, asked = parts[: len(lessons)], parts[len(lessons) :]
        self._classes = [frozenset(np.unique(label[sites]).tolist()) for sites in lessons]
        trained = {one.tobytes() for one in x[: cuts[len(lessons) - 1]]}
        self._exams = []
        for paper, places in zip(papers, asked, strict=True):
            taught = frozenset().union(*self._classes[: paper.since + 1])
            fresh = places[[x[place].tobytes() not in trained for place in places]]
            kept = fresh[np.isin(label[rows[fresh]], list(taught))]
            if not len(kept):
                raise Mistake(f"Exam {paper.name} has no call: more packages, or stream.rare=1, may give it some.")
            data = Data(self._source, torch.from_numpy(kept))
            known = frozenset(np.unique(label[rows[kept]]).tolist())
            share = len(kept) / len(fresh)
            open_ = self._classes[paper.since] | known
            self._exams.append(Exam(paper.name, data, open_, paper.since, paper.until, coverage=share))

    def __len__(self) -> int:
        return len(self._lessons)

    def __getitem__(self, index: int) -> Experience:
        data = Data(self._source, torch.from_numpy(self._lessons[index]), lesson=index)
        return Experience(index, data, self._classes[index])

    def exams(self) -> Sequence[Exam]:
        return self._exams

    def syllabus(self) -> Syllabus:
        return Syllabus(
            lessons=len(self),
            classes=len(self.labels),
            shape=(self.context,),
            sizes=tuple(map(len, self._lessons)),
            shared=sum(map(len, self._classes)) > len(frozenset().union(*self._classes)),
        )

    def checksums(self) -> dict[str, str]:
        return self._read().checksums()

    def protocol(self) -> dict[str, Any]:
        code = self._read()
        return {
            "scenario": self.SCENARIO,
            "code content": code.card["content"][:12],
            "lexical tokens before a call": self.context,
            "calls an experience": self.samples,
            "calls an exam": self.exam_samples,
            "calls of a label": self.rare,
            "share of test files": self.test_share,
            "validation": self.validation,
            "exams": self.exam_on,
        }


@dataclass
class Domains(Calls):
    """Each experience teaches the calls of one domain of APIs, found in code of other packages than their own.

    Of functions that call more than one domain none is taken, so that no lesson shows another's APIs.
    """

    domains: tuple[str, ...] = ("language", "system", "numeric", "tensors", "services")
    """which, in order"""
    own: bool = False
    """true: also the calls that a package makes to itself, whose names are many and rare"""

    SCENARIO: ClassVar[str] = "API evolution, domains"

    def _plan(self, code: Code) -> tuple[list[np.ndarray], list[Paper]]:
        for name in self.domains:
            if name not in DOMAINS:
                raise unknown("domain of APIs", name, DOMAINS)
        if not self.domains or len(set(self.domains)) < len(self.domains):
            raise Mistake("stream.domains must list one or more domains, each once.")
        function, domain = code.sites[:, 0], domains_of(code)
        single = np.zeros((len(code.train), len(DOMAINS)), bool)
        single[function[domain >= 0], domain[domain >= 0]] = True
        alone = (single.sum(1) == 1)[function]
        foreign = alone if self.own else alone & (code.called()[code.sites[:, 1]] != importer(code)[function])
        lessons, papers = [], []
        for number, name in enumerate(self.domains):
            here = foreign & (domain == list(DOMAINS).index(name))
            lessons.append(np.flatnonzero(here & code.train[function]))
            papers.append(Paper(name, np.flatnonzero(here & code.test[function]), number))
            if not len(lessons[-1]) or not len(papers[-1].sites):
                raise Mistake(f"The code has no calls of the domain '{name}' in both training and test files.")
        return lessons, papers

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "domains": ", ".join(self.domains), "calls of a package to itself": self.own}


def few(sites: np.ndarray, count: int | None) -> np.ndarray:
    """At most so many of the sites, in their order; fewer from among more."""
    if count is None or len(sites) <= count:
        return sites
    keys = np.random.PCG64(0).random_raw(len(sites))
    return sites[np.sort(np.argsort(keys, kind="stable")[:count])]


def domains_of(code: Code) -> np.ndarray:
    """Of each call, the number of its domain; -1: none."""
    number = {package: n for n, packages in enumerate(DOMAINS.values()) for package in packages}
    return np.array([number.get(package, -1) for package in code.called().tolist()], np.int64)[code.sites[:, 1]]


def importer(code: Code) -> np.ndarray:
    """Of each function, the package that it stands in, as it is imported."""
    tops = [file.split("/")[1].removesuffix(".py") for file in code.card["files"]]
    return np.array(tops)[code.arrays["file"]]


def contexts(code: Code, sites: np.ndarray, length: int) -> np.ndarray:
    """The lexical tokens before each callee, S x length, int32: numbers from 1 to 2^24 - 1; 0 before the function."""
    function, before = code.sites[sites, 0], code.sites[sites, 2]
    begin = code.arrays["token_at"][function]
    places = (begin + before)[:, None] + np.arange(-length, 0)
    inside = places >= begin[:, None]
    found = code.arrays["tokens"][np.where(inside, places, 0)] % (2**24 - 1) + 1
    return np.where(inside, found, 0).astype(np.int32)


DOMAIN_STREAM = Domains()
"""calls of five domains of Python APIs, one after another"""

RECIPES = {
    "api_evolution": {
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
            "clbench's own, for two cores",
        )
    }
}
