"""Data sets by name or by path: arrays that are there, whole and as they were written.

A prepared data set is a folder with, for each split, `SPLIT_x.npy` (uint8, N x H x W x C), `SPLIT_y.npy` (int64, class
index), `SPLIT_FIELD.npy` (int64, any further label), and `dataset.json`, which names the classes, the fields and the
SHA-256 of every file. In place of images it may hold the features that a model made of them (float32, N x F).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from clbench.errors import Mistake, unknown

DIGITS = "bf5107bf46b31a9a204c6944bcecf3c399f2d5ddf7d45f5fb3e6ac1f75d5e5f2"
NAME = re.compile(r"\w[\w.-]*")
_KEYS = {"name": str, "classes": list, "fields": dict, "splits": dict, "shape": list, "source": str, "licence": str}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, or features of images, and their labels."""

    name: str
    classes: list[str]
    """the name of each class"""
    fields: dict[str, list[str]]
    """further labels of each image (superclass, domain, …) and the names of their values"""
    splits: dict[str, dict[str, np.ndarray]] = field(repr=False)
    """`train` and `test`: `x` (uint8, N x H x W x C, or float32, N x F; mapped from disk; writing changes no file), `y`
    and the fields (int64, N)"""
    shape: tuple[int, ...]
    """height, width, channels; of features how many"""
    source: str
    """whom to cite, or the folder that it was made from"""
    licence: str
    checksum: str
    """names the content: equal for equal pixels and labels, wherever and whenever they were prepared"""
    features: dict[str, Any] = field(default_factory=dict)
    """of features: what made them of what; empty: images"""

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over the training pixels, scaled to [0, 1]."""
        known = recall("moments.json").get(self.checksum)
        if known is None:
            known = _moments(self.splits["train"]["x"])
            remember("moments.json", {self.checksum: known})
        mean, std = known
        return tuple(mean), tuple(std)


def open_dataset(name_or_path: str | Path, resolution: int | None = None) -> Dataset:
    """A data set by its name, or the path of a prepared data set, of a folder of images or of an .npz file.

    What is not prepared yet is prepared once, into a cache; so are the images at another resolution.

    Args:
        name_or_path: a name wins over a path; `./name` is always a path
        resolution: side of the square images in pixels; None: as they are

    Raises:
        Mistake: it is not there, or not as it was written, or cannot be read.
    """
    if resolution is not None and resolution < 1:
        raise Mistake(f"A resolution is a number of pixels, 1 or more, not {resolution}.")
    place = _place(name_or_path)
    if place is None:
        dataset = _digits()
    elif (place / "dataset.json").exists():
        dataset = load(place)
    else:
        return _cached(place, resolution)
    if dataset.features and resolution not in (None, dataset.features["resolution"]):
        raise Mistake(
            f"{dataset.name} holds features of images of {dataset.features['resolution']} pixels a side, not "
            f"{resolution}: stream.resolution=null takes them as they are."
        )
    if dataset.features or resolution is None or dataset.shape[:2] == (resolution,) * 2:
        return dataset
    return _cached(dataset, resolution)


def available() -> dict[str, str]:
    """Every data set that has a name, and its state in a line. Checks no checksum."""
    from clbench.downloads import TORCHVISION

    states = {"digits": "embedded"} | {name: f"not here: clbench data prepare {name}" for name in TORCHVISION}
    for folder in sorted(path.parent for path in root().glob("[!.]*/dataset.json")):
        try:
            card = _card(folder)
            counts = " + ".join(str(card["splits"][split]) for split in ("train", "test"))
            what = "features:" if "features" in card else "images"
            states[folder.name] = f"prepared, {counts} {what} {' x '.join(map(str, card['shape']))}"
        except Mistake as mistake:
            states[folder.name] = f"damaged: {mistake}"
    return states


def verify(name_or_path: str | Path) -> None:
    """Reads every file of a data set and holds it against its checksum, whatever was found before.

    Raises:
        Mistake: a file is missing or damaged.
    """
    place = _place(name_or_path)
    if place is None:
        _digits()
    else:
        load(place, trust=False)


def root() -> Path:
    """Where data sets lie: $CLBENCH_DATA, else the user's cache directory."""
    chosen = os.environ.get("CLBENCH_DATA")
    return Path(chosen).expanduser() if chosen else cache() / "data"


