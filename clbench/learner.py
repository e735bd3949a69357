"""The model that is being taught, and the loop that teaches it."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from clbench.batch import Batch, following
from clbench.data import Data
from clbench.errors import Mistake
from clbench.flops import Flops
from clbench.looks import Looks
from clbench.loss_mask import Competing, LossMask
from clbench.memory import Memory
from clbench.modules import only, resting
from clbench.optimizer import Optimizer, constant, cosine, multistep
from clbench.seeds import derive
from clbench.strategy import Adjust, Around, Loss, check
from clbench.stream import Experience, Syllabus
from clbench.transform import Transform
from clbench.types import Count, NonNegative, Positive, Share


class Model(Protocol):
    """An entry of the models' catalogue."""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module: ...


@runtime_checkable
class Reader(Model, Protocol):
    """A model that reads: its answers are by the names of the labels, and it may learn them from a pool of samples."""

    def read(self, net: nn.Module, syllabus: Syllabus, pool: Data | None, transform: Transform, loss: Callable) -> None:
        """Tell the network that `build` made what the labels are called, and teach it the stream's pool, if any."""


class Diverged(Exception):
    """Something that is not finite, at optimiser step `step` (from 1)."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} at step {step}")
        self.step = step


@dataclass
class Learner:
    """Model, optimiser settings, device, step count, and the loop. It knows of no experience but the current one."""

    epochs: Count = 1
    """passes over each experience"""
    batch: Count = 32
    """samples of the stream in a step"""
    replay_batch: Count | None = None
    """samples that a replay method draws from memory in a step; null: as many as `batch`"""
    lr: Positive = 0.1
    """rate at the first step of an experience"""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """who steps; all in their fused forms"""
    momentum: Share = 0.0
    """of sgd"""
    weight_decay: NonNegative = 0.0
    """of every parameter"""
    schedule: Literal["constant", "multistep", "cosine"] = "constant"
    """how the rate goes over an experience"""
    milestones: tuple[Positive, ...] = ()
    """multistep: after how many epochs the rate falls"""
    gamma: Positive = 0.1
    """multistep: the factor by which it falls"""
    clip: Positive | None = None
    """largest norm of the gradient; null: not clipped"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: forward passes under autocast"""
    keep_optimizer: bool = False
    """true: one optimiser for the whole stream; false: made anew at each experience"""
    loss_mask: Competing = "all"
    """labels that the loss lets compete: all; those taught so far; experience: those taught together with the sample's
    own, which is training with task identities where experiences share no class; batch: those present in the batch
    (SCoLe's masking)"""
    eval_batch: Count = 128
    """samples of an exam answered at once"""
    threads: Count = 2
    """of the CPU; a fixed number, since other numbers give other bits"""
    device: str = "auto"
    """auto: a GPU where there is one, else the CPU"""

    def open(
        self,
        model: Model,
        syllabus: Syllabus,
        transform: Transform,
        criterion: Callable,
        seed: int,
        pool: Data | None = None,
    ) -> None:
        """Make the model. Once, before anything below.

        Args:
            pool: what models that read may be pretrained on

        Raises:
            Mistake: the device is not there.
        """
        self.where = self._device()
        torch.set_num_threads(self.threads)
        torch.backends.cudnn.deterministic = True
        self.seed, self.step, self.seconds, self.trained = seed, 0, 0.0, 0
        self.flops = Flops()
        self.last_loss = float("nan")
        self._transform, self._criterion = transform, criterion
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "init"))
            self.model = model.build(syllabus.shape, syllabus.classes)
            if isinstance(model, Reader):
                model.read(self.model, syllabus, pool, transform, criterion)
        self._shape, self._places = syllabus.shape, syllabus.places
        self.model.to(self.where).eval()
        self.optim: Optimizer | None = None
        self._mask = LossMask(self.loss_mask, syllabus.classes, self.where)
        self._stack: list[Around] = []
        self._still: list[nn.Module] = []
        self._unchecked: list[tuple[int, Tensor]] = []
        self._lasts: int | None = None
        self._calls = 0
        self._saved: tuple[int, int, Callable[[], None]] | None = None
        self.after_epoch: Callable[[int, int], None] = lambda call, epoch: None
        self.looks = Looks()
        self.watchers: Sequence[Callable[[Batch, Tensor], None]] = ()

    def check(self) -> None:
        """Whether the options go together.

        Raises:
            Mistake: they contradict one another, or the device is not there.
        """
        self._device()
        if self.keep_optimizer and self.schedule != "constant":
            raise Mistake(
                f"learner.schedule={self.schedule} needs an optimiser made anew at each experience; "
                "learner.keep_optimizer=true keeps one. Choose learner.schedule=constant, or do not keep it."
            )
        if self.schedule == "multistep" and not self.milestones:
            raise Mistake("learner.schedule=multistep needs learner.milestones, in epochs: learner.milestones=[35,45].")

    def _device(self) -> torch.device:
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return torch.empty(0, device=auto if self.device == "auto" else self.device).device
        except (RuntimeError, AssertionError) as error:
            raise Mistake(f"learner.device={self.device}: {str(error).splitlines()[0]}") from None

    def hardware(self) -> str:
        """What computes, by name: `cpu`, or the GPU's."""
        device = self._device()
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    # What a strategy calls.

    def __call__(self, x: Tensor, model: nn.Module | None = None) -> Tensor:
        """Logits, B x classes, float32; of another model (a teacher) where one is given."""
        model = model or self.model
        if self.precision == "float32":
            return model(x)
        with torch.autocast(self.where.type, getattr(torch, self.precision)):
            return model(x).float()

    def criterion(self, output: Tensor, y: Tensor) -> Tensor:
        """The stream's loss of logits (B x classes) and labels (B), with the labels that `loss_mask` leaves open; of
        sequences, B x classes x T and B x T.

        Raises:
            Mistake: there is a mask, and labels are sequences.
        """
        return self._criterion(self._mask(output, y), y)

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers for one purpose, decided by the run's seed and the step count alone."""
        return np.random.default_rng(derive(self.seed, purpose, self.step))

    def batches(self, data: Data, size: int | None = None) -> Iterator[Batch]:
        """One pass over `data` in a fresh random order, augmented, in batches of `size` (null: `batch`).

        The last batch may be smaller.
        """
        data = self.near(data)
        augmentation = self.rng("augmentation")
        for index in data.batches(self.rng("order"), size or self.batch):
            raw, y = self.gather(data, index)
            yield Batch(self._transform(raw, augmentation), y, raw, index)

    def near(self, data: Data) -> Data:
        """`data` on the device, where it takes less than a quarter of its memory; else as it is."""
        if self.where.type == "cuda" and data.source.nbytes > torch.cuda.mem_get_info(self.where)[1] / 4:
            return data
        return data.to(self.where)

    def gather(self, data: Data, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The samples of `data` at `positions`, on the device: (x as stored, y)."""
        x, y = data.gather(positions)
        return x.to(self.where, non_blocking=True), y.to(self.where, non_blocking=True)

    def recall(self, memory: Memory, rng: np.random.Generator, count: int | None = None) -> Batch | None:
        """`count` samples of the past (null: `replay_batch`), augmented afresh; None while memory is empty."""
        if not len(memory):
            return None
        raw, y, kept = memory.sample(count or self.replay_batch or self.batch, rng)
        return Batch(self._transform(raw, rng), y, raw, kept=kept)

    def draws(self, memory: Memory, rng: np.random.Generator, steps: int, count: int | None = None) -> Iterator[Batch]:
        """`steps` batches of the past, each as `recall` gives it; none where memory is empty."""
        for _ in range(steps):
            batch = self.recall(memory, rng, count)
            if batch is None:
                return
            yield batch

    def features(self, x: Tensor) -> Tensor:
        """What the model's head is given for network input `x`: B x features, float32."""
        with torch.autocast(self.where.type, getattr(torch, self.precision), enabled=self.precision != "float32"):
            return self.model.body(x).float()  # type: ignore[operator]

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens in words, where the stream is of text."""
        return self._transform.text(tokens)

    def encode(self, raw: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        """Network input for samples as they are stored; with `rng`, augmented as in training."""
        return self._transform(raw, rng)

    def steps(self, samples: int, epochs: int | None = None) -> int:
        """Optimiser steps that so many samples take in so many epochs (null: `epochs`, or what `lasting` says)."""
        if epochs is None and self._lasts is not None:
            return self._lasts
        return -(-samples // self.batch) * (self.epochs if epochs is None else epochs)

    def new_optimizer(
        self,
        steps: int,
        lr: float | None = None,
        factor: Callable[[float], float] | None = None,
        kind: str | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        rates: Mapping[str, float] | None = None,
    ) -> Optimizer:
        """An optimiser over what trains now, for a phase of `steps` steps; what is not given is as in the fields.

        Args:
            rates: share of the rate that parameters have whose name begins so; of several the longest counts, and
                without one it is 1. `{"body.": 0.01}`: a slow body.

        Raises:
            Mistake: there are rates, and one optimiser is kept for the whole stream.
        """
        if rates:
            self.renews()
        share = [m / self.epochs for m in self.milestones]
        schedules = {"constant": constant, "cosine": cosine, "multistep": multistep(share, self.gamma)}
        chosen = schedules[self.schedule] if factor is None else factor
        return Optimizer(
            self._by_rate(rates or {}),
            kind or self.optimizer,
            self.lr if lr is None else lr,
            momentum=self.momentum if momentum is None else momentum,
            weight_decay=self.weight_decay if weight_decay is None else weight_decay,
            clip=self.clip,
            factor=None if chosen is constant else chosen,
            steps=steps,
        )

    def renews(self) -> None:
        """Say that a strategy makes an optimiser of its own for each experience.

        Raises:
            Mistake: one is to be kept for the whole stream.
        """
        if self.keep_optimizer:
            raise Mistake("This strategy makes its own optimiser at each experience: learner.keep_optimizer=false.")

    def _by_rate(self, rates: Mapping[str, float]) -> dict[float, list[nn.Parameter]]:
        """What trains, by its share of the rate."""
        found: dict[float, list[nn.Parameter]] = {1.0: []}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                fits = [stem for stem in rates if name.startswith(stem)]
                found.setdefault(rates[max(fits, key=len)] if fits else 1.0, []).append(parameter)
        return found

    def passes(self, epochs: int | None = None) -> Iterator[int]:
        """Count epochs (null: `epochs`), going on where an interrupted run stopped."""
        passes = self._passes(epochs)
        for outer in reversed(self._stack):
            passes = outer.around_passes(self, passes)
        return passes

    def _passes(self, epochs: int | None) -> Iterator[int]:
        call, first = self._calls, 0
        self._calls += 1
        if self._saved is not None:
            saved_call, saved_epoch, restore = self._saved
            if call < saved_call:
                return
            restore()
            self._saved, first = None, saved_epoch + 1
        for epoch in self._epochs(first, epochs):
            self.seed_globals("pass")
            before = self.step
            yield epoch
            if self.step == before:
                self.last_loss = float("nan")
            self.after_epoch(call, epoch)
        self.seed_globals("pass")

    def _epochs(self, first: int, epochs: int | None) -> Iterator[int]:
        if epochs is None and self._lasts is not None:
            return takewhile(lambda epoch: self.step < self.until, count(first))
        return iter(range(first, self.epochs if epochs is None else epochs))

    @contextmanager
    def lasting(self, steps: int) -> Iterator[None]:
        """In here an experience takes so many steps, in as many passes as they take, whatever `epochs` says. `until` is
        the step count at its end; who limits an experience ends its batches there.
        """
        self._lasts, self.until = steps, self.step + steps
        if not self.keep_optimizer:
            self.optim = self.new_optimizer(steps)
        assert self.optim is not None
        self.optim.begin(steps)
        try:
            yield
        finally:
            self._lasts = None

    def fit(
        self,
        batches: Iterable[Batch],
        loss: Loss,
        adjust: Adjust | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        """Train on `batches`, one step each; nothing is fetched ahead. Between two steps another `fit` may run.

        Raises:
            Diverged: a loss was not finite.
        """
        optimizer = optimizer or self.optim
        assert optimizer is not None, "fit needs an optimiser: call it within a run, or bring one"
        stream, ordinary = _generator(batches), optimizer is self.optim
        for outer in reversed(self._stack):
            stream, loss = outer.around_batches(self, stream), outer.around_loss(self, loss)
            adjust, optimizer = outer.around_adjust(self, adjust), outer.around_optimizer(self, optimizer)
        self.seed_globals("global")
        before = self.model.training
        self.train(True)
        self.trained = max(self.trained, sum(p.numel() for p in self.model.parameters() if p.requires_grad))
        trains, flops, kept = self._trains(loss), self.flops, None
        due = self.looks.next(optimizer) if ordinary else -1
        losses: list[Tensor] = []
        with self._watched() as watch:
            while (batch := following(stream, kept)) is not None:
                kind = (trains, batch.shape)
                with _KNOWN if kind in flops.table else flops.counting(kind):
                    optimizer.zero_grad()
                    value = loss(self, batch)
                    value, kept = value if isinstance(value, tuple) else (value, None)
                    value.backward()
                watch(batch)
                if adjust is not None:
                    adjust(self)
                optimizer.step()
                if isinstance(kept, Tensor):
                    kept = kept.detach()
                losses.append(value.detach())
                flops.total += flops.table[kind]
                self.step += 1
                self._unchecked.append((self.step, losses[-1]))
                if optimizer.done == due:
                    self._look(optimizer)
                    due = self.looks.next(optimizer)
        self.train(before)
        if self._unchecked:
            self._check()
        if losses:
            self.last_loss = float(torch.stack(losses).float().cpu().mean())

    def _look(self, optimizer: Optimizer) -> None:
        """Look, where that is due after the step just done."""
        if due := self.looks.due(optimizer):
            with resting(self.model):
                for count in due:
                    self.looks.look(count)

    @contextmanager
    def _watched(self) -> Iterator[Callable[[Batch], None]]:
        """What tells each of `watchers` of a step: its batch, and the logits of its first forward pass."""
        if not self.watchers:
            yield lambda batch: None
            return
        at, first = -1, torch.empty(0)

        def keep(module: nn.Module, inputs: Any, logits: Tensor) -> None:
            nonlocal at, first
            if module.training and torch.is_grad_enabled() and at != self.step:
                at, first = self.step, logits.detach()

        def tell(batch: Batch) -> None:
            for watch in self.watchers if at == self.step else ():
                watch(batch, first)

        hook = self.model.register_forward_hook(keep)
        try:
            yield tell
        finally:
            hook.remove()

    def _check(self) -> None:
        """Look at the losses of all steps since the last look, at once, those of a `fit` around this one included.

        Raises:
            Diverged: one was not finite; the first such step is named.
        """
        steps, losses = zip(*self._unchecked, strict=True)
        self._unchecked.clear()
        values = torch.stack(losses).float().cpu()
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            raise Diverged(steps[int(bad[0])], f"the loss was {float(values[bad[0]])}")

    def stepped(self, loss: Tensor) -> None:
        """What `fit` does after a step, for a loop that is not ours: count it, and look where a look is due.

        Args:
            loss: of the step that was taken with `optim`; one number.
        """
        assert self.optim is not None, "a step needs an optimiser: it is taken within a run"
        self.optim.stepped()
        self.step += 1
        self._unchecked.append((self.step, loss.detach().reshape(())))
        self._look(self.optim)

    def passed(self) -> None:
        """What `fit` does at its end, likewise.

        Raises:
            Diverged: a loss was not finite.
        """
        losses = [loss for _, loss in self._unchecked]
        if losses:
            self._check()
            self.last_loss = float(torch.stack(losses).float().cpu().mean())

    def train(self, mode: bool) -> None:
        """Training or evaluation mode, but for the modules that `only` keeps in evaluation mode."""
        self.model.train(mode)
        for module in self._still:
            module.eval()

    @contextmanager
    def within(self, outer: Around) -> Iterator[None]:
        """Each `fit` in here passes its arguments through `outer`, after those within it.

        Raises:
            Mistake: what `outer` is put around never calls `fit`.
        """
        check(outer)
        self._stack.append(outer)
        try:
            yield
        finally:
            self._stack.pop()

    @contextmanager
    def only(self, names: Collection[str]) -> Iterator[None]:
        """In here, of what trains only the parameters `names` do. Batch normalisation whose running statistics are not
        among `names` is in evaluation mode: it normalises by them and leaves them as they are.

        Raises:
            Mistake: none of the parameters trains.
        """
        before = self._still
        with only(self.model, names) as still:
            self._still = [*before, *still]
            self.train(self.model.training)
            try:
                yield
            finally:
                self._still = before
                self.train(self.model.training)

    # What it costs.

    def _trains(self, loss: Loss) -> tuple[str, str]:
        """What the cost of a step depends on beside the shapes: the loss, and which parameters train."""
        mask = "".join("01"[p.requires_grad] for p in self.model.parameters())
        return getattr(loss, "__qualname__", repr(loss)), mask

    @contextmanager
    def spending(self, what: str, shape: Sequence[int]) -> Iterator[None]:
        """Count what runs in here as training; measured the first time for each `what` and `shape`."""
        kind = (what, tuple(shape))
        with _KNOWN if kind in self.flops.table else self.flops.counting(kind):
            yield
        self.flops.total += self.flops.table[kind]

    def price(self, batch: Batch, loss: Loss) -> int:
        """Floating-point operations of a step on such a batch; of a forward pass, where nothing trains. None is done:
        weights and statistics stay.
        """
        kind = (self._trains(loss), batch.shape)
        if kind not in self.flops.table:
            with resting(self.model), self.flops.counting(kind):
                value = loss(self, batch)
                value = value[0] if isinstance(value, tuple) else value
                if value.requires_grad:
                    value.backward()
            self.model.zero_grad()
        return self.flops.table[kind]

    def plain_cost(self, samples: int) -> int:
        """Floating-point operations of fine-tuning (cross-entropy, all that trains) on so many samples for `epochs`."""
        whole, rest = divmod(samples, self.batch)
        batches = [(whole, self.batch)] * (whole > 0) + [(1, rest)] * (rest > 0)
        return self.epochs * sum(count * self.price(self.blank(size), _plain) for count, size in batches)

    def blank(self, size: int) -> Batch:
        """A batch of zeros, to ask for the price of."""
        x = torch.zeros(size, *self._shape, device=self.where)
        return Batch(x, torch.zeros(size, *self._places, dtype=torch.int64, device=self.where), x)

    def seed_globals(self, purpose: str) -> None:
        """Seed the generators that belong to nobody (torch's, numpy's, Python's), as `rng` is seeded."""
        seed = derive(self.seed, purpose, self.step)
        torch.default_generator.manual_seed(seed)
        if self.where.type == "cuda":
            torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)

    # What a run calls.

    def begin(self, experience: Experience) -> None:
        """Before an experience is learned: note its classes, make the optimiser, count `passes` from 0."""
        members = torch.tensor(sorted(experience.classes), dtype=torch.int64, device=self.where)
        self._mask.teach(members)
        steps = self.steps(len(experience.train))
        if self.optim is None or not self.keep_optimizer:
            self.optim = self.new_optimizer(steps)
        self.optim.begin(steps)
        self._calls, self._saved, self.trained = 0, None, 0
        self.seed_globals("learn")

    def end(self) -> None:
        """After an experience: let go of its optimiser, unless that is kept.

        Raises:
            Diverged: a weight is not finite.
        """
        if not self.keep_optimizer:
            self.optim = None
        finite = [parameter.isfinite().all() for parameter in self.model.parameters()]
        if finite and not torch.stack(finite).all():
            raise Diverged(self.step, "weights were not finite")

    def resume(self, call: int, epoch: int, restore: Callable[[], None]) -> None:
        """Let call number `call` of `passes` go on after `epoch`, once `restore` has put the state back."""
        self._saved = (call, epoch, restore)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optim": self.optim,
            "step": self.step,
            "seconds": self.seconds,
            "trained": self.trained,
            "flops": self.flops,
            "mask": self._mask,
            "last_loss": self.last_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; the model has been filled in place."""
        self.step, self.seconds, self.last_loss = state["step"], state["seconds"], state["last_loss"]
        self.trained = state["trained"]
        self.optim = state["optim"]


_KNOWN = nullcontext()


def _plain(learner: Learner, batch: Batch) -> Tensor:
    return learner.criterion(learner(batch.x), batch.y)


def _generator(batches: Iterable[Batch]) -> Generator[Batch, Any, None]:
    if isinstance(batches, Generator):
        return batches
    return (batch for batch in batches)
