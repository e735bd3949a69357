import random
from copy import deepcopy
from math import sqrt

import numpy as np
import pytest
import torch
from torch import nn

from clbench import catalogue
from clbench.errors import Mistake
from clbench.flops import counted
from clbench.models import CATALOGUE, CNN, MLP, ConvBN, ResNet18, ResNet20, ViT
from clbench.pretrained import Timm
from clbench.resnet import Block, Padded
from clbench.vision import torchvision

ANY_SIZE = [MLP(), ConvBN(width=4), ResNet18(width=4), ResNet20(width=4)]
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (2, 9, 21)]


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def weights(model, seed):
    torch.manual_seed(seed)
    return model.build((3, 32, 32), 5).state_dict()


@pytest.fixture
def timm():
    torchvision()
    import timm

    return timm


@pytest.fixture
def no_network(tmp_path, monkeypatch, timm):
    """A hub that cannot be reached, and nothing kept of it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


def test_every_name_stands_for_a_model():
    for name in CATALOGUE:
        assert callable(catalogue.resolve("model", name).build)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("model", ANY_SIZE, ids=lambda m: type(m).__name__)
def test_a_model_is_a_head_on_a_vector_of_features(model, shape):
    net = model.build(shape, 7)
    x = torch.randn(3, *shape)
    features = net.body(x)
    assert isinstance(net.head, nn.Linear)
    assert features.shape == (3, net.head.in_features)
    assert torch.isfinite(features).all()
    assert features.std() > 0
    assert net(x).shape == (3, 7)
    assert torch.equal(net(x), net.head(net.body(x)))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (2, 16, 21)], ids=str)
def test_cnn_takes_images_from_16_pixels(shape):
    net = CNN().build(shape, 7)
    features = net.body(torch.randn(3, *shape))
    assert features.shape == (3, 50)
    assert torch.isfinite(features).all()
    assert net(torch.randn(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 15)])
def test_cnn_says_which_images_are_too_small(shape):
    with pytest.raises(Mistake, match=rf"at least 16 x 16, not {shape[1]} x {shape[2]}"):
        CNN().build(shape, 7)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_lie_innermost_in_a_cnn_and_its_answers_are_the_same(channels):
    net, x = CNN().build((channels, 28, 28), 10), torch.rand(5, channels, 28, 28)
    plain = deepcopy(net)
    conv = nn.Conv2d(channels, 10, 5)
    conv.load_state_dict(plain.get_submodule("body.conv1").state_dict())
    plain.set_submodule("body.conv1", conv)
    assert net.get_submodule("body.conv1")(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(net(x), plain(x), atol=1e-6)
    net(x).square().sum().backward()
    plain(x).square().sum().backward()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        assert ours.is_contiguous()
        assert ours.grad.is_contiguous()
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


@pytest.mark.parametrize("model", [CNN(), ConvBN(), ResNet18(), ResNet20(), ViT(), Timm("resnet18")])
def test_a_net_for_images_wants_images(model):
    with pytest.raises(Mistake, match="samples are 784"):
        model.build((784,), 10)


def test_mlp_takes_any_shape():
    assert MLP().build((784,), 10)(torch.randn(2, 784)).shape == (2, 10)


@pytest.mark.parametrize(
    ("model", "shape", "classes", "count"),
    [
        # weights and biases of 784 -> 100 -> 100 -> 10
        (MLP(), (1, 28, 28), 10, 78_400 + 100 + 10_000 + 100 + 1_000 + 10),
        (MLP(hidden=5, depth=1), (1, 8, 8), 10, 64 * 5 + 5 + 5 * 10 + 10),
        (MLP(depth=0), (1, 8, 8), 10, 650),
        # 28 -> 24 -> 12 -> 8 -> 4 pixels a side: 320 numbers enter fc1
        (CNN(), (1, 28, 28), 10, (250 + 10) + (5_000 + 20) + (320 * 50 + 50) + (500 + 10)),
        # 32 -> 28 -> 14 -> 10 -> 5
        (CNN(), (3, 32, 32), 10, (750 + 10) + (5_000 + 20) + (500 * 50 + 50) + (500 + 10)),
        # convolutions, normalisations, and a head on 128 filters x 4 x 4 positions
        (ConvBN(), (3, 32, 32), 100, (648 + 10_368 + 41_472) + 2 * 168 + (1_536 * 100 + 100)),
        # 64 x 64 leaves 8 x 8 positions, averaged to 4 x 4; 8 x 8 leaves one
        (ConvBN(), (3, 64, 64), 100, (648 + 10_368 + 41_472) + 2 * 168 + (1_536 * 100 + 100)),
        (ConvBN(), (3, 8, 8), 100, (648 + 10_368 + 41_472) + 2 * 168 + (96 * 100 + 100)),
        # stem 1,856; stages 147,968, 525,568, 2,099,712, 8,393,728; head 5,130
        (ResNet18(), (3, 32, 32), 10, 11_173_962),
        # stem 464; stages 14,016, 51,072, 203,520; head 650: shortcuts of option A have no parameters
        (ResNet20(), (3, 32, 32), 10, 269_722),
        # a patch's 48 numbers to 96, 64 positions; in a block qkv, proj, fc1, fc2, two norms; a norm and the head
        (ViT(), (3, 32, 32), 10, 49 * 96 + 64 * 96 + 6 * (97 * 288 + 97 * 96 + 97 * 384 + 385 * 96 + 384) + 192 + 970),
    ],
)
def test_parameters_counted_by_hand(model, shape, classes, count):
    assert parameters(model.build(shape, classes)) == count


def test_names_are_readable():
    names = [name for name, _ in ResNet18(width=2).build((3, 8, 8), 2).named_modules()]
    assert {"body.stem.conv1", "body.stem.bn1", "body.stage1.0.conv1", "body.stage4.1.bn2", "head"} <= set(names)
    assert "body.stage2.0.shortcut.bn1" in names
    assert list(dict(ConvBN().build((3, 8, 8), 2).body.named_parameters()))[:3] == [
        "conv1.weight", "bn1.weight", "bn1.bias",
    ]  # fmt: skip
    names = [name for name, _ in ViT(depth=1).build((1, 8, 8), 2).named_parameters()]
    assert {"body.pos_embed", "body.patch_embed.proj.weight", "body.norm.weight", "head.bias"} <= set(names)
    assert {f"body.blocks.0.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")} <= set(names)
    assert [name for name, _ in MLP().build((4,), 2).named_parameters()][::2] == [
        "body.fc1.weight", "body.fc2.weight", "head.weight",
    ]  # fmt: skip


@pytest.mark.parametrize("model", [*ANY_SIZE, CNN(), ViT()], ids=lambda m: type(m).__name__)
def test_every_parameter_gets_a_gradient(model):
    net = model.build((3, 32, 32), 5)
    net(torch.randn(8, 3, 32, 32)).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("model", [*ANY_SIZE, CNN(), ViT()], ids=lambda m: type(m).__name__)
def test_weights_come_from_the_global_generator_of_torch(model):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = weights(model, 3)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    again, other = weights(model, 3), weights(model, 4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if first[name].ndim > 1]
    assert drawn
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_mlp_starts_as_xavier_uniform_without_bias():
    net = MLP().build((1, 28, 28), 10)
    for layer in (net.body.fc1, net.body.fc2, net.head):
        bound = sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.97 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / sqrt(3), rel=0.1)
        assert not layer.bias.any()


@pytest.mark.parametrize("model", [ConvBN(), ResNet18(), ResNet20()], ids=lambda m: type(m).__name__)
def test_convolutions_start_as_kaiming_normal(model):
    for module in model.build((3, 32, 32), 10).modules():
        if isinstance(module, nn.Conv2d):
            scale = sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            assert module.weight.std().item() == pytest.approx(scale, rel=0.15)
            assert module.bias is None
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert not module.bias.any()


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (ResNet18(width=2), [(2, 32), (2, 32), (4, 16), (8, 8), (16, 4)]),
        (ResNet20(width=2), [(2, 32), (2, 32), (4, 16), (8, 8)]),
    ],
)
def test_stages_double_the_filters_and_halve_the_resolution(model, sizes):
    body = model.build((3, 32, 32), 10).body
    x, seen = torch.randn(1, 3, 32, 32), []
    for name, stage in body.eval().named_children():
        x = stage(x)
        if name.startswith(("stem", "stage")):
            seen.append(tuple(x.shape[1:3]))
    assert seen == sizes


def test_a_block_adds_its_input():
    """With its last normalisation at zero, a block is the ReLU of its shortcut."""
    x = torch.randn(2, 3, 4, 4)
    for block, shortcut in (
        (Block(3, 3, 1, projection=True), x),
        (Block(3, 5, 2, projection=False), torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 2, 2, 2)], 1)),
    ):
        nn.init.zeros_(block.bn2.weight)
        assert torch.equal(block(x), shortcut.relu())
    assert not list(Padded(2, 2).parameters())


def test_a_projection_changes_shape():
    block = Block(3, 5, 2, projection=True)
    assert parameters(block.shortcut) == 3 * 5 + 2 * 5
    assert block(torch.randn(2, 3, 4, 4)).shape == (2, 5, 2, 2)


@pytest.mark.parametrize(("shape", "patch"), [((1, 8, 8), 2), ((3, 32, 32), 8), ((2, 6, 21), 3)], ids=str)
def test_vit_takes_images_that_its_patches_tile(shape, patch):
    net = ViT(patch, width=12, depth=2).build(shape, 7)
    features = net.body(torch.randn(3, *shape))
    assert features.shape == (3, 12)
    assert features.std() > 0
    assert net(torch.randn(3, *shape)).shape == (3, 7)
    assert net.body.pos_embed.shape == (1, shape[1] * shape[2] // patch**2, 12)


def test_vit_says_what_does_not_fit():
    with pytest.raises(Mistake, match=r"model\.patch=4 does not divide images of 6 x 18; .* do: 1, 2, 3, 6\.$"):
        ViT().build((1, 6, 18), 10)
    with pytest.raises(Mistake, match=r"model\.width=100 must be a multiple of model\.heads=3"):
        ViT(width=100).build((1, 8, 8), 10)


def test_vit_tells_positions_apart_and_drops_nothing():
    net = ViT(width=24, depth=2).build((1, 8, 8), 3).train()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(net(x), net(x))
    assert not torch.allclose(net(x), net(x.roll(4, dims=3)), atol=1e-3)
    nn.init.zeros_(net.body.pos_embed)
    assert torch.allclose(net(x), net(x.roll(4, dims=3)), atol=1e-5)


def test_vit_starts_as_xavier_uniform_without_bias():
    net = ViT().build((3, 32, 32), 10)
    block = net.body.blocks[1]
    patches = net.body.patch_embed.proj
    for layer in (patches, block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2, net.head):
        weight = layer.weight.flatten(1)
        assert weight.std().item() == pytest.approx(sqrt(2 / sum(weight.shape)), rel=0.1)
        assert not layer.bias.any()
    assert net.body.pos_embed.std().item() == pytest.approx(0.5, rel=0.05)


def test_the_attention_of_vit_is_counted():
    net, patches, width, depth = ViT(patch=2, width=24, depth=3).build((1, 8, 8), 5).eval(), 16, 24, 3
    weights = patches * (4 * width + depth * 12 * width**2) + 5 * width
    attention = depth * 2 * patches**2 * width
    with torch.inference_mode(), counted() as count:
        net(torch.randn(1, 1, 8, 8))
    assert count() == 2 * (weights + attention)


@pytest.mark.parametrize(("name", "features"), [("resnet18", 512), ("vit_tiny_patch16_224", 192)])
def test_timm_models_are_made_for_the_images_of_the_stream(timm, name, features):
    net = Timm(name).build((1, 32, 32), 6)
    assert net.training
    assert net.head.in_features == features
    assert net.body(torch.randn(2, 1, 32, 32)).shape == (2, features)
    assert net(torch.randn(2, 1, 32, 32)).shape == (2, 6)


def test_timm_starts_from_the_seed(timm):
    first, again = (weights(Timm("resnet10t"), 3) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_timm_names_only_near_ones(timm):
    with pytest.raises(Mistake) as caught:
        Timm("resnt18").build((3, 32, 32), 10)
    line = str(caught.value)
    assert "no model named 'resnt18'" in line
    assert "'resnet18'" in line
    assert len(line) < 200


def test_timm_with_weights_that_do_not_exist(timm):
    with pytest.raises(Mistake, match=r"Invalid pretrained tag \(nope\)"):
        Timm("resnet18.nope").build((3, 32, 32), 10)


def test_timm_with_images_that_are_too_small(timm):
    with pytest.raises(Mistake, match=r"'vit_tiny_patch16_224' for images of 3 x 8 x 8: .*[Kk]ernel"):
        Timm("vit_tiny_patch16_224").build((3, 8, 8), 10)


def test_timm_models_without_a_vector_of_features(timm, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: nn.Conv2d(3, 4, 3))
    with pytest.raises(Mistake, match="'resnet18' gives 4 x 30 x 30 numbers for an image"):
        Timm("resnet18").build((3, 32, 32), 10)


@pytest.mark.usefixtures("no_network")
def test_timm_without_a_network():
    with pytest.raises(Mistake, match=r"make 'resnet18.a1_in1k' .* weights could not be loaded") as caught:
        Timm("resnet18.a1_in1k", pretrained=True).build((3, 32, 32), 10)
    assert "\n" not in str(caught.value)
