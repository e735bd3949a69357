"""An optimiser with its schedule and clipping: what one training phase steps with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, lr, momentum, decay: torch.optim.SGD(p, lr, momentum=momentum, weight_decay=decay, fused=True),
    "adam": lambda p, lr, momentum, decay: torch.optim.Adam(p, lr, weight_decay=decay, fused=True),
    "adamw": lambda p, lr, momentum, decay: torch.optim.AdamW(p, lr, weight_decay=decay, fused=True),
}


def constant(progress: float) -> float:
    """The factor of the rate when the share `progress` of the steps is done: always 1."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, eq. 5, one period)."""
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def multistep(milestones: Sequence[float], gamma: float) -> Callable[[float], float]:
    """Times `gamma` at each milestone, given as shares of the steps."""
    return lambda progress: gamma ** sum(progress >= m - 1e-9 for m in milestones)


class Optimizer:
    """Steps parameters. `factor` maps the share of steps done to a factor of the rate; None: the rate is constant.

    Parameters come in a row, or by the share of the rate that they have.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Mapping[float, Sequence[nn.Parameter]],
        kind: str,
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float | None = None,
        factor: Callable[[float], float] | None = None,
        steps: int = 1,
    ) -> None:
        groups = parameters if isinstance(parameters, Mapping) else {1.0: list(parameters)}
        self.parameters = [parameter for group in groups.values() for parameter in group]
        self.shares = list(groups)
        self.torch = KINDS[kind](
            [{"params": group, "lr": share * lr} for share, group in groups.items()], lr, momentum, weight_decay
        )
        self.lr, self.clip, self.factor, self.steps = lr, clip, factor, steps
        self.has_momentum = kind == "sgd" and momentum > 0
        self.done = self.first = 0
        if factor is not None:
            self._set_rate()

    def begin(self, steps: int) -> None:
        """From here on it is a phase of `steps` steps."""
        self.first, self.steps = self.done, steps

    def follow(self, factor: Callable[[float], float]) -> None:
        """From here on the rate goes by this factor of the share of steps done."""
        self.factor = factor
        self._set_rate()

    def zero_grad(self) -> None:
        self.torch.zero_grad()

    def step(self, move: Callable[[], Any] | None = None) -> None:
        """One step: clip the gradients' norm, move the parameters (by `move`, where it is given), set the next step's
        rate.
        """
        self.prepare()
        (move or self.torch.step)()
        self.stepped()

    def prepare(self) -> None:
        """Before the parameters move: clip the gradients' norm, give momentum to what begins to train."""
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if self.has_momentum and 0 < len(self.torch.state) < len(self.parameters):
            self._begin_momenta()

    def stepped(self) -> None:
        """A step is done: set the next one's rate."""
        self.done += 1
        if self.factor is not None:
            self._set_rate()

    def _begin_momenta(self) -> None:
        """Momenta of 0 for what trains and has none yet: torch's fused form takes all parameters with one, or none."""
        for parameter in self.parameters:
            if parameter.grad is not None and parameter not in self.torch.state:
                self.torch.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def _set_rate(self) -> None:
        assert self.factor is not None
        rate = self.lr * self.factor(self.done / self.steps)
        for group, share in zip(self.torch.param_groups, self.shares, strict=True):
            group["lr"] = share * rate

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "first": self.first, "steps": self.steps, "torch": self.torch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.torch.load_state_dict(state["torch"])
        self.done, self.first, self.steps = state["done"], state["first"], state["steps"]
        if self.factor is not None:
            self._set_rate()


class Outer(Optimizer):
    """Another optimiser: what is not overridden is its own."""

    def __init__(self, other: Optimizer) -> None:
        self.other = other

    def __getattr__(self, name: str) -> Any:
        return getattr(self.other, name)

    def begin(self, steps: int) -> None:
        self.other.begin(steps)

    def follow(self, factor: Callable[[float], float]) -> None:
        self.other.follow(factor)

    def stepped(self) -> None:
        self.other.stepped()


class Followed(Outer):
    """Another optimiser, each step of which `act` follows: it puts back what must not have moved, say."""

    def __init__(self, other: Optimizer, act: Callable[[], None]) -> None:
        super().__init__(other)
        self.act = act

    def step(self, move: Callable[[], Any] | None = None) -> None:
        self.other.step(move)
        self.act()


class Moved(Outer):
    """Another optimiser, whose parameters are moved by `move` in place of its own rule."""

    def __init__(self, other: Optimizer, move: Callable[[], Any]) -> None:
        super().__init__(other)
        self.move = move

    def step(self, move: Callable[[], Any] | None = None) -> None:
        self.other.step(move or self.move)
