"""The online probe: each batch of the stream is an exam before it is a lesson.

Accuracy before the step is what Cai et al. 2021 (Online Continual Learning with Natural Distribution Shifts: An
Empirical Study with Visual Data, ICCV) measure learning by: nothing is held out, and nothing is answered twice. Here
the batch is seen as training sees it: augmented, with batch normalisation by the batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clbench.batch import Batch
from clbench.metric import Look, Probe, Row
from clbench.strategy import whole_stream
from clbench.stream import Experience

SEQUENCES = "an answer is a sequence of labels, which are learned all at once"
NOTHING = "no step of this experience was on samples of the stream"


@dataclass
class Online(Probe):
    """Share of the samples of an experience that the network answers before its first step on them, in the first pass
    over the experience; the best of the labels that the stream has shown so far, this batch included.

    Only samples of the experience count; what memory adds to them, or cumulative training, does not. Each experience
    has a row, whether the stream is looked at after it or not; in version 1 a row was of all since the last look.
    """

    when: ClassVar[tuple[str | int, ...]] = ("every", "epoch")
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        self.right: list[Tensor] = []
        """one count of right answers, on the device; empty: nothing was answered in this experience"""
        self.asked: list[Tensor] = []
        """likewise of answers"""
        self.shown: list[Tensor] = []
        """one mask of the labels that the stream has shown, on the device; empty: none yet"""
        self.size = 0
        """samples of the experience"""
        self.begun = self.over = False
        """whether its first pass has begun, whether it is over"""

    def begin(self, experience: Experience) -> None:
        self.size, self.begun, self.over = len(experience.train), False, False

    def watch(self, batch: Batch, logits: Tensor) -> None:
        size = len(batch.raw)
        if self.over or batch.y.ndim > 1 or (batch.index is None and len(batch.x) == size):
            return
        logits, y, self.begun = logits[:size], batch.y[:size], True
        at = torch.zeros_like(y) if batch.index is None else batch.index
        ours = (at >= 0) & (at < self.size)
        if not self.shown:
            self.shown.append(torch.zeros(logits.shape[1], dtype=torch.bool, device=y.device))
        self.shown[0].index_fill_(0, y, True)
        right = (logits.masked_fill(~self.shown[0], -torch.inf).argmax(1) == y) & ours
        self.right = [sum(self.right, right.sum())]
        self.asked = [sum(self.asked, ours.sum())]

    def __call__(self, look: Look) -> Iterable[Row]:
        if look.when == "epoch":
            self.over = self.begun
            return
        if look.step == 0:
            self.__post_init__()
            return
        if whole_stream(look.strategy):
            value, note = None, f"{type(look.strategy).__name__} learns only at the last experience"
        elif look.syllabus.places:
            value, note = None, SEQUENCES
        elif self.right:
            value, note = int(self.right[0]) / int(self.asked[0]), ""
        else:
            value, note = None, NOTHING
        yield Row(look.step, look.at, "online/accuracy", "", value, sum(map(int, self.asked)), note)
        self.right, self.asked = [], []
