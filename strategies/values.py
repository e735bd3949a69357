"""Values of parameters by name: copied, and put in again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def copied(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The values that these parameters have now."""
    return {name: model.get_parameter(name).detach().clone() for name in names}


@torch.no_grad()
def put(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give parameters these values."""
    for name, value in values.items():
        model.get_parameter(name).copy_(value)
