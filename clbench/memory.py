"""What is kept of the past: samples as they are stored, un-augmented, and what goes with them.

Which sample goes to which slot never depends on a sample's content, so it is decided on the CPU and nothing waits for
the device. Sampling is uniform without replacement.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clbench.data import Data, Source


@dataclass
class Memory:
    """Slots for samples. Subclasses say who gets one; this one keeps the first that come.

    State: `x` (size x ..., as stored), `y` (int64), `kept` (further tensors by name, one row a slot), `filled`, `seen`.
    """

    size: int
    """how many samples"""

    def __post_init__(self) -> None:
        self.x: Tensor | None = None
        self.y: Tensor | None = None
        self.kept: dict[str, Tensor] = {}
        self.filled = 0
        self.seen = 0

    def __len__(self) -> int:
        return self.filled

    @property
    def nbytes(self) -> int:
        """Bytes that the filled slots take, with labels and what goes with them."""
        held = [t for t in (self.x, self.y, *self.kept.values()) if t is not None]
        return sum(t[: self.filled].numel() * t.element_size() for t in held)

    def data(self) -> Data:
        """The samples in the filled slots, in their order. Not for an empty one."""
        assert self.x is not None
        assert self.y is not None
        kept = Source(self.x[: self.filled], self.y[: self.filled])
        return Data(kept, torch.arange(self.filled, device=self.x.device))

    def beside(self, lesson: Data) -> Data:
        """A lesson and the samples in the filled slots as one; the lesson itself where there are none."""
        return Data.copied([lesson, self.data()]) if len(self) else lesson

    def slots(self, labels: np.ndarray | None, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Decide for `count` new samples: (which of them are kept, the slot that each of those gets)."""
        free = min(count, self.size - self.filled)
        return np.arange(free), self.filled + np.arange(free)

    def add(self, x: Tensor, y: Tensor, rng: np.random.Generator, **kept: Tensor) -> None:
        """Offer a batch: samples as stored (B x ...), labels (B), and rows of further tensors, by name."""
        chosen, slots = self.slots(None, len(y), rng)
        self._store(chosen, slots, x, y, kept)
        self.seen += len(y)

    def _store(self, chosen: np.ndarray, slots: np.ndarray, x: Tensor, y: Tensor, kept: dict[str, Tensor]) -> None:
        if not len(chosen):
            return
        if self.x is None or self.y is None:
            self.x = x.new_zeros((self.size, *x.shape[1:]))
            self.y = y.new_zeros((self.size, *y.shape[1:]))
            self.kept = {name: t.new_zeros((self.size, *t.shape[1:])) for name, t in kept.items()}
        rows = torch.from_numpy(chosen).to(x.device, non_blocking=True)
        places = torch.from_numpy(slots).to(x.device, non_blocking=True)
        self.x.index_copy_(0, places, x.index_select(0, rows))
        self.y.index_copy_(0, places, y.index_select(0, rows))
        for name, tensor in kept.items():
            self.kept[name].index_copy_(0, places, tensor.index_select(0, rows))
        self.filled = max(self.filled, int(slots.max()) + 1)

    def delete(self, labels: Collection[int]) -> None:
        """Let go of all samples with these labels, for good; what is left counts as all that was seen."""
        if self.x is None or self.y is None or not self.filled:
            return
        gone = torch.isin(self.y[: self.filled], torch.tensor(sorted(labels), device=self.y.device))
        stays = (~gone).nonzero()[:, 0]
        for tensor in (self.x, self.y, *self.kept.values()):
            left = tensor.index_select(0, stays)
            tensor.zero_()
            tensor[: len(left)] = left
        self.filled = self.seen = len(stays)

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """min(count, filled) different samples, uniformly: (x as stored, y, what goes with them). Not for an empty
        one."""
        assert self.x is not None
        assert self.y is not None
        drawn = rng.choice(self.filled, min(count, self.filled), replace=False)
        places = torch.from_numpy(drawn).to(self.x.device, non_blocking=True)
        return (
            self.x.index_select(0, places),
            self.y.index_select(0, places),
            {name: tensor.index_select(0, places) for name, tensor in self.kept.items()},
        )


