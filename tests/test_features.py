"""Features of a data set, computed once, and the streams over them."""

import hashlib
import json

import numpy as np
import pytest
import torch

from clbench.cli import main
from clbench.config import resolve
from clbench.datasets import available, open_dataset
from clbench.errors import Mistake
from clbench.features import features
from clbench.pretrained import EMBEDDED_SHA256, ViTT6
from clbench.streams.incremental import ClassIncremental, DomainIncremental, Permuted
from clbench.sweep import check
from clbench.transform import Transform

WORDS = ["model=vit_t6", "learner.threads=1", "learner.device=cpu"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def things(tmp_path, home):
    """Colour images of 4 classes in 2 domains."""
    rng, folder, sums = np.random.default_rng(0), tmp_path / "data" / "things", {}
    folder.mkdir(parents=True)
    for split, times in (("train", 3), ("test", 1)):
        y, domain = (np.tile(a.ravel(), times) for a in np.meshgrid(np.arange(4), np.arange(2), indexing="ij"))
        x = rng.integers(0, 256, (len(y), 64, 64, 3), dtype=np.uint8)
        for field, values in {"x": x, "y": y, "domain": domain}.items():
            file = folder / f"{split}_{field}.npy"
            np.save(file, values)
            sums[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    card = {
        "name": "things", "classes": list("abcd"), "fields": {"domain": ["photo", "clip"]},
        "splits": {"train": 24, "test": 8}, "shape": [64, 64, 3], "source": "made up", "licence": "none",
        "sha256": sums,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(card))
    return folder


def test_they_are_what_the_body_gives_and_all_else_is_kept():
    folder, made = features("things", WORDS)
    assert made
    assert folder.name == "things.vit_t6"
    images, found = open_dataset("things"), open_dataset("things.vit_t6")
    body = ViTT6().build((3, 64, 64), 4).eval().body
    for split in ("train", "test"):
        pixels = torch.from_numpy(images.splits[split]["x"]).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            assert np.allclose(found.splits[split]["x"], body(pixels).numpy(), atol=1e-5)
        assert np.array_equal(found.splits[split]["y"], images.splits[split]["y"])
        assert np.array_equal(found.splits[split]["domain"], images.splits[split]["domain"])
    assert (found.shape, found.classes, found.fields) == ((192,), images.classes, images.fields)
    assert found.features["weights content"] == EMBEDDED_SHA256[:12]
    assert found.features["data"] == "things"
    assert found.features["content"] == images.checksum[:12]
    assert available()["things.vit_t6"] == "prepared, 24 + 8 features: 192"


def test_a_second_time_nothing_is_done(monkeypatch):
    folder, _ = features("things", WORDS)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert features("things", WORDS) == (folder, False)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    other = [*WORDS, "model.normalise=none"]
    with pytest.raises(Mistake, match="is there already, of another making: --again replaces it, --to NAME keeps both"):
        features("things", other)
    assert features("things", other, to="raw") == (folder.parent / "raw", True)
    assert features("things", other, again=True) == (folder, True)
    assert open_dataset("things.vit_t6").checksum == open_dataset("raw").checksum


def test_they_are_never_there_by_half(monkeypatch, things):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("clbench.features.sha256", fail)
    with pytest.raises(Mistake, match=r"things\.vit_t6 cannot be written \(the disk is full\)"):
        features("things", WORDS)
    assert [path.name for path in things.parent.iterdir()] == ["things"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "made by one model: clbench data features DATASET model=vit_t6"),
        (["model=vit_t6,lite0"], "made by one model"),
        (["model=vit_t6", "strategy=er"], "'strategy' is no option of model or learner"),
        (["model=vit_t6", "results=x"], "'results' is no option of model or learner"),
        (["model=vit_t7"], "Did you mean 'vit_t6'"),
    ],
)
def test_what_is_not_of_a_model_is_a_mistake(words, line):
    with pytest.raises(Mistake, match=line):
        features("things", words)


def test_they_are_not_made_of_features_or_of_what_the_model_learned_from(things):
    features("things", WORDS)
    with pytest.raises(Mistake, match=r"things\.vit_t6 holds features already, of things\."):
        features("things.vit_t6", WORDS)
    with pytest.raises(Mistake, match=r"cannot be named '\.\./x'"):
        features("things", WORDS, to="../x")
    card = json.loads((things / "dataset.json").read_text())
    (things / "dataset.json").write_text(json.dumps(card | {"name": "Tiny-ImageNet"}))
    with pytest.raises(Mistake, match="pretrained on Tiny-ImageNet"):
        features("things", WORDS, again=True)


# Streams over them.


def test_a_stream_takes_them_as_they_are():
    features("things", WORDS)
    images = ClassIncremental(data="things", experiences=2, crop=8, flip=True)
    stream = ClassIncremental(data="things.vit_t6", experiences=2, crop=8, flip=True, resolution=64)
    images.open(0)
    stream.open(0)
    assert stream.syllabus().shape == (192,)
    assert type(stream.transform()) is Transform
    assert [e.train.index.tolist() for e in stream] == [e.train.index.tolist() for e in images]
    protocol = stream.protocol()
    assert "resolution 64, model vit_t6, model.pretrained True, model.normalise own" in protocol["features"]
    assert not {"augmentation", "normalisation", "resolution"} & protocol.keys()
    assert "pretrained weights" in stream.offers
    assert "pretrained weights" not in images.offers | ClassIncremental.offers
    domains = DomainIncremental(data="things.vit_t6")
    domains.open(0)
    assert [exam.name for exam in domains.exams()] == ["photo", "clip"]


def test_what_they_cannot_be_shown_as_is_a_mistake():
    features("things", WORDS)
    with pytest.raises(Mistake, match=r"of images of 64 pixels a side, not 32: stream\.resolution=null"):
        ClassIncremental(data="things.vit_t6", resolution=32).open(0)
    with pytest.raises(Mistake, match="holds features; this stream looks at images in other ways"):
        Permuted(data="things.vit_t6").open(0)
    plan = resolve({"stream": "folder", "stream.data": "things.vit_t6", "stream.experiences": 2, "model": "cnn"})
    with pytest.raises(Mistake, match="takes images"):
        check(plan)


def test_the_command_makes_them_and_a_run_learns_from_them(capsys):
    assert main(["data", "features", "things", "--again", *WORDS]) == 0
    assert capsys.readouterr().out.startswith("things.vit_t6 is in ")
    assert main(["data", "features", "things", *WORDS]) == 0
    assert capsys.readouterr().out.startswith("things.vit_t6 was already in ")
    words = ["stream=folder", "stream.data=things.vit_t6", "stream.experiences=2", "model=mlp", "model.depth=0"]
    assert main(["run", *words, "strategy=er", "learner.threads=1", "learner.device=cpu", "mlflow=off"]) == 0
    assert "er seed 0: final accuracy" in capsys.readouterr().out
    assert main(["data", "verify", "things.vit_t6", "model=mlp"]) == 2
    assert "takes no settings" in capsys.readouterr().err


def test_damaged_ones_say_how_they_are_mended(things):
    folder, _ = features("things", WORDS)
    with (folder / "test_x.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(Mistake, match=r"clbench data features things model=vit_t6 --to things\.vit_t6 --again$"):
        open_dataset("things.vit_t6")
