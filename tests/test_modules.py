from collections import OrderedDict

import pytest
import torch
from small import Net, images, lesson, opened, teach
from torch import nn

from clbench.errors import Mistake
from clbench.models import CNN, MLP, ConvBN, ResNet18, ResNet20
from clbench.modules import Drift, chosen, drift, groups, only, sensitivity, snapshot, swapped
from clbench.strategy import Strategy
from clbench.testing.bench import Perceptron

BN = ("bn.weight", "bn.bias", "bn.mean", "bn.var")


def with_head(body, features=8):
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(features, 4)))


def transformer():
    from clbench.vision import torchvision

    torchvision()
    from timm.models.vision_transformer import VisionTransformer

    body = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=0, init_values=1e-5
    )
    return with_head(body, 24)


def names(net):
    """The names of all parameters and floating-point buffers, in the network's order."""
    return [name for name, tensor in net.state_dict().items() if tensor.is_floating_point()]


@pytest.mark.parametrize(
    ("model", "shape", "sizes"),
    [
        (MLP(), (1, 28, 28), {"fc1": 2, "fc2": 2, "head": 2}),
        (CNN(), (1, 28, 28), {"stem": 2, "conv2": 2, "fc1": 2, "head": 2}),
        (ConvBN(), (3, 32, 32), {"stem": 1, **dict.fromkeys(BN, 3), "conv2": 1, "conv3": 1, "head": 2}),
        (
            ResNet18(width=2),
            (3, 32, 32),
            {"stem": 1, **dict.fromkeys(BN, 20), "stage1": 4, "stage2": 5, "stage3": 5, "stage4": 5, "head": 2},
        ),
        (
            ResNet20(width=2),
            (3, 32, 32),
            {"stem": 1, **dict.fromkeys(BN, 19), "stage1": 6, "stage2": 6, "stage3": 6, "head": 2},
        ),
        (Perceptron(), (4,), {"1": 2, **dict.fromkeys(BN, 1), "head": 2}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_groups_go_by_operation_and_position(model, shape, sizes):
    net = model.build(shape, 10)
    found = groups(net)
    assert {group: len(names) for group, names in found.items()} == sizes
    assert sorted(name for group in found.values() for name in group) == sorted(names(net))


def test_groups_of_a_residual_network_by_name():
    found = groups(ResNet18(width=2).build((3, 32, 32), 10))
    assert found["stem"] == ("body.stem.conv1.weight",)
    assert found["stage2"] == (
        "body.stage2.0.conv1.weight",
        "body.stage2.0.conv2.weight",
        "body.stage2.0.shortcut.conv1.weight",
        "body.stage2.1.conv1.weight",
        "body.stage2.1.conv2.weight",
    )
    assert found["bn.var"][:2] == ("body.stem.bn1.running_var", "body.stage1.0.bn1.running_var")


def test_groups_of_a_transformer():
    net = transformer()
    found = groups(net)
    parts = ("norm.weight", "norm.bias", "qkv", "proj", "ls1", "fc1", "fc2", "ls2")
    assert list(found) == [
        "embedding",
        *(f"{part}.{third}" for third in ("early", "middle", "late") for part in parts),
        "head",
    ]
    assert found["embedding"] == (
        "body.cls_token", "body.pos_embed", "body.patch_embed.proj.weight", "body.patch_embed.proj.bias"
    )  # fmt: skip
    assert found["qkv.middle"] == ("body.blocks.1.attn.qkv.weight", "body.blocks.1.attn.qkv.bias")
    assert found["norm.weight.late"] == ("body.blocks.2.norm1.weight", "body.blocks.2.norm2.weight", "body.norm.weight")
    assert sorted(name for group in found.values() for name in group) == sorted(names(net))


def test_depth_is_split_in_thirds():
    block = lambda: nn.Sequential(OrderedDict(attn=nn.Sequential(OrderedDict(qkv=nn.Linear(2, 2)))))  # noqa: E731
    body = nn.Sequential(OrderedDict(blocks=nn.Sequential(*(block() for _ in range(5)))))
    found = groups(with_head(body, 2))
    at = {group: [name.split(".")[2] for name in names[::2]] for group, names in found.items() if group != "head"}
    assert at == {"qkv.early": ["0", "1"], "qkv.middle": ["2", "3"], "qkv.late": ["4"]}


def test_groups_of_what_follows_no_plan():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.first = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2))
            self.plain = nn.Conv2d(2, 2, 1)
            self.blocks = nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Linear(2, 2)))
            self.register_buffer("count", torch.zeros(1, dtype=torch.int64))
            self.register_buffer("passing", torch.zeros(1), persistent=False)
            self.again = self.plain
            self.tied = nn.Linear(2, 2, bias=False)
            self.tied.weight = self.blocks[0][1].weight

    assert groups(Odd()) == {
        "scale": ("scale",),
        "stem": ("first.0.weight", "first.0.bias"),
        "first.1": ("first.1.weight", "first.1.bias"),
        "norm.weight": ("first.2.weight",),
        "norm.bias": ("first.2.bias",),
        "plain": ("plain.weight", "plain.bias"),
        "blocks.0": ("blocks.0.0.weight", "blocks.0.0.bias"),
        "blocks.0.1": ("blocks.0.1.weight", "blocks.0.1.bias"),
    }
    assert groups(nn.Linear(2, 2)) == {"weight": ("weight",), "bias": ("bias",)}
    assert groups(nn.ReLU()) == {}
    assert groups(nn.Sequential(nn.Embedding(3, 2), nn.LSTM(2, 2)))["0"] == ("0.weight",)


