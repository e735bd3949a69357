"""A data set of photographs and forgeries of them, made once and kept by its content.

Photographs are divided between training and test first, and forged after that, with donors from their own half. Windows
of them become samples: each once as it is and once forged by each operator that is asked for. All pass one chain: a
camera (resampling kernel, gamma), the operator, and a JPEG whose quality is drawn from the camera's range. Numbers are
drawn from a hash of the draw, the window's name and the operator, so that any sample can be made again by itself.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clbench import forgeries
from clbench.datasets import Dataset, load, root, sha256, split_by
from clbench.errors import Mistake
from clbench.forgeries import OPERATORS, Autoencoder, Operator, bytes_of, jpeg
from clbench.photographs import Photograph, windows
from clbench.prepare import beside, progress
from clbench.seeds import derive

SHARED = "all"
"""the increment of photographs that all increments show"""
REAL = "real"
"""the operator of what is no forgery"""


class Camera(NamedTuple):
    """How a photograph becomes an image, and how the image is saved."""

    kernel: str
    """by which it is brought to the size of the images"""
    gamma: float
    quality: tuple[int, int]
    """least and most of the JPEG's quality"""


CAMERAS = (
    Camera("BICUBIC", 1.0, (88, 95)),
    Camera("LANCZOS", 0.9, (85, 95)),
    Camera("BILINEAR", 1.1, (90, 95)),
    Camera("HAMMING", 0.95, (82, 92)),
)
"""in turn, where each increment has one of its own"""


class Shot(NamedTuple):
    """One sample to be: a window of a photograph, seen by a camera, and what is done to it."""

    photograph: int
    window: int
    increment: str
    camera: int
    operator: str


class Sample(NamedTuple):
    """One sample."""

    image: np.ndarray
    """uint8, H x W x 3"""
    mask: np.ndarray
    """uint8, H x W: 255 where nothing is left of the photograph"""
    parameters: dict[str, Any]
    """which window and operator, the numbers that were drawn, and the JPEG's quality"""


