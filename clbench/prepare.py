"""Making a prepared data set: from torchvision's download, a folder of images, or arrays in an .npz file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4
from zipfile import BadZipFile

import numpy as np

from clbench.datasets import NAME, Dataset, load, root, sha256, split_by
from clbench.errors import Mistake, unknown
from clbench.vision import torchvision

if TYPE_CHECKING:
    from PIL.Image import Image

WORKERS = min(8, os.cpu_count() or 1)
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
HELD_OUT = ("test", "val", "valid")
"""folders that can be the test split, the first that is there"""
USUAL_SIDES = (16, 32, 64, 96, 128, 224)

SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
"""the 20 superclasses of CIFAR-100 and their classes, in the order of their labels"""


class Recipe(NamedTuple):
    """A data set that torchvision can download."""

    maker: str
    """the class in torchvision.datasets"""
    source: str
    licence: str


TORCHVISION = {
    "mnist": Recipe("MNIST", "MNIST (LeCun, Cortes, Burges)", "CC BY-SA 3.0"),
    "fashion_mnist": Recipe("FashionMNIST", "Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017)", "MIT"),
    "kmnist": Recipe("KMNIST", "Kuzushiji-MNIST (Clanuwat et al., 2018)", "CC BY-SA 4.0"),
    "cifar10": Recipe("CIFAR10", "CIFAR-10 (Krizhevsky, 2009)", "none stated; research use"),
    "cifar100": Recipe("CIFAR100", "CIFAR-100 (Krizhevsky, 2009)", "none stated; research use"),
    "svhn": Recipe("SVHN", "SVHN (Netzer et al., 2011)", "non-commercial use only"),
}


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


def prepare(
    name: str,
    source: Path | None = None,
    again: bool = False,
    resolution: int | None = None,
    share: float = 0.3,
    seed: int = 0,
) -> Path:
    """Makes the prepared data set `name` under `root()`, whole or not at all.

    Args:
        name: what it will be opened by
        source: a folder with the raw files that torchvision would download; a folder of images, `CLASS/*`,
            `DOMAIN/CLASS/*`, or either beneath `train` and `test`, `val` or `valid`; an .npz file; a prepared data set;
            None: torchvision downloads
        again: replace what is there
        resolution: side of the square images; what is not square is cut at its longer sides first
        share: of each class (and domain) for test, where the source has no split
        seed: of that split

    Returns:
        The folder. What was made of the same source before is left as it is.

    Raises:
        Mistake: there is nothing to make it from, or it cannot be read, fetched or written.
    """
    if name == "digits":
        raise Mistake("The digits are embedded: nothing to prepare. Data of your own need another name.")
    if not NAME.fullmatch(name):
        raise Mistake(f"A data set cannot be named '{name}': use letters, digits, '-', '_' and '.'.")
    if resolution is not None and resolution < 1:
        raise Mistake(f"A resolution is a number of pixels, 1 or more, not {resolution}.")
    if not 0 < share < 1:
        raise Mistake(f"The share for test is a number between 0 and 1, not {share}.")
    if source is None and name not in TORCHVISION:
        raise Mistake(f"{unknown('data set to download', name, TORCHVISION)} For data of your own: --from FOLDER.")
    folder = root() / name
    if others := strangers(folder):
        raise Mistake(f"{folder} holds what is no prepared data set ({others[0]}); choose another name or move it.")
    there = load(folder) if not again and (folder / "dataset.json").exists() else None
    if there and source is None and resolution in (None, there.shape[0]):
        return folder
    draft = _draft(name, source, resolution, share, seed)
    if there is None:
        write(draft, folder, again)
    elif (there.source, there.shape) != (draft.source, draft.shape):
        raise Mistake(
            f"{folder} is there already, {' x '.join(map(str, there.shape))}, from {there.source}: "
            "--again replaces it, another name keeps both."
        )
    return folder


def derive(source: Path | Dataset, resolution: int | None) -> Path:
    """The prepared form of a folder of images, an .npz file, or a data set at another resolution; kept in a cache.

    Raises:
        Mistake: as `prepare`.
    """
    if isinstance(source, Dataset):
        name, content = source.name, source.checksum
    else:
        place = source.resolve()
        name, content = place.name if place.is_dir() else place.stem, _content(source)
    key = hashlib.sha256(f"{content} {resolution}".encode()).hexdigest()[:16]
    folder = root() / ".cache" / (re.sub(r"[^\w.-]", "_", name) + f"-{key}")
    if not (folder / "dataset.json").exists():
        write(_draft(name, source, resolution), folder)
    return folder


def write(draft: Draft, folder: Path, replace: bool = False) -> None:
    """Writes a prepared data set beside `folder`, then puts it in its place.

    Raises:
        Mistake: a class lacks images, an image cannot be read, or the folder cannot be written.
    """
    for split, labels in draft.labels.items():
        absent = set(range(len(draft.classes))) - set(labels["y"].tolist())
        if absent:
            raise Mistake(f"Class '{draft.classes[min(absent)]}' has no {split} image ({draft.source}).")
    elsewhere = "CLBENCH_DATA can name another place."
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        needed = sum(len(labels["y"]) for labels in draft.labels.values()) * math.prod(draft.shape)
        free = shutil.disk_usage(folder.parent).free
        if needed > free:
            raise Mistake(f"{folder} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free. {elsewhere}")
        with beside(folder, replace) as new:
            card = {
                "name": draft.name,
                "classes": draft.classes,
                "fields": draft.fields,
                "splits": {split: len(labels["y"]) for split, labels in draft.labels.items()},
                "shape": list(draft.shape),
                "source": draft.source,
                "licence": draft.licence,
                "sha256": _fill(draft, new),
            }
            (new / "dataset.json").write_text(json.dumps(card, indent=1), "utf-8")
    except OSError as error:
        raise Mistake(f"{folder} cannot be written ({error}). {elsewhere}") from error


def strangers(folder: Path) -> list[str]:
    """What keeps a folder from being replaced: files that no prepared data set has."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        return [folder.name]
    names = sorted(path.name for path in folder.iterdir())
    whole = "dataset.json" in names
    return [name for name in names if not (whole and (name == "dataset.json" or name.endswith(".npy")))]


