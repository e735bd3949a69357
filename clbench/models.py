"""Models by name. Each has a `body`, from input to a feature vector (N x F), and a `head`, a linear layer over classes.

A spec's fields are the model's options; `build` makes the model, with weights drawn from torch's global generator. The
modules' names are what drift plots and `only` show: `body.fc1`, `body.stage1.0.conv1`, `head`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, ClassVar

from clbench.errors import Mistake
from clbench.types import Count, Natural

if TYPE_CHECKING:
    from torch import nn

CATALOGUE: dict[str, object] = {
    "mlp": "clbench.models:MLP",
    "cnn": "clbench.models:CNN",
    "convbn": "clbench.models:ConvBN",
    "resnet18": "clbench.models:ResNet18",
    "resnet20": "clbench.models:ResNet20",
    "dual": "clbench.dual:Dual",
    "srm": "clbench.srm:SRM",
    "vit": "clbench.models:ViT",
    "vit_t6": "clbench.pretrained:ViTT6",
    "gpt": "clbench.code_models:GPT",
    "hashed_context": "clbench.code_models:HashedContext",
    "huggingface": "clbench.code_models:HuggingFace",
    "lite0": "clbench.pretrained:Lite0",
    "open_clip": "clbench.clip:OpenClip",
    "timm": "clbench.pretrained:Timm",
}


def with_head(body: nn.Module, features: int, classes: int) -> nn.Sequential:
    """The body and a linear layer on its features, drawn as torch draws linear layers."""
    from torch import nn

    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(features, classes)))


def image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of an input."""
    if len(shape) != 3:
        raise Mistake(f"This model takes images (channels x height x width); the stream's samples are {by(shape)}.")
    return shape[0], shape[1], shape[2]


def by(shape: tuple[int, ...]) -> str:
    """A shape in a reader's words: 3 x 32 x 32."""
    return " x ".join(map(str, shape))


