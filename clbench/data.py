"""Samples by index: arrays loaded once, and views of them that copy nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Source:
    """Arrays that many `Data` look into."""

    x: Tensor
    """samples as they are stored, N x ...; images are uint8, N x H x W x C"""
    y: Tensor
    """labels, int64, N; or N x T, a label at each place of a sequence, -100 where none is asked for"""
    views: Tensor | None = None
    """ways of looking at an image, int64, V x H*W: which pixel stands at each place; -1: none, black"""
    _copies: dict[torch.device, Source] = field(default_factory=dict, repr=False)

    @cached_property
    def whole(self) -> bool:
        """Whether every view shows a pixel at every place."""
        return self.views is None or bool((self.views >= 0).all())

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.x.nbytes + self.y.nbytes + (0 if self.views is None else self.views.nbytes)

    def to(self, device: torch.device) -> Source:
        """The same arrays on `device`, copied there once; itself where they are there already."""
        if self.x.device == device:
            return self
        if device not in self._copies:
            views = None if self.views is None else self.views.to(device)
            self._copies[device] = Source(self.x.to(device), self.y.to(device), views)
        return self._copies[device]


class Data:
    """Labelled samples: positions in a source, and the view under which each is seen.

    `lesson` says which experience the samples belong to, so that a checkpoint can name them instead of copying them.
    """

    def __init__(
        self, source: Source, index: Tensor, *, view: int | Tensor | None = None, lesson: int | None = None
    ) -> None:
        self.source = source
        self.index = index
        self.view = view
        self.lesson = lesson

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def labels(self) -> Tensor:
        """All labels, int64, N (N x T), on the CPU."""
        return self.source.y[self.index.to(self.source.y.device)].cpu()

    @property
    def nbytes(self) -> int:
        """Bytes that keeping these samples takes: samples and labels."""
        return len(self) * sum(part[0].numel() * part.element_size() for part in (self.source.x, self.source.y))

    def to(self, device: torch.device) -> Data:
        """The same samples with source and positions on `device`; themselves where they are there already."""
        if self.index.device == device and self.source.x.device == device:
            return self
        view = self.view.to(device) if isinstance(self.view, Tensor) else self.view
        return Data(self.source.to(device), self.index.to(device), view=view, lesson=self.lesson)

    def gather(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The samples at `positions` (int64, B, each in 0 .. N-1), as they are stored: (x, y)."""
        rows = self.index.index_select(0, positions)
        x = self.source.x.index_select(0, rows)
        if self.view is not None:
            x = self._seen(x, self.view if isinstance(self.view, int) else self.view.index_select(0, positions))
        return x, self.source.y.index_select(0, rows)

    def between(self, start: int, stop: int) -> Tensor:
        """The samples `start` to `stop`-1 as they are stored, without a copy where they lie side by side."""
        if self._first is not None:
            x = self.source.x[self._first + start : self._first + stop]
        else:
            x = self.source.x.index_select(0, self.index[start:stop])
        if self.view is not None:
            x = self._seen(x, self.view if isinstance(self.view, int) else self.view[start:stop])
        return x

    @cached_property
    def _first(self) -> int | None:
        """Where the samples begin in the source, if they lie there side by side and in order."""
        first = int(self.index[0]) if len(self) else 0
        along = torch.arange(first, first + len(self), device=self.index.device)
        return first if torch.equal(self.index, along) else None

    def _seen(self, x: Tensor, view: int | Tensor) -> Tensor:
        views = self.source.views
        assert views is not None
        flat = x.flatten(1, 2)
        places = views[view].view(-1, flat.shape[1], 1)
        if self.source.whole:
            return flat.gather(1, places.expand_as(flat)).view_as(x)
        moved = flat.gather(1, places.clamp_min(0).expand_as(flat))
        return (moved * (places >= 0)).view_as(x)

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[Tensor]:
        """The positions of each batch of one pass: all samples, in a fresh random order; the last may be fewer."""
        yield from torch.from_numpy(rng.permutation(len(self))).to(self.index.device).split(size)

    def subset(self, positions: Tensor) -> Data:
        """The samples at `positions` alone."""
        view = self.view[positions] if isinstance(self.view, Tensor) else self.view
        return Data(self.source, self.index[positions], view=view)

    @property
    def classes(self) -> frozenset[int]:
        """The labels that occur."""
        labels = self.labels.unique()
        return frozenset(labels[labels >= 0].tolist())

    @staticmethod
    def concat(parts: Sequence[Data]) -> Data:
        """The samples of all parts, in order. All must look into one source.

        Raises:
            ValueError: the parts come from different sources, or some are viewed and some are not.
        """
        first = parts[0]
        if any(p.source is not first.source for p in parts):
            raise ValueError("Data of different sources can't be joined; keep them apart, or copy the samples")
        index = torch.cat([p.index for p in parts])
        if all(p.view is None for p in parts):
            return Data(first.source, index)
        if any(p.view is None for p in parts):
            raise ValueError("Viewed and plain data can't be joined")
        views = [p.view if isinstance(p.view, Tensor) else torch.full_like(p.index, p.view or 0) for p in parts]
        return Data(first.source, index, view=torch.cat(views))

    @staticmethod
    def copied(parts: Sequence[Data]) -> Data:
        """The samples of all parts, in order, in a source of their own, on the device of the first part; parts may come
        from different sources.
        """
        device = parts[0].index.device
        gathered = [part.gather(torch.arange(len(part), device=part.index.device)) for part in parts]
        x, y = (torch.cat([t.to(device) for t in tensors]) for tensors in zip(*gathered, strict=True))
        return Data(Source(x, y), torch.arange(len(y), device=device))
