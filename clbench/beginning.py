"""The beginning of a stream: what `first=N` leaves of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from clbench.data import Data
from clbench.errors import Mistake
from clbench.stream import Exam, Experience, Stream, Syllabus
from clbench.transform import Transform


@dataclass
class Beginning(Stream):
    """The first lessons of a stream: what comes later is neither taught nor asked."""

    whole: Stream
    lessons: int
    """how many"""

    def __post_init__(self) -> None:
        self.version, self.offers = self.whole.version, self.whole.offers  # type: ignore[misc]
        self.criterion = self.whole.criterion  # type: ignore[method-assign]

    def open(self, seed: int) -> None:
        self.whole.open(seed)
        if self.lessons >= (there := len(self.whole)):
            raise Mistake(f"first={self.lessons} leaves nothing out: the stream has {there} experiences.")

    def __len__(self) -> int:
        return self.lessons

    def __getitem__(self, index: int) -> Experience:
        return self.whole[index]

    def exams(self) -> Sequence[Exam]:
        return [exam for exam in self.whole.exams() if exam.since is None or exam.since < self.lessons]

    def syllabus(self) -> Syllabus:
        whole = self.whole.syllabus()
        return replace(whole, lessons=self.lessons, sizes=whole.sizes[: self.lessons])

    def pool(self) -> Data | None:
        return self.whole.pool()

    def looks(self, step: int) -> bool:
        return self.whole.looks(step)

    def checksums(self) -> dict[str, str]:
        return self.whole.checksums()

    def protocol(self) -> dict[str, Any]:
        return {**self.whole.protocol(), "first experiences": self.lessons}

    def transform(self) -> Transform:
        return self.whole.transform()