@dataclass
class MLP:
    """Fully connected layers with ReLU, on the flattened input.

    With two layers of 100 it is the network that Buzzega et al. (2020, Dark Experience for General Continual Learning,
    NeurIPS) train on MNIST. Weights are Xavier uniform with gain 1 (Glorot & Bengio 2010), biases zero, the head's too.
    """

    hidden: Count = 100
    """units in each hidden layer"""
    depth: Natural = 2
    """hidden layers; 0: a linear classifier"""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for inputs of any `shape` (without the batch)."""
        from torch import nn

        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        inputs = prod(shape)
        for i in range(1, self.depth + 1):
            layers[f"fc{i}"], layers[f"relu{i}"] = nn.Linear(inputs, self.hidden), nn.ReLU()
            inputs = self.hidden
        net = with_head(nn.Sequential(layers), inputs, classes)
        for module in net.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        return net


@dataclass
class CNN:
    """The small convolutional network of Lesort et al. (2023, SCoLe, CoLLAs): two 5 x 5 convolutions, 50 features.

    Neither padded nor normalised; made for 28 x 28. Weights are drawn as torch draws them by default.
    """

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for images of `shape` (C, H, W).

        Raises:
            Mistake: they are smaller than 16 x 16.
        """
        from torch import nn

        from clbench.layout import Innermost

        channels, height, width = image(shape)
        if min(height, width) < 16:
            raise Mistake(
                f"model=cnn needs images of at least 16 x 16, not {height} x {width}; model=convbn takes any."
            )
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
        body = OrderedDict(
            conv1=Innermost(channels, 10, 5),
            pool1=nn.MaxPool2d(2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(10, 20, 5),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(20 * rows * columns, 50),
            relu3=nn.ReLU(),
        )
        return with_head(nn.Sequential(body), 50, classes)


@dataclass
class ConvBN:
    """Three 3 x 3 convolutions of stride 2, each with batch normalisation and ReLU: the house recipe's network.

    A design of this project's, made for speed on a CPU: two cores train it at 4,000 images a second. Features are the
    last map, averaged down to at most 4 x 4 positions and flattened, not to its mean: with 32 filters, three epochs of
    all of CIFAR-100 gave a test accuracy of 42.5 %, against 30.0 % (one seed). Convolutions start as Kaiming normal
    (He et al. 2015).
    """

    width: Count = 24
    """filters of the first convolution; the second has twice, the third four times as many"""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for images of `shape` (C, H, W), of any size."""
        from torch import nn

        from clbench.resnet import convolution, kaiming

        channels, *sides = image(shape)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, filters in enumerate((self.width, 2 * self.width, 4 * self.width), start=1):
            layers[f"conv{i}"] = convolution(channels, filters, stride=2)
            layers[f"bn{i}"], layers[f"relu{i}"] = nn.BatchNorm2d(filters), nn.ReLU()
            channels = filters
        height, width = (ceil(side / 8) for side in sides)
        window = ceil(height / 4), ceil(width / 4)
        layers["pool"], layers["flatten"] = nn.AvgPool2d(window), nn.Flatten()
        kaiming(body := nn.Sequential(layers))
        return with_head(body, channels * (height // window[0]) * (width // window[1]), classes)


@dataclass
class ResNet18:
    """ResNet-18 (He et al. 2016) for small images: a 3 x 3 stem without max-pooling, four stages of two blocks.

    The network of Buzzega et al. (2020) on CIFAR and Tiny-ImageNet. Shortcuts that change shape are 1 x 1 convolutions.
    """

    width: Count = 64
    """filters of the stem and of the first stage; doubled at each further stage"""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for images of `shape` (C, H, W), of any size."""
        from clbench.resnet import resnet

        body = resnet(image(shape)[0], blocks=(2, 2, 2, 2), width=self.width, projection=True)
        return with_head(body, 8 * self.width, classes)


@dataclass
class ResNet20:
    """ResNet-20 of He et al. (2016, section 4.2), made for CIFAR: three stages of three blocks.

    Shortcuts that change shape are padded with zeros (their option A) and have no parameters.
    """

    width: Count = 16
    """filters of the stem and of the first stage; doubled at each further stage"""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for images of `shape` (C, H, W), of any size."""
        from clbench.resnet import resnet

        body = resnet(image(shape)[0], blocks=(3, 3, 3), width=self.width, projection=False)
        return with_head(body, 4 * self.width, classes)


@dataclass
class ViT:
    """A plain vision transformer (Dosovitskiy et al. 2021, ICLR) for small images, made of timm's blocks.

    Features are the normalised patches, averaged, as in Beyer et al. (2022, Better plain ViT baselines for
    ImageNet-1k): there is no class token. Positions are learned; there is no dropout. Weights are Xavier uniform,
    biases zero, positions normal with deviation 0.5: with the usual 0.02, ten epochs of all digits (patch 2, rate 0.03)
    gave a test accuracy of 80.0 %, against 94.6 % (one seed).
    """

    offers: ClassVar[frozenset[str]] = frozenset({"transformer"})

    patch: Count = 4
    """pixels a side of a patch; must divide the images"""
    width: Count = 96
    """numbers for each patch, from the first block to the last; a multiple of `heads`"""
    depth: Count = 6
    """blocks"""
    heads: Count = 3
    """of each block's attention"""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for images of `shape` (C, H, W) whose sides are multiples of `patch`.

        Raises:
            Mistake: they are not, or `heads` does not divide `width`.
        """
        channels, height, width = image(shape)
        if height % self.patch or width % self.patch:
            fit = ", ".join(
                str(side) for side in range(1, min(height, width) + 1) if not (height % side or width % side)
            )
            raise Mistake(
                f"model.patch={self.patch} does not divide images of {height} x {width}; patches that do: {fit}."
            )
        if self.width % self.heads:
            raise Mistake(f"model.width={self.width} must be a multiple of model.heads={self.heads}.")
        from clbench.vision import torchvision

        torchvision()
        from timm.models.vision_transformer import VisionTransformer
        from torch import nn

        body = VisionTransformer(
            (height, width),
            self.patch,
            channels,
            num_classes=0,
            global_pool="avg",
            fc_norm=False,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            class_token=False,
        )
        net = with_head(body, self.width, classes)
        for name, parameter in net.named_parameters():
            if name == "body.pos_embed":
                nn.init.normal_(parameter, std=0.5)
            elif parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter.flatten(1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        return net
