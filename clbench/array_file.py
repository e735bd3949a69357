"""Arrays in an .npz file as a data set."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from clbench.datasets import split_by
from clbench.draft import Draft, of_arrays, seeded
from clbench.errors import Mistake


def of_npz(name: str, file: Path, resolution: int | None, share: float, seed: int) -> Draft:
    """A draft from `train_x`, `train_y`, `test_x` and `test_y`, or from `x` and `y`, split by the seed.

    Raises:
        Mistake: the arrays are no images with labels.
    """
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
        test, note = split_by(labels["y"], share, seed), seeded(share, seed)
        x = {"train": first["x"][~test], "test": first["x"][test]}
    classes = fields.pop("y")
    halves = {split: {k: v[mask] for k, v in labels.items()} for split, mask in (("train", ~test), ("test", test))}
    return of_arrays(name, classes, fields, x, halves, resolution, f"{file.resolve()}{note}")


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