@dataclass(frozen=True)
class Forging:
    """What is forged, and how."""

    name: str
    """of the photographs"""
    photographs: tuple[Photograph, ...]
    increments: dict[str, tuple[str, ...]]
    """the operators of each; its windows go to them in turn"""
    shared: bool
    """true: every increment shows all photographs, by one camera; false: windows are dealt to the increments, each with
    a camera of its own"""
    side: int
    """pixels a side of the images"""
    per_photograph: int
    """windows of a photograph, at the most"""
    held_out: float
    """share of the groups of photographs that are test"""
    draw: int
    """the seed of all of it"""

    def open(self) -> Dataset:
        """The data set, made where it is not there or not whole.

        Raises:
            Mistake: there are too few photographs, or the folder cannot be written.
        """
        folder = self._folder
        there = (folder / "dataset.json").exists()
        try:
            dataset = load(folder)
        except Mistake:
            if there:
                shutil.rmtree(folder, ignore_errors=True)
            self._write(folder)
            dataset = load(folder)
        return dataset

    def masks(self, split: str) -> np.ndarray:
        """How far each pixel of a split's samples is forged (uint8, N x H x W), of a data set that was opened."""
        return np.load(self._folder / f"{split}.mask.npy")

    def windows(self, split: str) -> np.ndarray:
        """The number of the window that each of a split's samples shows (int64, N), of a data set that was opened."""
        lines = (self._folder / f"{split}.parameters.jsonl").read_text("utf-8").splitlines()
        return np.unique([json.loads(line)["window"] for line in lines], return_inverse=True)[1]

    @property
    def _folder(self) -> Path:
        return root() / ".cache" / f"forged-{self._key}"

    @cached_property
    def _key(self) -> str:
        from PIL import __version__

        digest = hashlib.sha256(
            repr([forgeries.VERSION, CAMERAS, __version__, *map(repr, self._options().items())]).encode()
        )
        for photograph in self.photographs:
            digest.update(repr((photograph.name, photograph.group, photograph.pixels.shape)).encode())
            digest.update(photograph.pixels.tobytes())
        return digest.hexdigest()[:16]

    def _options(self) -> dict[str, Any]:
        names = ("increments", "shared", "side", "per_photograph", "held_out", "draw")
        return {name: getattr(self, name) for name in names}

    @cached_property
    def split(self) -> dict[str, list[int]]:
        """The photographs of training and of test.

        Raises:
            Mistake: they are all alike, so that there is nothing to divide.
        """
        groups = np.array([photograph.group for photograph in self.photographs])
        kinds = np.unique(groups)
        if len(kinds) < 2:
            raise Mistake(f"{self.name} has one photograph, or all are alike; training and exams need one each.")
        held = split_by(np.zeros(len(kinds)), self.held_out, self.draw)
        test = np.isin(groups, kinds[held])
        return {"train": np.flatnonzero(~test).tolist(), "test": np.flatnonzero(test).tolist()}

    @cached_property
    def _windows(self) -> list[list[tuple[int, int, int, int]]]:
        draw = [np.random.default_rng(derive(self.draw, f"windows of {p.name}")) for p in self.photographs]
        size = self.side, self.per_photograph
        return [windows(p.pixels, *size, rng) for p, rng in zip(self.photographs, draw, strict=True)]

    @cached_property
    def _operators(self) -> dict[str, Operator]:
        some = [(p, window) for p in self.split["train"] for window in range(len(self._windows[p]))][::4]
        wanted = any("autoencoder" in names for names in self.increments.values())
        learned = {"autoencoder": Autoencoder.learned([self._seen(*one, 0) for one in some])} if wanted else {}
        return {**OPERATORS, **learned}

    def shots(self, split: str) -> Iterator[Shot]:
        """All samples of a split, in order."""
        names = list(self.increments)
        order = [(p, window) for p in self.split[split] for window in range(len(self._windows[p]))]
        if self.shared:
            yield from (Shot(*one, SHARED, 0, REAL) for one in order)
        for number, increment in enumerate(names):
            mine = order if self.shared else order[number :: len(names)]
            camera = 0 if self.shared else number % len(CAMERAS)
            operators = self.increments[increment]
            for place, one in enumerate(mine):
                if not self.shared:
                    yield Shot(*one, increment, camera, REAL)
                yield Shot(*one, increment, camera, operators[place % len(operators)])

    def sample(self, split: str, shot: Shot) -> Sample:
        """A sample of a split, the same whenever it is asked for."""
        photograph = self.photographs[shot.photograph]
        name = f"{photograph.name}/{shot.window}"
        rng = np.random.default_rng(derive(self.draw, f"{name}/{shot.operator}/{shot.increment}"))
        image, camera = self._seen(shot.photograph, shot.window, shot.camera), CAMERAS[shot.camera]
        quality = int(rng.integers(camera.quality[0], camera.quality[1] + 1))
        about: dict[str, Any] = {"window": name, "operator": shot.operator, "increment": shot.increment}
        about["quality"], mask = quality, np.zeros(image.shape[:2])
        if shot.operator != REAL:
            others = [p for p in self.split[split] if self.photographs[p].group != photograph.group]
            others = others or [shot.photograph]
            other = others[rng.integers(len(others))]
            window = int(rng.integers(len(self._windows[other])))
            forged = self._operators[shot.operator](image, self._seen(other, window, shot.camera), rng)
            image, mask = forged.image, forged.mask
            about |= {key: float(value) for key, value in forged.parameters.items()}
            about["donor"] = f"{self.photographs[other].name}/{window}"
        return Sample(bytes_of(jpeg(image, quality)), bytes_of(mask), about)

    def _seen(self, photograph: int, window: int, camera: int) -> np.ndarray:
        """A window of a photograph as a camera gives it, float, in [0, 1]."""
        from PIL import Image

        kernel, gamma, _ = CAMERAS[camera]
        box = self._windows[photograph][window]
        picture = Image.fromarray(self.photographs[photograph].pixels)
        small = picture.resize((self.side, self.side), Image.Resampling[kernel], box=box)
        return (np.asarray(small) / 255) ** gamma

    def _write(self, folder: Path) -> None:
        shots = {split: list(self.shots(split)) for split in self.split}
        operators = sorted({shot.operator for shot in shots["train"]} - {REAL})
        names = {
            "operator": [REAL, *operators],
            "increment": [*self.increments, *([SHARED] if self.shared else [])],
            "photograph": [photograph.name for photograph in self.photographs],
        }
        count = sum(map(len, shots.values()))
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with beside(folder, replace=False) as new, progress(self.name, count) as advance:
                self._fill(new, shots, names, advance)
        except OSError as error:
            raise Mistake(f"{folder} cannot be written ({error}). CLBENCH_DATA can name another place.") from error

    def _fill(
        self,
        folder: Path,
        shots: dict[str, list[Shot]],
        names: dict[str, list[str]],
        advance: Callable[[int], None],
    ) -> None:
        """Every file of the data set."""
        for split, of_split in shots.items():
            columns = {
                "y": [shot.operator != REAL for shot in of_split],
                "operator": [names["operator"].index(shot.operator) for shot in of_split],
                "increment": [names["increment"].index(shot.increment) for shot in of_split],
                "photograph": [shot.photograph for shot in of_split],
            }
            for column, values in columns.items():
                np.save(folder / f"{split}_{column}.npy", np.array(values, np.int64))
            images = np.empty((len(of_split), self.side, self.side, 3), np.uint8)
            masks = np.empty(images.shape[:3], np.uint8)
            with (folder / f"{split}.parameters.jsonl").open("w", encoding="utf-8") as lines:
                for place, shot in enumerate(of_split):
                    images[place], masks[place], parameters = self.sample(split, shot)
                    lines.write(json.dumps(parameters) + "\n")
                    advance(1)
            np.save(folder / f"{split}_x.npy", images)
            np.save(folder / f"{split}.mask.npy", masks)
        card = {
            "name": self.name,
            "classes": [REAL, "fake"],
            "fields": names,
            "splits": {split: len(of_split) for split, of_split in shots.items()},
            "shape": [self.side, self.side, 3],
            "source": f"forged from {len(self.photographs)} photographs: {self.name}",
            "licence": "that of the photographs",
            "sha256": {file.name: sha256(file) for file in sorted(folder.glob("*_*.npy"))},
        }
        (folder / "dataset.json").write_text(json.dumps(card, indent=1), "utf-8")