@contextmanager
def beside(folder: Path, replace: bool) -> Iterator[Path]:
    """A new folder that takes the place of `folder` at the end, or vanishes.

    One that another process has put there meanwhile stays, unless `replace`.
    """
    for stale in folder.parent.glob(f".{folder.name}.*"):
        with suppress(OSError):
            if time.time() - stale.stat().st_mtime > 24 * 3600:
                shutil.rmtree(stale)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    new = temporary / "new"
    new.mkdir(parents=True)
    try:
        yield new
        if replace:
            with suppress(FileNotFoundError):
                folder.replace(temporary / "old")
        try:
            new.replace(folder)
        except OSError:
            if not (folder / "dataset.json").exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(draft: Draft, folder: Path) -> dict[str, str]:
    """Writes the arrays; returns the checksum of each file."""
    total = sum(len(labels["y"]) for labels in draft.labels.values())
    with progress(draft.name, total) as advance, ThreadPoolExecutor(WORKERS) as pool:
        for split, labels in draft.labels.items():
            shape = (len(labels["y"]), *draft.shape)
            out = np.lib.format.open_memmap(folder / f"{split}_x.npy", "w+", np.uint8, shape)
            blocks = (range(start, min(start + 64, len(out))) for start in range(0, len(out), 64))
            for done in pool.map(partial(_copy, draft.pixels[split], out), blocks):
                advance(done)
            out.flush()
            for label, values in labels.items():
                np.save(folder / f"{split}_{label}.npy", np.asarray(values, np.int64))
    return {file.name: sha256(file) for file in sorted(folder.glob("*.npy"))}


def _copy(read: Callable[[int], np.ndarray], out: np.ndarray, indices: range) -> int:
    for i in indices:
        out[i] = read(i)
    return len(indices)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Counts images in the terminal; silent where there is none."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _draft(
    name: str, source: Path | Dataset | None, resolution: int | None, share: float = 0.3, seed: int = 0
) -> Draft:
    if source is None:
        return _of_torchvision(name, None, resolution)
    if isinstance(source, Dataset):
        return _of_dataset(name, source, resolution)
    if not source.exists():
        raise Mistake(f"There is no folder or file {source.absolute()}.")
    if (source / "dataset.json").exists():
        return _of_dataset(name, load(source), resolution)
    if source.is_dir():
        files = _listing(source)
        if files:
            return _of_images(name, source, files, resolution, share, seed)
        if name in TORCHVISION:
            return _of_torchvision(name, source, resolution)
        raise Mistake(f"{source} holds no images ({' '.join(sorted(SUFFIXES))}) and no dataset.json.")
    if source.suffix == ".npz":
        return _of_npz(name, source, resolution, share, seed)
    raise Mistake(f"{source} is neither a folder nor an .npz file.")


def _of_dataset(name: str, dataset: Dataset, resolution: int | None) -> Draft:
    if dataset.features:
        raise Mistake(f"{dataset.name} holds features, from which no images can be prepared.")
    x = {split: arrays["x"] for split, arrays in dataset.splits.items()}
    labels = {s: {k: v for k, v in arrays.items() if k != "x"} for s, arrays in dataset.splits.items()}
    return _of_arrays(name, dataset.classes, dataset.fields, x, labels, resolution, dataset.source, dataset.licence)


