"""A data set that is not written yet: labels, and what reads each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class Draft:
    """A data set that is not written yet."""

    name: str
    classes: list[str]
    fields: dict[str, list[str]]
    labels: dict[str, dict[str, np.ndarray]]
    """of each split: `y` and the fields"""
    pixels: Mapping[str, Callable[[int], np.ndarray]]
    """of each split: what reads the image of an index, uint8, H x W x C"""
    shape: tuple[int, int, int]
    source: str
    licence: str = "not stated"


def of_arrays(
    name: str,
    classes: list[str],
    fields: dict[str, list[str]],
    x: Mapping[str, np.ndarray],
    labels: dict[str, dict[str, np.ndarray]],
    resolution: int | None,
    source: str,
    licence: str = "not stated",
) -> Draft:
    """A draft from images in memory: of each split in `x`, uint8, N x H x W x C."""
    height, width, channels = x["train"].shape[1:]
    shape = (resolution or height, resolution or width, channels)
    pixels = {split: partial(_resized, images, resolution) for split, images in x.items()}
    return Draft(name, classes, fields, labels, pixels, shape, source, licence)


def _resized(images: np.ndarray, side: int | None, index: int) -> np.ndarray:
    image = images[index]
    if side is None or image.shape[:2] == (side, side):
        return image
    from PIL.Image import fromarray

    picture = fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(square(picture, side)).reshape(side, side, -1)


def square(picture: Image, side: int | None) -> Image:
    """The largest square in the middle of a picture, `side` pixels wide; None: the picture as it is."""
    if side is None or picture.size == (side, side):
        return picture
    from PIL.Image import Resampling

    (width, height), least = picture.size, min(picture.size)
    left, top = (width - least) // 2, (height - least) // 2
    middle = picture.crop((left, top, left + least, top + least))
    return middle.resize((side, side), Resampling.LANCZOS if least > side else Resampling.BICUBIC)


def seeded(share: float, seed: int) -> str:
    """What a source's name ends with where its test split was drawn."""
    return f", {100 * share:g} % of each class for test by seed {seed}"
