"""Real data of forged faces, for those who hold them, in the layout of DeepfakeBench.

Yan et al. 2023 ("DeepfakeBench: A Comprehensive Benchmark of Deepfake Detection", NeurIPS): a folder with
`dataset_json/NAME.json`, which lists the frames of each video by set, label and split, and the frames beneath `rgb/`.

What differs from its loader, and why. Frames are evenly spaced, where it takes the first ones. A video that is listed
for training and for test (all of DFD are) is in one of them here, by a fixed draw. Paths may have either slash. A label
that is not known is an error. Its JSON of Celeb-DF-v2 lists only one of the two folders of real videos, and its
validation is the test: the former is a matter of making the JSON, the latter is not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from clbench.config import Recipe
from clbench.datasets import Dataset, load, root, split_by
from clbench.draft import Draft
from clbench.errors import Mistake, unknown
from clbench.forging import SHARED
from clbench.prepare import write
from clbench.stream import Exam
from clbench.streams.forgery import RECIPES as FORGERY
from clbench.streams.forgery import Forged
from clbench.types import Count

LABELS = {
    **dict.fromkeys(("FF-real", "CelebDFv1_real", "CelebDFv2_real", "DFDCP_Real", "DFDC_Real", "DFD_real"), 0),
    **dict.fromkeys(("FF-DF", "FF-F2F", "FF-FS", "FF-NT", "FF-FH", "CelebDFv1_fake", "CelebDFv2_fake"), 1),
    **dict.fromkeys(("DFDCP_FakeA", "DFDCP_FakeB", "DFDC_Fake", "DFD_fake", "UADFV_Fake"), 1),
    "UADFV_Real": 0,
}
"""which labels of the JSON files are real (0) and which fake (1)"""


class Video(NamedTuple):
    """One video of a set."""

    name: str
    fake: int
    split: str
    frames: tuple[str, ...]
    """their paths, in order"""


@dataclass
class DeepfakeBench(Forged):
    """Faces (label 0) and forgeries of them (label 1), a data set or a kind of forgery at a time."""

    data: str = ""
    """the folder that holds `dataset_json` and `rgb`"""
    resolution: Count | None = 64
    """pixels a side; null: 256"""
    flip: bool = True
    """augmentation of stream and memory: mirrored left to right, half of the time"""
    increments: list[str] = field(default_factory=lambda: ["FaceForensics++", "DFDCP", "Celeb-DF-v2"])
    """in order: a set, all of it; or SET/LABEL+LABEL, its real videos and the forgeries of these labels"""
    real: str | None = None
    """a set whose real videos all increments show, instead of their own (the protocol by kinds of forgery)"""
    labels: dict[str, Literal[0, 1]] = field(default_factory=dict)
    """labels that are not among the known ones: 0, real; 1, fake"""
    compression: str = "c23"
    """of sets that have several"""
    frames: Count = 8
    """of a training video, at the most"""
    exam_frames: Count = 32
    """of a video that is asked for"""

    def open(self, seed: int) -> None:
        self._load()
        self._divide(seed)

    def _open_dataset(self) -> Dataset:
        folder = root() / ".cache" / f"deepfakebench-{self._key()}"
        if not (folder / "dataset.json").exists():
            write(self._draft(), folder)
        return load(folder)

    def _key(self) -> str:
        options = {
            name: getattr(self, name) for name in ("data", "resolution", "increments", "real", "labels", "compression")
        }
        texts = [self._json(name).read_bytes() for name in self._sets()]
        whole = repr([options, self.frames, self.exam_frames, [hashlib.sha256(text).hexdigest() for text in texts]])
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def _sets(self) -> list[str]:
        """The sets that are needed, each once."""
        if not self.increments or len(set(self.increments)) < len(self.increments):
            raise Mistake("stream.increments must list one or more sets, or SET/LABEL+LABEL, each at most once.")
        return list(dict.fromkeys([*(name.partition("/")[0] for name in self.increments), *filter(None, [self.real])]))

    def _json(self, name: str) -> Path:
        if not self.data:
            raise Mistake("This stream needs data: stream.data=FOLDER, which holds dataset_json and rgb.")
        folder = Path(self.data).expanduser() / "dataset_json"
        file = folder / f"{name}.json"
        if not file.exists():
            raise unknown(f"set in {folder}", name, [path.stem for path in folder.glob("*.json")])
        return file

    def _videos(self, name: str) -> Iterator[tuple[str, Video]]:
        """Each video of a set once, with its label."""
        kinds = {**LABELS, **self.labels}
        (content,) = json.loads(self._json(name).read_text("utf-8")).values()
        for label, splits in content.items():
            if label not in kinds:
                raise unknown(f"label (stream.labels) for {name}.json", label, kinds)
            found: dict[str, dict[str, Sequence[str]]] = {}
            for split in ("train", "test"):
                videos = splits.get(split, {})
                if self.compression in videos:
                    videos = videos[self.compression]
                for video, known in videos.items():
                    found.setdefault(video, {})[split] = known["frames"]
            both = sorted(video for video, where in found.items() if len(where) == 2)
            test = dict(zip(both, split_by(np.zeros(len(both))), strict=True)) if len(both) > 1 else {}
            for video in sorted(found):
                split = ("test" if test[video] else "train") if video in test else next(iter(found[video]))
                frames = sorted((f.replace("\\", "/") for f in found[video][split]), key=lambda f: int(Path(f).stem))
                yield label, Video(f"{name}/{label}/{video}", kinds[label], split, tuple(frames))

    def _chosen(self) -> Iterator[tuple[str, Video]]:
        """Which videos belong to which increment."""
        for increment in self.increments:
            name, _, labels = increment.partition("/")
            of = list(self._videos(name))
            wanted = set(labels.split("+")) if labels else {label for label, video in of if video.fake}
            for label in sorted(wanted - {label for label, video in of if video.fake}):
                raise unknown(f"kind of forgery in {name}", label, {label for label, video in of if video.fake})
            yield from ((increment, v) for label, v in of if label in wanted or not (v.fake or self.real))
        if self.real:
            yield from ((SHARED, video) for _, video in self._videos(self.real) if not video.fake)

    def _draft(self) -> Draft:
        chosen, side = list(self._chosen()), self.resolution or 256
        increments = [*self.increments, *([SHARED] if self.real else [])]
        videos = sorted({video.name for _, video in chosen})
        number = {name: place for place, name in enumerate(videos)}
        labels, pixels = {}, {}
        for split, count in (("train", self.frames), ("test", self.exam_frames)):
            rows = [(i, v, f) for i, v in chosen if v.split == split for f in spread(v.frames, count)]
            labels[split] = {
                "y": np.array([video.fake for _, video, _ in rows]),
                "increment": np.array([increments.index(increment) for increment, _, _ in rows]),
                "video": np.array([number[video.name] for _, video, _ in rows]),
            }
            pixels[split] = partial(self._frame, [frame for _, _, frame in rows], side)
        fields, shape = {"increment": increments, "video": videos}, (side, side, 3)
        source = f"{Path(self.data).expanduser().resolve()}: {', '.join(self._sets())}"
        return Draft("deepfakebench", ["real", "fake"], fields, labels, pixels, shape, source, "research; see each set")

    def _frame(self, paths: Sequence[str], side: int, index: int) -> np.ndarray:
        from PIL import Image

        file = Path(self.data).expanduser() / "rgb" / paths[index].rpartition("rgb/")[2]
        try:
            with Image.open(file) as picture:
                return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
        except OSError as error:
            raise Mistake(f"{file} is no image that Pillow can read ({error}).") from error

    def _origins(self) -> np.ndarray:
        return self._field(self._dataset, "train", "video")

    def exams(self) -> Sequence[Exam]:
        """With the number of the video that each frame is of, under `about`."""
        of = torch.from_numpy(self._field(self._dataset, "test" if self.exam_on == "test" else "train", "video"))
        return [replace(exam, about={"video": of[exam.data.index]}) for exam in super().exams()]

    def protocol(self) -> dict[str, Any]:
        return {
            "scenario": "domain-incremental, forged faces",
            "increments": ", ".join(self.increments),
            "reals": self.real or "apart",
            "frames": f"{self.frames} to train on, {self.exam_frames} asked for",
            **super().protocol(),
        }


def spread(frames: Sequence[str], count: int) -> list[str]:
    """So many of the frames at the most, evenly spaced over the video."""
    few = min(count, len(frames))
    return [frames[place * len(frames) // few] for place in range(few)]


RECIPES = {"deepfakebench": {"house": Recipe(FORGERY["forgery"]["house"].values, "as the house recipe of forgery")}}