def test_names_that_are_chosen():
    given = {"stem": ("a",), "bn.mean": ("b", "c"), "bn.var": ("d",), "bnx": ("e",)}
    assert chosen(given, ["bn", "stem"]) == ["b", "c", "d", "a"]
    assert chosen(given, ["bn.var", "bn"]) == ["d", "b", "c"]
    with pytest.raises(Mistake, match=r"no module group named 'stm'. Did you mean 'stem'\?"):
        chosen(given, ["bn", "stm"])


def test_drift_is_the_mean_absolute_change_of_a_scalar():
    before = {"a": torch.tensor([[1.0, -2], [0, 1]]), "b": torch.tensor([4.0, -4]), "c": torch.zeros(3)}
    after = {"a": torch.tensor([[2.0, -4], [0, 0]]), "b": torch.tensor([4.0, -1]), "c": torch.tensor([0.0, -3, 0])}
    found = drift(before, after, {"a": ("a",), "ab": ("a", "b"), "c": ("c",), "none": ()})
    assert found == {
        "a": Drift(1.0, 1.0), "ab": Drift(pytest.approx(7 / 6), pytest.approx(7 / 12)), "c": Drift(1.0, None),
        "none": Drift(0.0, None),
    }  # fmt: skip
    assert drift(before, before, {"b": ("b",)}) == {"b": Drift(0.0, 0.0)}


def test_drift_is_summed_in_double_precision():
    before, after = {"a": torch.zeros(2**16)}, {"a": torch.full((2**16,), 1e-3)}
    before["a"][0] = 1e8
    after["a"][0] = 1e8 + 8
    assert drift(before, after, {"a": ("a",)})["a"].l1 == pytest.approx((8 + (2**16 - 1) * 1e-3) / 2**16, rel=1e-7)


def test_sensitivity_is_drift_across_by_drift_within():
    across = [{"a": 2.0, "b": 0.0, "c": 1.0, "d": 0.0}, {"a": 4.0, "b": 0.0, "c": 0.0, "d": 0.0}]
    within = [{"a": 1.0, "b": 0.0, "c": 0.0, "d": 3.0}, {"a": 2.0, "b": 0.0, "c": 0.0, "d": 0.0}]
    assert sensitivity(across, within * 3) == {"a": 2.0, "b": 0.0, "d": 0.0}
    assert sensitivity(across, []) == {"b": 0.0, "d": 0.0}
    assert sensitivity([], within) == {}


