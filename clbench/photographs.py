"""Photographs to forge: those that come with installed packages, or a folder or data set of yours.

Nothing is imported from the packages, only their files are read: scikit-learn's and matplotlib's are always there,
scikit-image's eight make the choice wide enough to publish with (`pip install "clbench[forgery]"`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clbench.datasets import open_dataset
from clbench.errors import Mistake, unknown

PACKAGED = {
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
    "matplotlib/mpl-data/sample_data": ("grace_hopper.jpg",),
    "skimage/data": (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
}
"""photographs in colour, one of each scene, by the folder of the package that they come with"""
NEAR = 6
"""bits in which the perceptual hashes of one photograph may differ"""
SMOOTH = 0.03
"""windows with less deviation than this are sky: they show nothing of what was done to them"""


class Photograph(NamedTuple):
    """One photograph, or what is known to be of the same scene or person as another."""

    name: str
    pixels: np.ndarray
    """uint8, H x W x 3"""
    group: int
    """photographs of one group are never divided between training and test"""


@cache
def packaged() -> tuple[Photograph, ...]:
    """The photographs of installed packages."""
    from PIL import Image

    found: list[Photograph] = []
    for place, files in PACKAGED.items():
        package, _, inner = place.partition("/")
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for file in files:
            path = Path(spec.origin).parent / inner / file
            if path.exists():
                with Image.open(path) as picture:
                    found.append(Photograph(path.stem, np.asarray(picture.convert("RGB")), len(found)))
    return tuple(found)


@cache
def of_data(data: str, classes: tuple[str, ...], apart: str | None) -> tuple[Photograph, ...]:
    """Each image of a data set as a photograph, both splits together.

    Args:
        data: a name or a path, as `open_dataset` takes it
        classes: names of classes, of which alone images are taken; none: all
        apart: a field that tells persons or scenes apart; None: perceptual hashes do

    Raises:
        Mistake: it is not there, has no such class or field, or holds features.
    """
    dataset = open_dataset(data)
    if dataset.features:
        raise Mistake(f"{dataset.name} holds features; forgeries are made of images.")
    for name in classes:
        if name not in dataset.classes:
            raise unknown(f"class of {dataset.name}", name, dataset.classes)
    first = next(iter(dataset.splits.values()))
    if apart is not None and (apart not in first or apart == "x"):
        raise unknown(f"field of {dataset.name}", apart, [field for field in first if field != "x"])
    x, y = (np.concatenate([split[field] for split in dataset.splits.values()]) for field in ("x", "y"))
    taken = np.isin(y, [dataset.classes.index(name) for name in classes]) if classes else np.ones(len(y), bool)
    images = np.repeat(x[taken], 3, 3) if x.shape[3] == 1 else x[taken]
    if apart is None:
        group = alike(images)
    else:
        group = np.concatenate([split[apart] for split in dataset.splits.values()])[taken]
    numbers = np.flatnonzero(taken)
    return tuple(
        Photograph(f"{dataset.name}-{number}", image, int(g))
        for number, image, g in zip(numbers, images, group, strict=True)
    )


def alike(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """A group for each image: those whose perceptual hashes differ in few bits are one, also mirrored or turned.

    The hash is the difference hash: whether each of 8 x 8 places is brighter than the one to its right.
    """
    from PIL import Image
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    small = np.stack([np.asarray(Image.fromarray(i).convert("L").resize((9, 9), Image.Resampling.BOX)) for i in images])
    ways = [np.rot90(way, turns, (1, 2)) for way in (small, small[:, :, ::-1]) for turns in range(4)]
    signs = [np.where(way[:, :8, 1:] > way[:, :8, :-1], 1, -1).reshape(len(small), -1).astype(np.int16) for way in ways]
    near = np.zeros((len(small),) * 2, bool)
    for way in signs:
        near |= (64 - signs[0] @ way.T) // 2 <= NEAR
    return connected_components(csr_matrix(near), directed=False)[1]


def windows(pixels: np.ndarray, side: int, count: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Up to so many square windows of a photograph (left, top, right, bottom), one to two times as wide as `side`; of
    one that is smaller than two of them a side, the square in its middle alone. Smooth ones are left out.
    """
    height, width = pixels.shape[:2]
    least = min(height, width)
    if least < 2 * side or count == 1:
        left, top = (width - least) // 2, (height - least) // 2
        return [(left, top, left + least, top + least)]
    found: list[tuple[int, int, int, int]] = []
    for _ in range(20 * count):
        wide = int(rng.integers(side, min(2 * side, least) + 1))
        left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - wide + 1))
        grey = pixels[top : top + wide, left : left + wide].mean(2)
        if grey.std() / 255 >= SMOOTH:
            found.append((left, top, left + wide, top + wide))
        if len(found) == count:
            break
    return found
