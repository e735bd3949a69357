"""Bodies made elsewhere: their weights, and what they expect of pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from clbench.errors import Mistake


class Normalised(nn.Module):
    """A body that takes pixels in [0, 1] and first brings them to what its weights were trained on."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - self.pixel_mean) / self.pixel_std)


def normalised(body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """The same body, normalising its input: (pixel - mean) / std for each channel, a grey image in each of them.

    It grows in place, so that the names of its modules and parameters stay; the two constants are not in its state.
    Folding them into the first layer would not do: it is exact only without padding, and changes the rate at which
    that layer learns.
    """
    kind = type(body)
    body.__class__ = type(kind.__name__, (Normalised, kind), {})
    for name, values in (("pixel_mean", mean), ("pixel_std", std)):
        body.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
    return body


def vit(side: int, patch: int, width: int, depth: int, heads: int) -> nn.Module:
    """timm's plain vision transformer for colour images, with a class token, without a classifier."""
    from clbench.vision import torchvision

    torchvision()
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(side, patch, num_classes=0, embed_dim=width, depth=depth, num_heads=heads)


def resampled(positions: Tensor, side: int) -> Tensor:
    """Position embeddings of a class token and a square of patches (1 x N x width) for `side` patches a side."""
    from clbench.vision import torchvision

    torchvision()
    from timm.layers import resample_abs_pos_embed

    return resample_abs_pos_embed(positions, [side, side], num_prefix_tokens=1)


def tensors(file: Path, digest: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file by name: of a .safetensors, or of a .pth or .pt that holds tensors alone.

    Args:
        digest: the SHA-256 that it must have; None: any

    Raises:
        Mistake: the file is not there, is another, or is no such file.
    """
    from safetensors.torch import load

    try:
        content = file.read_bytes()
    except OSError as error:
        raise Mistake(f"The weights {file} can't be read: {error.strerror}.") from None
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise Mistake(f"{file} is damaged: its SHA-256 does not begin with {digest[:12]}; install its package again.")
    try:
        if file.suffix not in (".pth", ".pt"):
            return load(content)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise Mistake(f"{file} holds no tensors by name: {' '.join(str(error).split())[:200]}") from None
    for wrapped in ("state_dict", "model"):
        found = found.get(wrapped, found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise Mistake(f"{file} holds no tensors by name.")
    return found


def origin(file: Path) -> str:
    """The data set from which the weights of a .safetensors file were learned, as `clbench pretrain` notes it; empty:
    not said."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return (opened.metadata() or {}).get("pretrained on", "")
    except (OSError, SafetensorError):
        return ""


def filled(body: nn.Module, found: dict[str, Tensor], source: str) -> nn.Module:
    """The body with these weights; what stands under `head` is left out.

    Raises:
        Mistake: names or shapes are not those of the body.
    """
    own = body.state_dict()
    found = {name: tensor for name, tensor in found.items() if not name.startswith("head.")}
    wrong = sorted(own.keys() ^ found.keys()) or [name for name in own if own[name].shape != found[name].shape]
    if wrong:
        name = wrong[0]
        there = f"{list(found[name].shape)}" if name in found else "nothing"
        wants = f"{list(own[name].shape)}" if name in own else "nothing"
        raise Mistake(f"{source} does not fit {type(body).__name__}: '{name}' is {there} there, {wants} is wanted.")
    body.load_state_dict(found)
    return body