def cache() -> Path:
    """The directory for what can be computed again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clbench"


def load(folder: Path, trust: bool = True) -> Dataset:
    """A prepared data set.

    Args:
        folder: what holds its dataset.json
        trust: whether a file with the size and time at which it was found whole before counts as whole

    Raises:
        Mistake: a file is missing, damaged, or not of the format.
    """
    card = _card(folder)
    whole(folder, card["sha256"], trust)
    names = {"y": card["classes"], **card["fields"]}
    splits = {}
    for split, count in card["splits"].items():
        kind = np.float32 if "features" in card else np.uint8
        splits[split] = {"x": _array(folder / f"{split}_x.npy", kind, (count, *card["shape"]))}
        for label, known in names.items():
            file = folder / f"{split}_{label}.npy"
            labels = splits[split][label] = np.array(_array(file, np.int64, (count,)))
            if labels.min() < 0 or labels.max() >= len(known):
                raise Mistake(
                    f"{file} holds labels from {labels.min()} to {labels.max()}; dataset.json names {len(known)}, "
                    f"so they must be from 0 to {len(known) - 1}. {_mend(folder)}"
                )
    return Dataset(
        card["name"], card["classes"], card["fields"], splits, tuple(card["shape"]), card["source"], card["licence"],
        checksum(card["sha256"]), card.get("features", {}),
    )  # fmt: skip


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(sums: Mapping[str, str]) -> str:
    """One SHA-256 over those of the files."""
    return hashlib.sha256("".join(f"{sums[file]}  {file}\n" for file in sorted(sums)).encode()).hexdigest()


def split_by(groups: np.ndarray, share: float = 0.3, seed: int = 0) -> np.ndarray:
    """A seeded mask of the test samples: `share` of each group, at least one of a group of two or more, never all.

    The draw is numpy's raw PCG64 stream, which is the same in every version and on every machine.
    """
    keys, test = np.random.PCG64(seed).random_raw(len(groups)), np.zeros(len(groups), bool)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        test[members[np.argsort(keys[members], kind="stable")[:count]]] = True
    return test


def recall(file: str) -> dict[str, Any]:
    """What was found out before; nothing where the file is missing or unreadable."""
    with suppress(OSError, ValueError):
        found = json.loads((cache() / file).read_text("utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def remember(file: str, found: Mapping[str, Any]) -> None:
    """Adds to what was found out before; a cache that cannot be written is done without."""
    with suppress(OSError):
        cache().mkdir(parents=True, exist_ok=True)
        temporary = cache() / f".{file}.{os.getpid()}"
        temporary.write_text(json.dumps({**recall(file), **found}), "utf-8")
        temporary.replace(cache() / file)


def _place(name_or_path: str | Path) -> Path | None:
    """The folder or file meant; None for the data set that needs none."""
    if name_or_path == "digits":
        return None
    path = Path(name_or_path).expanduser()
    if isinstance(name_or_path, str) and NAME.fullmatch(name_or_path):
        place = root() / name_or_path
        if (place / "dataset.json").exists():
            return place
        states = available()
        if name_or_path in states:
            raise Mistake(f"The data set '{name_or_path}' is {states[name_or_path]} (looked for {place}).")
        if not path.exists():
            raise Mistake(
                f"{unknown('data set', name_or_path, states)} Nor is there a file or folder {path.absolute()}."
            )
    if not path.exists() or not str(name_or_path):
        raise Mistake(f"There is no folder or file {path.absolute()}.")
    return path


def _cached(source: Path | Dataset, resolution: int | None) -> Dataset:
    """Opens what is derived from `source`, making it where it is not there or no longer whole."""
    from clbench.prepare import derive

    folder = derive(source, resolution)
    try:
        return load(folder)
    except Mistake:
        shutil.rmtree(folder, ignore_errors=True)
        return load(derive(source, resolution))


def _card(folder: Path) -> dict[str, Any]:
    """The content of dataset.json, held against the format."""
    file = folder / "dataset.json"
    try:
        card = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Mistake(f"{file} cannot be read ({error}). {_mend(folder)}") from error
    wrong = _wrong(card)
    if wrong:
        raise Mistake(f"{file} is malformed: {wrong}. {_mend(folder)}")
    return card


def _wrong(card: Any) -> str:
    """What in a card is not of the format; empty where all is."""
    if not isinstance(card, dict):
        return "it is no JSON object"
    for key, kind in (_KEYS | {"sha256": dict}).items():
        if not isinstance(card.get(key), kind):
            return f"'{key}' is missing or is no {kind.__name__}"
    for key, names in {"classes": card["classes"], **card["fields"]}.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            return f"'{key}' is no list of names"
    if {"x", "y"} & set(card["fields"]):
        return "a field cannot be named x or y"
    if not {"train", "test"} <= set(card["splits"]):
        return "'splits' has no train and test"
    for name in (*card["splits"], *card["fields"]):
        if not re.fullmatch(r"\w[\w-]*", name):
            return f"'{name}' cannot be part of a file's name"
    sizes = [*card["splits"].values(), *card["shape"]]
    if not all(type(size) is int and size > 0 for size in sizes):
        return "'splits' and 'shape' must be numbers above 0"
    if "features" in card:
        if not isinstance(card["features"], dict) or {"data", "resolution"} - card["features"].keys():
            return "'features' does not say of which data they are, at which resolution"
        if len(card["shape"]) != 1:
            return f"'shape' is {card['shape']}; it must be how many features there are"
    elif len(card["shape"]) != 3 or card["shape"][2] not in (1, 3):
        return f"'shape' is {card['shape']}; it must be height, width and 1 or 3 channels"
    files = {f"{split}_{label}.npy" for split in card["splits"] for label in ("x", "y", *card["fields"])}
    if files != set(card["sha256"]):
        return f"'sha256' must name {', '.join(sorted(files))}"
    return ""


def whole(folder: Path, sums: Mapping[str, str], trust: bool = True) -> None:
    """Holds every file against its checksum.

    Args:
        folder: where they lie
        sums: name to SHA-256
        trust: whether a file with the size and time at which it was found whole before counts as whole

    Raises:
        Mistake: one is missing or damaged.
    """
    found_whole, home, known = {}, folder.resolve(), recall("verified.json") if trust else {}
    for name, expected in sums.items():
        file = folder / name
        try:
            stat = file.stat()
            stamp = [stat.st_size, stat.st_mtime_ns, expected]
            if known.get(str(home / name)) == stamp:
                continue
            found = sha256(file)
        except OSError as error:
            raise Mistake(f"{file} cannot be read ({error.strerror}). {_mend(folder)}") from error
        if found != expected:
            raise Mistake(f"{file} is damaged: its checksum is not that of dataset.json. {_mend(folder)}")
        found_whole[str(home / name)] = stamp
    if found_whole:
        remember("verified.json", found_whole)


def _array(file: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(file, mode="c")
    except (OSError, ValueError) as error:
        raise Mistake(f"{file} is no array that numpy can read ({error}). {_mend(file.parent)}") from error
    if array.dtype != dtype or array.shape != shape:
        raise Mistake(
            f"{file} holds {array.dtype} of shape {array.shape}; "
            f"dataset.json asks for {np.dtype(dtype)} of shape {shape}. {_mend(file.parent)}"
        )
    return array


def _mend(folder: Path) -> str:
    from clbench.downloads import TORCHVISION

    if folder.parent != root():
        return "Put a good copy in its place."
    with suppress(OSError, ValueError, LookupError, TypeError):
        made = json.loads((folder / "dataset.json").read_text("utf-8"))["features"]
        return f"Mend it: clbench data features {made['data']} model={made['model']} --to {folder.name} --again"
    source = "" if folder.name in TORCHVISION else " --from FOLDER"
    return f"Mend it: clbench data prepare {folder.name}{source} --again"


def _moments(x: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation from whole-number sums: exact but for the last rounding, whatever the order."""
    total, squares = np.zeros(x.shape[1:], np.int64), np.zeros(x.shape[1:], np.int64)
    rows = min(max(2**22 // total.size, 1), 2**16)
    for start in range(0, len(x), rows):
        pixels = x[start : start + rows]
        wide = pixels.astype(np.uint16)
        total += pixels.sum(0, dtype=np.uint32)
        squares += np.multiply(wide, wide, out=wide).sum(0, dtype=np.uint32)
    n = len(x) * total.size // x.shape[-1]
    sums = [(int(total[..., c].sum()), int(squares[..., c].sum())) for c in range(x.shape[-1])]
    return [s / n / 255 for s, _ in sums], [math.sqrt(n * q - s * s) / n / 255 for s, q in sums]


def _digits() -> Dataset:
    """The handwritten digits that come with scikit-learn, 8 x 8 pixels of 17 greys, split by a fixed seed."""
    spec = find_spec("sklearn")
    file = Path(spec.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if spec else None
    if file is None or not file.exists():
        raise Mistake("The digits come with scikit-learn, which is not here: pip install scikit-learn")
    try:
        table = np.loadtxt(file, np.int64, delimiter=",")
        x, y = ((table[:, :-1] * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1), table[:, -1].copy()
    except (OSError, ValueError, EOFError) as error:
        raise Mistake(f"{file} is damaged ({error}): pip install --force-reinstall scikit-learn") from error
    test = split_by(y)
    splits = {"train": {"x": x[~test], "y": y[~test]}, "test": {"x": x[test], "y": y[test]}}
    sums = {}
    for split, arrays in splits.items():
        for label, array in arrays.items():
            np.save(buffer := io.BytesIO(), array)
            sums[f"{split}_{label}.npy"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    if checksum(sums) != DIGITS:
        raise Mistake(f"{file} does not hold the digits that clbench knows: pip install --force-reinstall scikit-learn")
    source = "Optical recognition of handwritten digits (Alpaydin and Kaynak, 1998), the part in scikit-learn"
    return Dataset("digits", list("0123456789"), {}, splits, (8, 8, 1), source, "CC BY 4.0", checksum(sums))
