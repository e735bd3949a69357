"""How to learn from a stream."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from clbench.errors import Mistake

if TYPE_CHECKING:
    from clbench.batch import Batch
    from clbench.learner import Learner, Model
    from clbench.memory import Memory
    from clbench.optimizer import Optimizer
    from clbench.stream import Experience, Stream, Syllabus

Loss = Callable[["Learner", "Batch"], Any]
"""of a batch: a value, or (value, what to keep)"""
Adjust = Callable[["Learner"], None]
"""what happens to the gradients before a step"""


@dataclass
class Strategy:
    """How to learn from a stream. Override what differs; the defaults fine-tune.

    A run calls `start`, `learn` and `predict`; `learn` calls `batches`, `loss` and `adjust`. Fields are
    hyper-parameters and nothing else: state is what `start` creates, and whatever passes from one loop over
    `learner.passes()` to the next lives on `self`, so that a checkpoint can hold it.
    """

    version: ClassVar[int] = 1
    """raised when the same options learn something else than before"""
    needs: ClassVar[frozenset[str]] = frozenset()
    """what the stream or the model must offer"""
    whole_stream: ClassVar[bool] = False
    """whether it learns only at the last experience; until then its exams are undefined"""
    resumable: ClassVar[bool] = True
    """False: its state can't be saved, and an interrupted run starts over"""
    budgeted: ClassVar[bool] = True
    """False: how many steps it takes is its own affair, so that `budget.maf` can't set it"""
    chooses: ClassVar[bool] = False
    """whether it says itself which weights train, so that nothing around it may"""
    narrows: ClassVar[bool] = False
    """whether it lets a part train of what its base trains, which then is not for the innermost one to choose"""
    holds: ClassVar[bool] = False
    """whether it draws weights to values that they had, or mixes them with these"""
    remakes: ClassVar[bool] = False
    """whether an experience may begin with other weights than the last one left, which none may hold where they were"""
    fits: ClassVar[bool] = True
    """False: weights move elsewhere than in `Learner.fit`, so nothing can be put around it"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        """Once, before the first experience: make memories, attach adapters."""

    def learn(self, learner: Learner, experience: Experience) -> None:
        """One experience: what follows is the ordinary loop over epochs."""
        for _ in learner.passes():
            learner.fit(self.batches(learner, experience), self.loss, self.adjust)

    def batches(self, learner: Learner, experience: Experience) -> Generator[Batch, Any, None]:
        """The batches of one epoch. What `loss` kept of a batch comes back: `kept = yield batch`, after its step."""
        yield from learner.batches(experience.train)

    def loss(self, learner: Learner, batch: Batch) -> Tensor | tuple[Tensor, Any]:
        """The loss of a batch, or (loss, what to send back to `batches`). A function of the learner and the batch."""
        return learner.criterion(learner(batch.x), batch.y)

    def adjust(self, learner: Learner) -> None:
        """Between backward and the optimiser's step: project or mask gradients."""

    def settle(self, learner: Learner) -> None:
        """Make anew what answers need beside the weights: something around this strategy moved them after `learn`."""

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Logits, B x classes, for network input `x`. Changes nothing; called in evaluation mode, without gradients."""
        return learner(x)


@dataclass
class Around(Strategy):
    """A strategy around another: what it does not override is the base's.

    Weights move only in `learner.fit`. Within `learner.within(self)`, `fit` passes each of its arguments through
    `around_batches`, `around_loss`, `around_adjust` and `around_optimizer`, of the innermost wrapper first, and
    `passes` what it counts through `around_passes`; whatever an outer strategy does to its base's training, it does
    there.
    """

    base: Strategy = field(default_factory=Strategy)
    """the strategy that it is put around"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        self.base.start(learner, syllabus)

    def learn(self, learner: Learner, experience: Experience) -> None:
        with learner.within(self):
            self.base.learn(learner, experience)

    def settle(self, learner: Learner) -> None:
        self.base.settle(learner)

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        return self.base.predict(learner, x)

    def around_batches(self, learner: Learner, batches: Generator[Batch, Any, None]) -> Generator[Batch, Any, None]:
        """What the base trains on, as this strategy gives it. `kept = yield batch` hands on what the loss kept."""
        return batches

    def around_loss(self, learner: Learner, loss: Loss) -> Loss:
        """What the base minimises, likewise."""
        return loss

    def around_adjust(self, learner: Learner, adjust: Adjust | None) -> Adjust | None:
        """What happens to the gradients, likewise."""
        return adjust

    def around_optimizer(self, learner: Learner, optimizer: Optimizer) -> Optimizer:
        """Who steps, likewise."""
        return optimizer

    def around_passes(self, learner: Learner, passes: Iterator[int]) -> Iterator[int]:
        """The epochs of a loop, likewise."""
        return passes


def layers(strategy: Strategy) -> Iterator[Strategy]:
    """A strategy and those that it is put around, inwards."""
    yield strategy
    if isinstance(strategy, Around):
        yield from layers(strategy.base)


def needs(strategy: Strategy) -> frozenset[str]:
    """What the stream or the model must offer to a strategy and to those that it is put around."""
    return frozenset().union(*(layer.needs for layer in layers(strategy)))


def lacking(needed: frozenset[str], stream: Stream, model: Model) -> list[str]:
    """What of that neither offers."""
    return sorted(needed - stream.offers - getattr(model, "offers", frozenset()))


def whole_stream(strategy: Strategy) -> bool:
    """Whether a strategy, or one that it is put around, learns only at the last experience."""
    return any(layer.whole_stream for layer in layers(strategy))


def resumable(strategy: Strategy) -> bool:
    """Whether the state of a strategy and of those that it is put around can be saved."""
    return all(layer.resumable for layer in layers(strategy))


def check(strategy: Strategy) -> None:
    """Whether what stands around a strategy can act on it.

    Raises:
        Mistake: it acts in `Learner.fit`, which the strategy never calls; both say which weights train; or one holds
            weights that the other makes anew.
    """
    for layer in layers(strategy):
        if isinstance(layer, Around) and not layer.base.fits:
            around, base = type(layer).__name__, type(layer.base).__name__
            raise Mistake(f"{around} can't be put around {base}: it acts in Learner.fit, which {base} never calls.")
    choosing = [layer for layer in layers(strategy) if layer.chooses]
    if choosing and not isinstance(choosing[-1], Around):
        choosing = [layer for layer in layers(strategy) if layer.narrows] + choosing
    if len(choosing) > 1:
        around, base = type(choosing[0]).__name__, type(choosing[-1]).__name__
        raise Mistake(f"{around} around {base}: each says alone what trains; choose one of them.")
    for anew in (layer for layer in layers(strategy) if layer.remakes):
        for held in (layer for layer in layers(strategy) if layer.holds and layer is not anew):
            one, other = type(anew).__name__, type(held).__name__
            raise Mistake(
                f"{one} with {other}: {one} begins an experience with weights of its own, and {other} holds them where "
                "they were; choose one of them."
            )


def having(strategy: Strategy, attribute: str) -> Any:
    """A strategy, or the first of those that it is put around, that has this attribute; None: none has."""
    return next((layer for layer in layers(strategy) if hasattr(layer, attribute)), None)


def memory_of(strategy: Strategy) -> Memory | None:
    """The memory of a strategy, or of the first that has one of those that it is put around; None: there is none."""
    return getattr(having(strategy, "memory"), "memory", None)