def _of_arrays(
    name: str,
    classes: list[str],
    fields: dict[str, list[str]],
    x: Mapping[str, np.ndarray],
    labels: dict[str, dict[str, np.ndarray]],
    resolution: int | None,
    source: str,
    licence: str = "not stated",
) -> Draft:
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
    return np.asarray(_square(picture, side)).reshape(side, side, -1)


def _square(picture: Image, side: int | None) -> Image:
    """The largest square in the middle of a picture, `side` pixels wide; None: the picture as it is."""
    if side is None or picture.size == (side, side):
        return picture
    from PIL.Image import Resampling

    (width, height), least = picture.size, min(picture.size)
    left, top = (width - least) // 2, (height - least) // 2
    middle = picture.crop((left, top, left + least, top + least))
    return middle.resize((side, side), Resampling.LANCZOS if least > side else Resampling.BICUBIC)


def _of_images(name: str, folder: Path, files: Sequence[str], resolution: int | None, share: float, seed: int) -> Draft:
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
        note = _seeded(share, seed)
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


def _listing(folder: Path) -> list[str]:
    """The images in a folder and down to four folders below, in order; hidden ones are passed over."""
    found = []
    for here, folders, files in os.walk(folder, followlinks=True):
        place = Path(here).relative_to(folder)
        folders[:] = [] if len(place.parts) == 4 else [n for n in folders if not n.startswith((".", "__MACOSX"))]
        names = (n for n in files if not n.startswith(".") and os.path.splitext(n)[1].lower() in SUFFIXES)
        found += [(place / name).as_posix() for name in names]
    return sorted(found)


def _content(source: Path) -> str:
    """What changes when a file is added, removed or written: names, sizes and times."""
    files = [source / name for name in _listing(source)] if source.is_dir() else [source]
    stats = ((file.relative_to(source), file.stat()) for file in files)
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)


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
        pixels = np.asarray(_square(opaque.convert(mode), side))
    return pixels.reshape(*pixels.shape[:2], -1)


def _of_npz(name: str, file: Path, resolution: int | None, share: float, seed: int) -> Draft:
    try:
        with file.open("rb") as handle, np.load(handle) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise Mistake(f"{file} cannot be read as an .npz of arrays ({error}).") from error
    names = arrays.pop("classes", None)
    if {"x", "y"} <= set(arrays):
        parts = {"": arrays}
    else:
        parts = {split: _of_split(arrays, split) for split in ("train", "test")}
    for split, part in parts.items():
        if not {"x", "y"} <= set(part):
            raise Mistake(
                f"{file} must hold train_x, train_y, test_x and test_y, or x and y; "
                f"it holds {', '.join(arrays) or 'nothing'}."
            )
        of = f" of {split}" if split else ""
        part["x"] = _as_images(part["x"], f"{file}: x{of}")
        for label in set(part) - {"x"}:
            part[label] = _as_labels(part[label], len(part["x"]), f"{file}: {label}{of}")
    first, *others = parts.values()
    if any(set(first) != set(part) or first["x"].shape[1:] != part["x"].shape[1:] for part in others):
        raise Mistake(f"{file}: train and test differ in the names of their labels or in the shape of their images.")
    labels, fields = {}, {}
    for label in sorted(set(first) - {"x"}):
        known, labels[label] = np.unique(np.concatenate([part[label] for part in parts.values()]), return_inverse=True)
        fields[label] = [str(value) for value in known]
        if label == "y" and names is not None:
            if names.dtype.kind != "U" or names.ndim != 1 or known.dtype.kind == "U" or known[-1] >= len(names):
                raise Mistake(f"{file}: classes must hold a name for each number in y.")
            fields[label], labels[label] = names.tolist(), known[labels[label]]
    if others:
        test, note = np.arange(len(labels["y"])) >= len(first["x"]), ""
        x = {split: part["x"] for split, part in parts.items()}
    else:
        test, note = split_by(labels["y"], share, seed), _seeded(share, seed)
        x = {"train": first["x"][~test], "test": first["x"][test]}
    classes = fields.pop("y")
    halves = {split: {k: v[mask] for k, v in labels.items()} for split, mask in (("train", ~test), ("test", test))}
    return _of_arrays(name, classes, fields, x, halves, resolution, f"{file.resolve()}{note}")


def _seeded(share: float, seed: int) -> str:
    return f", {100 * share:g} % of each class for test by seed {seed}"


def _of_split(arrays: Mapping[str, np.ndarray], split: str) -> dict[str, np.ndarray]:
    """The arrays named `SPLIT_LABEL` or `LABEL_SPLIT`, by label."""
    bare = {key: key.removeprefix(f"{split}_").removesuffix(f"_{split}") for key in arrays}
    return {label: arrays[key] for key, label in bare.items() if label != key}