def test_a_snapshot_stays_as_it_was():
    net = ConvBN(width=2).build((1, 8, 8), 3).to(torch.float64)
    found, copies = snapshot(net), {name: t.clone() for name, t in net.state_dict().items()}
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.add_(1)
    assert list(found) == names(net)
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.device.type, tensor.requires_grad) == (torch.float32, "cpu", False)
        assert torch.equal(tensor, copies[name].float())


@pytest.mark.parametrize("fails", [False, True])
def test_only_some_train_and_afterwards_all_that_did(fails):
    net = ConvBN(width=2).build((1, 8, 8), 3)
    net.body.bn1.bias.requires_grad_(False)
    before = {name: p.requires_grad for name, p in net.named_parameters()}
    try:
        with only(net, {"body.bn1.bias", "body.bn2.weight", "body.bn3.running_mean"}) as still:
            assert [name for name, p in net.named_parameters() if p.requires_grad] == ["body.bn2.weight"]
            assert still == [net.body.bn1, net.body.bn2]
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert {name: p.requires_grad for name, p in net.named_parameters()} == before
    with only(net, chosen(groups(net), ["stem", "head"])) as still:
        assert still == [net.body.bn1, net.body.bn2, net.body.bn3]
        net.train()
        for module in still:
            module.eval()
        means = [module.running_mean.clone() for module in still]
        net(torch.rand(4, 1, 8, 8)).sum().backward()
    assert {name for name, p in net.named_parameters() if p.grad is not None} == set(
        chosen(groups(net), ["stem", "head"])
    )
    assert all(torch.equal(m.running_mean, mean) for m, mean in zip(still, means, strict=True))


def test_only_what_does_not_train():
    net = ConvBN(width=2).build((1, 8, 8), 3)
    net.head.requires_grad_(False)
    what = r"of body.conv1.weight, body.bn1.weight, body.bn1.bias and 6 more, .* chosen, head.weight, head.bias\."
    with pytest.raises(Mistake, match=what), only(net, ["head.weight", "head.bias"]):
        pass
    with pytest.raises(Mistake, match="chosen, nothing"), only(net, []):
        pass
    assert sum(p.requires_grad for p in net.parameters()) == 9


def test_only_running_statistics():
    net = ConvBN(width=2).build((1, 8, 8), 3)
    with only(net, chosen(groups(net), ["bn.mean", "bn.var"])) as still:
        assert still == []
        assert not any(p.requires_grad for p in net.parameters())
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("fails", [False, True])
def test_swapped_weights_come_back_bit_for_bit(fails):
    learner = opened(model=Net(8), batch=4)
    teach(learner, Strategy(), [lesson(images([0, 1, 2, 3] * 4))])
    net = learner.model
    with torch.no_grad():
        net.head.bias[0] = float("nan")
    net.head.bias.grad = torch.ones(4)
    objects = dict(net.named_parameters())
    bits = {name: p.detach().view(torch.int32).clone() for name, p in objects.items()}
    other = {"body.1.weight": torch.full((8, 16), 0.5), "head.bias": torch.arange(4.0)}
    try:
        with swapped(net, other):
            assert torch.equal(net.body[1].weight, other["body.1.weight"])
            assert torch.equal(net.head.bias, other["head.bias"])
            assert torch.equal(net.head.weight.detach().view(torch.int32), bits["head.weight"])
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert all(p is objects[name] and p.requires_grad for name, p in net.named_parameters())
    assert all(torch.equal(p.detach().view(torch.int32), bits[name]) for name, p in objects.items())
    assert other["head.bias"].tolist() == [0, 1, 2, 3]


def test_nothing_is_swapped_where_a_name_or_a_shape_is_wrong():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = snapshot(net)
    with pytest.raises(KeyError, match="no such"), swapped(net, {"0.bias": torch.ones(2), "no such": torch.ones(2)}):
        pass
    with pytest.raises(RuntimeError), swapped(net, {"1.running_mean": torch.ones(2), "0.bias": torch.ones(3)}):
        pass
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(net).items())
