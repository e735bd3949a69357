"""Data in the layout of DeepfakeBench: a miniature tree with its quirks."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from clbench.errors import Mistake
from clbench.streams.deepfakebench import DeepfakeBench, spread
from clbench.testing import check_stream

FF = "FaceForensics++/{}/c23/frames/{}"
KINDS = {"FF-real": "original_sequences/youtube", "FF-DF": "manipulated_sequences/Deepfakes"}
KINDS |= {"FF-FS": "manipulated_sequences/FaceSwap"}


def video(root, path: str, label: str, frames: int, tone: int, windows: bool = False) -> dict:
    """The entry of a video whose frames are grey in the order of their numbers, told from last to first."""
    folder = root / "rgb" / path
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(frames):
        pixels = np.random.default_rng(tone * 100 + number).integers(0, 40, (12, 12, 3), np.uint8)
        Image.fromarray(pixels + np.uint8(tone + number)).save(folder / f"{number}.png")
    names = [f"{path}/{number}.png" for number in reversed(range(frames))]
    return {"label": label, "frames": [name.replace("/", "\\") for name in names] if windows else names}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    root = tmp_path / "bench"
    (root / "dataset_json").mkdir(parents=True)
    ff = {label: {split: {"c23": {}} for split in ("train", "val", "test")} for label in KINDS}
    for tone, (label, place) in enumerate(KINDS.items(), start=1):
        for number, split in ((0, "train"), (1, "train"), (2, "val"), (3, "test")):
            entry = video(root, FF.format(place, f"{number:03}"), label, 12, 30 * tone + 5 * number)
            ff[label][split]["c23"][f"{number:03}"] = entry
    dfd: dict = {"DFD_real": {}, "DFD_fake": {}}
    for tone, label in enumerate(dfd, start=5):
        place = "DFD/" + label
        videos = {f"v{n}": video(root, f"{place}/v{n}", label, 3, 30 * tone + 5 * n, windows=True) for n in range(4)}
        dfd[label] = dict.fromkeys(("train", "val", "test"), videos)
    for name, content in (("FaceForensics++", ff), ("DFD", dfd)):
        (root / "dataset_json" / f"{name}.json").write_text(json.dumps({name: content}))
    return root


def options(root, **more):
    return {"data": str(root), "resolution": 8, "frames": 4, "exam_frames": 6, "flip": False, **more}


def test_sets_one_after_another(bench):
    stream = DeepfakeBench(**options(bench, increments=["FaceForensics++", "DFD"]))
    stream.open(0)
    first, second = stream
    assert len(first.train) == 3 * 2 * 4, "4 of 12 frames of 2 videos of 3 kinds; validation is not used"
    assert first.train.labels.sum() == 2 * 2 * 4
    exams = list(stream.exams())
    assert [exam.name for exam in exams] == ["FaceForensics++", "DFD"]
    assert len(exams[0].data) == 3 * 6
    assert exams[0].about["video"].unique(return_counts=True)[1].tolist() == [6, 6, 6]
    names = stream._dataset.fields["video"]
    taught = {names[v] for v in stream._dataset.splits["train"]["video"]}
    asked = {names[v] for v in stream._dataset.splits["test"]["video"]}
    assert not taught & asked, "a video listed for training and test is in one of them"
    assert len({v for v in taught | asked if v.startswith("DFD/")}) == 8
    assert len(second.train) == (8 - 2) * 3, "back-slashes are slashes"
    check_stream(lambda: DeepfakeBench(**options(bench, increments=["FaceForensics++", "DFD"])))


def test_kinds_of_forgery_with_the_same_real_videos(bench):
    increments = ["FaceForensics++/FF-DF", "FaceForensics++/FF-FS"]
    stream = DeepfakeBench(**options(bench, increments=increments, real="FaceForensics++"))
    stream.open(0)
    real, fake = ([set(e.train.index[e.train.labels == kind].tolist()) for e in stream] for kind in (0, 1))
    assert real[0] == real[1]
    assert not fake[0] & fake[1]
    assert stream.protocol()["reals"] == "FaceForensics++"


def test_frames_are_spread_over_the_video(bench):
    assert spread([str(n) for n in range(12)], 4) == ["0", "3", "6", "9"]
    assert spread(["0", "1"], 4) == ["0", "1"]
    stream = DeepfakeBench(**options(bench, increments=["FaceForensics++/FF-DF"]))
    stream.open(0)
    x, _ = stream[0].train.gather(torch.arange(4))
    tones = x.float().mean((1, 2, 3))
    assert (tones.diff() > 1).all(), "in the order of their numbers, whatever the order in the file"


def test_mistakes(bench):
    def refused(match, **more):
        with pytest.raises(Mistake, match=match):
            DeepfakeBench(**options(bench, **more)).open(0)

    refused(
        r"^There is no set in .*dataset_json named 'DFDC'\. .*There are: DFD, FaceForensics\+\+", increments=["DFDC"]
    )
    refused(r"^There is no kind of forgery in FaceForensics\+\+ named 'FF-NT'", increments=["FaceForensics++/FF-NT"])
    file = bench / "dataset_json" / "DFD.json"
    file.write_text(file.read_text().replace('"DFD_fake"', '"DFD_forged"'))
    refused(r"^There is no label \(stream\.labels\) for DFD\.json named 'DFD_forged'", increments=["DFD"])
    told = DeepfakeBench(**options(bench, increments=["DFD"], labels={"DFD_forged": 1}))
    told.open(0)
    assert told[0].train.labels.tolist().count(1) == 3 * 3
    with pytest.raises(Mistake, match=r"^This stream needs data: stream\.data=FOLDER"):
        DeepfakeBench().open(0)
