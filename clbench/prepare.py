"""Making a prepared data set: from torchvision's download, a folder of images, or arrays in an .npz file."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np

from clbench.array_file import of_npz
from clbench.datasets import NAME, Dataset, load, root, sha256
from clbench.downloads import TORCHVISION, of_torchvision
from clbench.draft import Draft, of_arrays
from clbench.errors import Mistake, unknown
from clbench.image_folder import SUFFIXES, WORKERS, listing, of_images


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
    if seed < 0:
        raise Mistake(f"The seed of the split is a number from 0, not {seed}.")
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
        return of_torchvision(name, None, resolution)
    if isinstance(source, Dataset):
        return _of_dataset(name, source, resolution)
    if not source.exists():
        raise Mistake(f"There is no folder or file {source.absolute()}.")
    if (source / "dataset.json").exists():
        return _of_dataset(name, load(source), resolution)
    if source.is_dir():
        files = listing(source)
        if files:
            return of_images(name, source, files, resolution, share, seed)
        if name in TORCHVISION:
            return of_torchvision(name, source, resolution)
        raise Mistake(f"{source} holds no images ({' '.join(sorted(SUFFIXES))}) and no dataset.json.")
    if source.suffix == ".npz":
        return of_npz(name, source, resolution, share, seed)
    raise Mistake(f"{source} is neither a folder nor an .npz file.")


def _of_dataset(name: str, dataset: Dataset, resolution: int | None) -> Draft:
    if dataset.features:
        raise Mistake(f"{dataset.name} holds features, from which no images can be prepared.")
    x = {split: arrays["x"] for split, arrays in dataset.splits.items()}
    labels = {s: {k: v for k, v in arrays.items() if k != "x"} for s, arrays in dataset.splits.items()}
    return of_arrays(name, dataset.classes, dataset.fields, x, labels, resolution, dataset.source, dataset.licence)


def _content(source: Path) -> str:
    """What changes when a file is added, removed or written: names, sizes and times."""
    files = [source / name for name in listing(source)] if source.is_dir() else [source]
    stats = ((file.relative_to(source), file.stat()) for file in files)
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
