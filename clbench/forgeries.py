"""Manipulations of photographs: each gives an image, where it was changed, and the numbers that were drawn for it.

Ten operators and one that changes nothing. They stand for the families that detectors of forged faces are tried on, but
ask for no face: the region is a soft blob near the middle, where a face is in a tight crop.

| operator | does | stands for |
| --- | --- | --- |
| `self_blend` | a copy, recoloured, blurred or sharpened, moved a little, blended into the image | both of these (a) |
| `splice` | a region of another photograph, in the colours of this one, under a soft edge | swap |
| `poisson_swap` | the gradients of another photograph in a region (b) | swap |
| `mesh_warp` | a smooth displacement within a region | re-enactment |
| `resample` | a region made smaller and enlarged again | re-enactment, smoothing |
| `inpaint` | ellipses filled by the harmonic function of their edge | local editing |
| `copy_move` | a patch of the image elsewhere in it, under a soft edge | local editing |
| `checkerboard` | half the resolution, enlarged by an uneven transposed convolution, half blended | synthesis, GAN |
| `autoencoder` | reconstruction of 8 x 8 patches from 24 numbers each, with noise on them | synthesis, VAE |
| `double_jpeg` | compressed before, on a shifted grid, at low quality | post-processing |

(a) After Shiohara and Yamasaki 2022, Detecting Deepfakes with Self-Blended Images, CVPR. (b) Pérez, Gangnet and Blake
2003, Poisson Image Editing, SIGGRAPH; `inpaint` solves the same equation without gradients.

Images are float64, H x W x 3, in [0, 1]; masks are float64, H x W, in [0, 1]. What an operator draws it draws from the
generator that it is given, and from nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

VERSION = 1
"""raised when the same draw forges something else than before"""
WHOLE = frozenset({"checkerboard", "autoencoder", "double_jpeg"})
"""operators that change the whole image, so that there is no region to find"""
_OPPONENT = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
"""luminance and two differences of colour, of ITU-R BT.601"""


class Forged(NamedTuple):
    """What an operator made."""

    image: np.ndarray
    mask: np.ndarray
    """how much of each pixel is not of the photograph"""
    parameters: dict[str, float]
    """the numbers that were drawn for it"""


Operator = Callable[[np.ndarray, np.ndarray, np.random.Generator], Forged]
"""of a photograph, another one and a generator"""


def bytes_of(image: np.ndarray) -> np.ndarray:
    """The image as uint8."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The image as it comes back from a JPEG file of this quality (1 .. 95); float in, float out."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(bytes_of(image)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / 255


def region(rng: np.random.Generator, side: int, soft: float = 0.02) -> np.ndarray:
    """A soft blob near the middle, of a seventh to a half of the image; 0 at its border."""
    from scipy.ndimage import gaussian_filter

    centre, radii = rng.uniform(0.42, 0.58, 2) * side, rng.uniform(0.22, 0.36, 2) * side
    y, x = ((axis - c) / r for axis, c, r in zip(np.mgrid[:side, :side], centre, radii, strict=True))
    angle, waves = np.arctan2(y, x), np.arange(2, 5)
    sizes, phases = rng.uniform(0, 0.08, 3), rng.uniform(0, 2 * np.pi, 3)
    edge = 1 + (sizes * np.cos(angle[..., None] * waves + phases)).sum(-1)
    return _bordered(gaussian_filter((np.hypot(y, x) <= edge).astype(float), soft * side))


def _bordered(mask: np.ndarray) -> np.ndarray:
    """The mask with a border of 0."""
    mask[[0, -1]] = mask[:, [0, -1]] = 0
    return mask


def _mixed(image: np.ndarray, other: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.clip(image + mask[..., None] * (other - image), 0, 1)


def _moved(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The image as seen at these places, bilinear."""
    from scipy.ndimage import map_coordinates

    planes = [map_coordinates(plane, [rows, columns], order=1, mode="nearest") for plane in np.moveaxis(image, 2, 0)]
    return np.stack(planes, axis=2)


def _recoloured(donor: np.ndarray, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A donor with the mean and deviation that the image's colours have where the mask is (after Reinhard et al. 2001;
    theirs is another opponent space).
    """
    inside = mask > 0.5
    theirs, ours = donor @ _OPPONENT.T, image @ _OPPONENT.T
    deviation = ours[inside].std(0) / np.maximum(theirs[inside].std(0), 0.02)
    moved = (theirs - theirs[inside].mean(0)) * np.clip(deviation, 0.25, 2) + ours[inside].mean(0)
    return np.clip(moved @ np.linalg.inv(_OPPONENT).T, 0, 1)


def _poisson(image: np.ndarray, inside: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """The image with, inside, what has the guide's Laplacian and meets the image at the edge."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import splu

    rows, columns = inside.nonzero()
    number = np.full(inside.shape, -1)
    number[rows, columns] = np.arange(len(rows))
    right = np.zeros((len(rows), 3))
    entries = [(np.arange(len(rows)), np.arange(len(rows)), np.full(len(rows), 4.0))]
    for down, across in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        beside = rows + down, columns + across
        right += guide[rows, columns] - guide[beside]
        other = number[beside]
        within = other >= 0
        right[~within] += image[beside][~within]
        entries.append((np.flatnonzero(within), other[within], np.full(within.sum(), -1.0)))
    i, j, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    solve = splu(coo_matrix((values, (i, j))).tocsc(), permc_spec="MMD_AT_PLUS_A").solve
    filled = image.copy()
    filled[rows, columns] = solve(right)
    return np.clip(filled, 0, 1)


def noop(image: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> Forged:
    """Nothing: a detector that tells it from a photograph has found a shortcut."""
    return Forged(image, np.zeros(image.shape[:2]), {})


def self_blend(image: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> Forged:
    from scipy.ndimage import gaussian_filter

    side, mask = len(image), region(rng, len(image))
    gain, contrast = rng.uniform(0.95, 1.05, 3), rng.uniform(0.85, 1.15)
    sharpen, sigma = bool(rng.integers(2)), rng.uniform(0.5, 1.0)
    zoom, shift = rng.uniform(0.95, 1.05), rng.uniform(-0.03, 0.03, 2) * side
    ratio = rng.choice([0.5, 0.75, 1.0, 1.0])
    copy = np.clip((image - image.mean()) * contrast + image.mean(), 0, 1) * gain
    soft = gaussian_filter(copy, (sigma, sigma, 0))
    copy = 2 * copy - soft if sharpen else soft
    places = [(axis - side / 2) * zoom + side / 2 + s for axis, s in zip(np.mgrid[:side, :side], shift, strict=True)]
    parameters = {"ratio": ratio, "zoom": zoom, "sharpened": float(sharpen), "sigma": sigma, "contrast": contrast}
    return Forged(_mixed(image, _moved(copy, *places), ratio * mask), mask, parameters)


def splice(image: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> Forged:
    soft = rng.uniform(0.02, 0.04)
    mask = region(rng, len(image), soft)
    return Forged(_mixed(image, _recoloured(donor, image, mask), mask), mask, {"soft": soft})


def poisson_swap(image: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> Forged:
    mask = _bordered((region(rng, len(image)) > 0.5).astype(float))
    strength = rng.uniform(0.6, 1.0)
    return Forged(_poisson(image, mask > 0, strength * donor), mask, {"strength": strength})


def mesh_warp(image: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> Forged:
    from scipy.ndimage import gaussian_filter

    side, mask = len(image), region(rng, len(image), 0.05)
    amplitude = rng.uniform(0.04, 0.08)
    noise = gaussian_filter(rng.standard_normal((2, side, side)), (0, side / 12, side / 12))
    shift = noise / np.abs(noise).max() * amplitude * side * mask
    return Forged(_moved(image, *(np.mgrid[:side, :side] + shift)), mask, {"amplitude": amplitude})


def resample(image: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> Forged:
    from PIL import Image

    side, mask = len(image), region(rng, len(image))
    scale = rng.uniform(0.45, 0.7)
    small = Image.fromarray(bytes_of(image)).resize((round(scale * side),) * 2, Image.Resampling.BICUBIC)
    large = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)) / 255
    return Forged(_mixed(image, large, mask), mask, {"scale": scale})


def inpaint(image: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> Forged:
    side = len(image)
    centres, radii = rng.uniform(0.2, 0.8, (3, 2)) * side, rng.uniform(0.06, 0.13, (3, 2)) * side
    places = np.moveaxis(np.mgrid[:side, :side], 0, -1)[:, :, None]
    inside = _bordered(((((places - centres) / radii) ** 2).sum(-1) <= 1).any(-1).astype(float))
    return Forged(_poisson(image, inside > 0, np.zeros_like(image)), inside, {"share": inside.mean()})


def copy_move(image: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> Forged:
    from scipy.ndimage import gaussian_filter

    side = len(image)
    height, width = rng.integers(round(0.16 * side), round(0.3 * side), 2)
    top, left = rng.integers(2, side - np.array([height, width]) - 1)
    far = rng.uniform(0.25, 0.5) * side * np.array([rng.choice([-1, 1]), rng.choice([-1, 1])])
    down, across = (np.rint(far) * (rng.random(2) < 0.8)).astype(int)
    down, across = (down, across) if down or across else (round(0.3 * side), 0)
    mask = np.zeros((side, side))
    mask[top : top + height, left : left + width] = 1
    mask = _bordered(gaussian_filter(mask, 0.01 * side))
    parameters = {"height": height, "width": width, "down": down, "across": across}
    return Forged(_mixed(image, np.roll(image, (down, across), (0, 1)), mask), mask, parameters)


def checkerboard(image: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> Forged:
    from scipy.ndimage import convolve1d

    height, width = (2 * (n // 2) for n in image.shape[:2])
    uneven, grown = rng.uniform(-0.03, 0.03), np.zeros_like(image)
    grown[:height:2, :width:2] = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    kernel = np.array([1, 2.03 + uneven, 1]) / 2
    for axis in (0, 1):
        grown = convolve1d(grown, kernel, axis, mode="mirror")
    return Forged(_mixed(image, grown, np.full(image.shape[:2], 0.5)), np.ones(image.shape[:2]), {"uneven": uneven})


def double_jpeg(image: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> Forged:
    quality = int(rng.integers(35, 61))
    shifted = np.pad(image, ((3, 5), (3, 5), (0, 0)), mode="edge")
    return Forged(jpeg(shifted, quality)[3:-5, 3:-5], np.ones(image.shape[:2]), {"quality": quality})


@dataclass(frozen=True)
class Autoencoder:
    """A linear autoencoder of patches: their principal components, learned from photographs; a generator has one."""

    mean: np.ndarray
    """of a patch, flat"""
    basis: np.ndarray
    """components x patch"""
    deviation: np.ndarray
    """of each component"""
    size: int = 8
    """pixels a side of a patch"""

    @classmethod
    def learned(cls, images: Sequence[np.ndarray], components: int = 24) -> Autoencoder:
        """From the patches of some photographs, side by side."""
        patches = np.concatenate([_patches(image, cls.size) for image in images])
        mean = patches.mean(0)
        variance, basis = np.linalg.eigh(np.cov(patches.T))
        return cls(mean, basis[:, ::-1][:, :components].T, np.sqrt(np.maximum(variance[::-1][:components], 0)))

    def __call__(self, image: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> Forged:
        noise, top, left = rng.uniform(0.02, 0.06), *rng.integers(self.size, size=2)
        around = ((top, self.size - top), (left, self.size - left), (0, 0))
        padded = np.pad(image, around, mode="reflect")
        codes = (_patches(padded, self.size) - self.mean) @ self.basis.T
        codes += noise * self.deviation.clip(max=self.deviation[4]) * rng.standard_normal(codes.shape)
        made = _assembled(codes @ self.basis + self.mean, padded.shape, self.size)
        side = len(image)
        made = np.clip(made[top : top + side, left : left + side], 0, 1)
        return Forged(made, np.ones(image.shape[:2]), {"noise": noise})


def _patches(image: np.ndarray, size: int) -> np.ndarray:
    """The patches of an image side by side, each flat; what is left over at the edges is left out."""
    high, wide = image.shape[0] // size, image.shape[1] // size
    tiles = image[: high * size, : wide * size].reshape(high, size, wide, size, 3)
    return tiles.swapaxes(1, 2).reshape(high * wide, -1)


def _assembled(patches: np.ndarray, shape: tuple[int, ...], size: int) -> np.ndarray:
    """An image of these patches side by side."""
    high, wide = shape[0] // size, shape[1] // size
    return patches.reshape(high, wide, size, size, 3).swapaxes(1, 2).reshape(high * size, wide * size, 3)


OPERATORS: dict[str, Operator] = {
    "noop": noop,
    "self_blend": self_blend,
    "splice": splice,
    "poisson_swap": poisson_swap,
    "mesh_warp": mesh_warp,
    "resample": resample,
    "inpaint": inpaint,
    "copy_move": copy_move,
    "checkerboard": checkerboard,
    "double_jpeg": double_jpeg,
}
"""by name; `autoencoder` is the eleventh, and must be learned first"""
