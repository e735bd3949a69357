"""A folder of images as a data set: what its folders say of each image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clbench.datasets import split_by
from clbench.draft import Draft, seeded, square
from clbench.errors import Mistake

if TYPE_CHECKING:
    from PIL.Image import Image

WORKERS = min(8, os.cpu_count() or 1)
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
HELD_OUT = ("test", "val", "valid")
"""folders that can be the test split, the first that is there"""
USUAL_SIDES = (16, 32, 64, 96, 128, 224)


def of_images(name: str, folder: Path, files: Sequence[str], resolution: int | None, share: float, seed: int) -> Draft:
    """A draft from a folder of images; pictures are read as they are stored, whatever turn their EXIF data asks for."""
    placed, note = _layout(folder, files)
    classes, domains = sorted({p.klass for p in placed}), sorted({p.domain for p in placed} - {""})
    y = np.array([classes.index(p.klass) for p in placed])
    labels, fields = {"y": y}, {}
    if domains:
        labels["domain"], fields["domain"] = np.array([domains.index(p.domain) for p in placed]), domains
    if placed[0].split:
        test = np.array([p.split == "test" for p in placed])
    else:
        test = split_by(y + len(classes) * labels.get("domain", 0), share, seed)
        note = seeded(share, seed)
    paths = np.array([folder / p.file for p in placed])
    with ThreadPoolExecutor(WORKERS) as pool:
        looks = list(pool.map(_look, paths))
    size, first = looks[0][0], paths[0]
    for path, look in zip(paths, looks, strict=True):
        if resolution is None and look[0] != size:
            least = sorted(min(look[0]) for look in looks)[len(looks) // 2]
            usual = max((side for side in USUAL_SIDES if side <= least), default=least)
            raise Mistake(
                f"The images differ in size ({first}: {size[0]} x {size[1]}, {path}: {look[0][0]} x {look[0][1]}): "
                f"give a resolution, for instance {usual}."
            )
    mode = "L" if all(look[1] in ("1", "L") for look in looks) else "RGB"
    splits = {"train": ~test, "test": test}
    return Draft(
        name, classes, fields,
        {split: {label: values[mask] for label, values in labels.items()} for split, mask in splits.items()},
        {split: partial(_decode, paths[mask], mode, resolution) for split, mask in splits.items()},
        (resolution or size[1], resolution or size[0], 1 if mode == "L" else 3),
        f"{folder.resolve()}{note}",
    )  # fmt: skip


class Placed(NamedTuple):
    """An image file and what its folders say; empty where they say nothing."""

    file: str
    split: str
    domain: str
    klass: str


def _layout(folder: Path, files: Sequence[str]) -> tuple[list[Placed], str]:
    """What the folders of each image say, and a note on those left out."""
    above = [file.split("/")[:-1] for file in files]
    tops = {parts[0] for parts in above if len(parts) > 1}
    held = next((name for name in HELD_OUT if name in tops), "")
    if ("train" in tops) != bool(held):
        raise Mistake(
            f"{folder} has {held or 'train'} but no {'train' if held else ', '.join(HELD_OUT)} beside it; "
            f"to split {held or 'train'} by a seed, give {folder / (held or 'train')}."
        )
    splits = {"train": "train", held: "test"} if held else {}
    placed: list[Placed] = []
    examples: dict[int, str] = {}
    for file, parts in zip(files, above, strict=True):
        if splits and (not parts or parts[0] not in splits):
            continue
        rest = parts[1:] if splits else parts
        examples.setdefault(len(rest), file)
        placed.append(Placed(file, splits[parts[0]] if splits else "", *["", *rest][-2:] if rest else ("", "")))
    if set(examples) not in ({1}, {2}):
        raise Mistake(
            f"{folder}: images lie in CLASS or in DOMAIN/CLASS, all alike, or in either beneath train and test; "
            f"there are {' and '.join(examples[depth] for depth in sorted(examples))}."
        )
    shown: dict[str, set[str]] = {}
    for p in placed:
        shown.setdefault(p.domain, set()).add(p.klass)
    for domain, classes in shown.items():
        others = set().union(*(shown[other] for other in shown if other != domain))
        if len(shown) > 1 and not classes & others:
            raise Mistake(
                f"{folder}: read as DOMAIN/CLASS/image, the domain '{domain}' has no class of the others "
                f"(it has {min(classes)}, they have {min(others)})."
            )
    left = sorted(tops - set(splits)) if splits else []
    return placed, f", without its {', '.join(left)}" if left else ""


def listing(folder: Path) -> list[str]:
    """The images in a folder and down to four folders below, in order; hidden ones are passed over."""
    found = []
    for here, folders, files in os.walk(folder, followlinks=True):
        place = Path(here).relative_to(folder)
        folders[:] = [] if len(place.parts) == 4 else [n for n in folders if not n.startswith((".", "__MACOSX"))]
        names = (n for n in files if not n.startswith(".") and os.path.splitext(n)[1].lower() in SUFFIXES)
        found += [(place / name).as_posix() for name in names]
    return sorted(found)


@contextmanager
def _picture(path: Path) -> Iterator[Image]:
    """An image file, opened; whatever Pillow raises over a damaged one becomes one line."""
    from PIL.Image import open as open_image

    try:
        with open_image(path) as picture:
            if picture.mode[0] in "IF":
                raise Mistake(f"{path} has more than 8 bits a channel (mode {picture.mode}); save it with 8.")
            yield picture
    except Mistake:
        raise
    except Exception as error:
        raise Mistake(f"{path} is no image that Pillow can read ({error}); replace or remove it.") from error


def _look(path: Path) -> tuple[tuple[int, int], str]:
    """Width and height, and the mode of an image, from its header."""
    with _picture(path) as picture:
        return picture.size, picture.mode


def _decode(paths: Sequence[Path], mode: str, side: int | None, index: int) -> np.ndarray:
    with _picture(paths[index]) as picture:
        opaque = picture.convert("RGBA") if picture.mode == "P" and "transparency" in picture.info else picture
        pixels = np.asarray(square(opaque.convert(mode), side))
    return pixels.reshape(*pixels.shape[:2], -1)