@dataclass
class Reservoir(Memory):
    """Every sample seen so far is in memory with the same probability (Vitter 1985, algorithm R).

    Sample number s (from 0) takes slot s while there is room, then slot j ~ U{0 .. s} where j < size.
    """

    def slots(self, labels: np.ndarray | None, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        number = self.seen + np.arange(count)
        slots = np.where(number < self.size, number, rng.integers(0, number + 1))
        chosen = np.flatnonzero(slots < self.size)
        if not len(chosen):
            return chosen, chosen
        # Where two of one batch get one slot, the later one stays, as if they had come one by one.
        slots, last = np.unique(slots[chosen][::-1], return_index=True)
        return chosen[::-1][last], slots


@dataclass
class GreedyBalanced(Memory):
    """Greedy class-balanced sampling (Prabhu, Torr, Dokania 2020, GDumb, algorithm 1).

    A sample is taken while its class holds fewer than size / classes seen; when memory is full, a random sample of the
    largest class gives way. Needs the labels on the CPU: `add` waits for them where they are on a device.
    """

    def add(self, x: Tensor, y: Tensor, rng: np.random.Generator, **kept: Tensor) -> None:
        chosen, slots = self.slots(y.cpu().numpy(), len(y), rng)
        self._store(chosen, slots, x, y, kept)
        self.seen += len(y)

    def slots(self, labels: np.ndarray | None, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        assert labels is not None
        held = np.empty(0, np.int64) if self.y is None else self.y[: self.filled].cpu().numpy()
        owner = np.full(self.size, -1)
        owner[: self.filled] = held
        counts = np.bincount(held, minlength=int(labels.max(initial=0)) + 1)
        where = np.full(self.size, -1)
        position, filled = 0, self.filled
        while position < count:
            known = max(int(np.count_nonzero(counts)), 1)
            wanted = np.flatnonzero(counts[labels[position:]] < self.size / known)
            if not len(wanted):
                break
            position += int(wanted[0])
            label = labels[position]
            if filled < self.size:
                slot, filled = filled, filled + 1
            else:
                largest = int(counts.argmax())
                slot = int(rng.choice(np.flatnonzero(owner == largest)))
                counts[largest] -= 1
            owner[slot], where[slot] = label, position
            counts[label] += 1
            position += 1
        slots = np.flatnonzero(where >= 0)
        return where[slots], slots


@dataclass
class Exemplars(Memory):
    """So many samples of each class at most, the most wanted first; `take` is its `add`."""

    def take(self, x: Tensor, y: Tensor, share: int, rng: np.random.Generator | None = None) -> None:
        """Keep `share` samples of each class at most, of these (as stored, B x ...; labels, B; the most wanted first)
        and of those held. New ones come before those held of their class, of which the last give way; with `rng`,
        random ones. Needs the labels on the CPU, once a call.
        """
        if self.filled:
            assert self.x is not None
            assert self.y is not None
            held = np.arange(self.filled) if rng is None else rng.permutation(self.filled)
            places = torch.from_numpy(held).to(self.x.device)
            x, y = torch.cat([x, self.x[places]]), torch.cat([y, self.y[places]])
        labels = y.cpu().numpy()
        kept = np.concatenate([np.flatnonzero(labels == label)[:share] for label in np.unique(labels)])
        self.filled = 0
        self._store(kept, np.arange(len(kept)), x, y, {})
        self.seen += len(y)


def herding(features: Tensor, count: int) -> Tensor:
    """Positions of `count` samples of one class (all, where there are fewer), given their features, N x features.

    In the order in which they are chosen: each is the one with which the mean of those chosen so far comes nearest to
    the mean of all (Welling 2009; Rebuffi et al. 2017, iCaRL, algorithm 4).
    """
    mean, total = features.mean(0), torch.zeros_like(features[0])
    taken, chosen = features.new_zeros(len(features)), []
    for number in range(1, min(count, len(features)) + 1):
        distances = (features + (total - number * mean)).square().sum(1)
        place = (distances + taken).argmin().view(1)
        total = total + features.index_select(0, place)[0]
        taken.index_fill_(0, place, torch.inf)
        chosen.append(place)
    return torch.cat(chosen)