def _as_images(x: np.ndarray, what: str) -> np.ndarray:
    """Images as N x H x W x C, or the line that says how to get there."""
    if x.dtype != np.uint8:
        scaled = "(x * 255).round()" if x.dtype.kind == "f" else "x"
        span = "1" if x.dtype.kind == "f" else "255"
        raise Mistake(
            f"{what} is {x.dtype}; images are uint8: {scaled}.astype('uint8') where they go from 0 to {span}."
        )
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[3] not in (1, 3) or not x.size:
        last = x.ndim == 4 and x.shape[1] in (1, 3)
        hint = "; x.transpose(0, 2, 3, 1) puts the channels last" if last else ""
        raise Mistake(f"{what} has shape {x.shape}; images are N x H x W or N x H x W x C with 1 or 3 channels{hint}.")
    return x


def _as_labels(labels: np.ndarray, count: int, what: str) -> np.ndarray:
    """Labels as one whole number or name per image."""
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iuU" or (labels.dtype.kind == "i" and labels.min() < 0):
        raise Mistake(
            f"{what} is {labels.dtype} of shape {labels.shape}; "
            f"there must be {count} labels, whole numbers from 0 or names."
        )
    return labels


def _of_torchvision(name: str, source: Path | None, resolution: int | None) -> Draft:
    """A draft from the files that torchvision downloads and checks, or finds in `source`."""
    try:
        makers = torchvision().datasets
    except ImportError as error:
        raise Mistake(f"torchvision cannot be imported ({error}): install the build that matches torch's.") from error
    recipe = TORCHVISION[name]
    halves = _raw_halves(name, getattr(makers, recipe.maker), source)
    x, labels = {}, {}
    for split, half in halves.items():
        images = np.asarray(half.data)
        if hasattr(half, "labels"):
            images = images.transpose(0, 2, 3, 1)
        x[split] = images if images.ndim == 4 else images[..., None]
        labels[split] = {"y": np.asarray(half.labels if hasattr(half, "labels") else half.targets)}
    classes = [each.partition(" - ")[0] for each in getattr(halves["train"], "classes", "0123456789")]
    fields = {}
    if name == "cifar100":
        fields["coarse"] = list(SUPERCLASSES)
        above = {fine: i for i, group in enumerate(SUPERCLASSES.values()) for fine in group.split()}
        of_class = np.array([above[fine] for fine in classes])
        for half in labels.values():
            half["coarse"] = of_class[half["y"]]
    return _of_arrays(name, classes, fields, x, labels, resolution, recipe.source, recipe.licence)


def _raw_halves(name: str, maker: Any, source: Path | None) -> dict[str, Any]:
    """Both halves of one of torchvision's data sets, downloaded where `source` is None."""
    home, wanted = source or root() / ".raw", _raw_files(maker)
    if source and _lacking(maker, home):
        raise Mistake(
            f"{source} has no images, and of {name}'s raw files it lacks {_and(_lacking(maker, home))}, "
            "or has them damaged."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            chosen = {"train": True, "test": False} if maker.__name__ != "SVHN" else {"train": "train", "test": "test"}
            return {split: maker(home, which, download=True) for split, which in chosen.items()}
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        if not _lacking(maker, home):
            raise Mistake(
                f"The raw files of {name} in {home} are damaged ({reason}); delete them and begin again."
            ) from error
        site = next(iter(wanted.values()))[0].rpartition("/")[0]
        raise Mistake(
            f"{name} could not be downloaded ({reason}). By hand: put {_and(wanted)} from {site} into FOLDER, then "
            f"clbench data prepare {name} --from FOLDER"
        ) from error


def _raw_files(maker: Any) -> dict[str, tuple[str, str]]:
    """The files that torchvision fetches, where it puts them, with their address and MD5."""
    if hasattr(maker, "resources"):
        return {f"{maker.__name__}/raw/{file}": (maker.mirrors[0] + file, md5) for file, md5 in maker.resources}
    if hasattr(maker, "split_list"):
        return {file: (url, md5) for url, file, md5 in (maker.split_list[split] for split in ("train", "test"))}
    return {maker.filename: (maker.url, maker.tgz_md5)}


def _lacking(maker: Any, home: Path) -> list[str]:
    """Those of the files that `home` has neither unpacked nor whole."""
    check_integrity = torchvision().datasets.utils.check_integrity
    files = _raw_files(maker)
    if hasattr(maker, "resources"):
        unpacked = all((home / file).with_suffix("").is_file() for file in files)
    elif hasattr(maker, "base_folder"):
        inner = [*maker.train_list, *maker.test_list]
        unpacked = all(check_integrity(home / maker.base_folder / file, md5) for file, md5 in inner)
    else:
        unpacked = False
    return [] if unpacked else [file for file, (_, md5) in files.items() if not check_integrity(home / file, md5)]


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)
