import copy
import math
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from small import opened, vit_b16
from torch import nn

from clbench.adapters import (
    FEED_FORWARD,
    QKV,
    Adapted,
    bottleneck,
    freeze,
    lora,
    masks,
    merge,
    prefixed,
    prefixes,
    prompts,
    reset,
    scale_shift,
    trainable,
    transformer,
)
from clbench.errors import Mistake
from clbench.models import MLP, ViT
from clbench.modules import groups, swapped

GROWN = {
    "lora": lambda model: lora(model, rf"{QKV}|{FEED_FORWARD}", 2, dropout=0.1),
    "lora of q and v": lambda model: lora(model, QKV, 2, parts=(0, 2)),
    "bottleneck": lambda model: bottleneck(model, 3),
    "scale and shift": scale_shift,
    "masks": lambda model: masks(model, rf"{QKV}|{FEED_FORWARD}"),
    "prompts": lambda model: prompts(model, 2),
    "shallow prompts": lambda model: prompts(model, 2, deep=False),
}
NEUTRAL = ["lora", "lora of q and v", "bottleneck", "masks"]


def small(classes=4):
    torch.manual_seed(0)
    return ViT(patch=4, width=12, depth=2, heads=3).build((1, 8, 8), classes).eval()


def disturbed(model, names):
    """New weights that are not at their neutral beginning."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).normal_()


x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def full_size():
    return vit_b16()


# Numbers of weights: derived from the papers' definitions for ViT-B/16.
@pytest.mark.parametrize(
    ("grow", "count"),
    [
        (lambda model: bottleneck(model, 16), 304_320),
        (lambda model: bottleneck(model, 64), 1_189_632),
        (lambda model: prompts(model, 5, deep=False), 3_840),
        (lambda model: prompts(model, 5), 46_080),
        (lambda model: prompts(model, 30), 276_480),
        (scale_shift, 205_824),
        (lambda model: lora(model, QKV, 16, parts=(0, 2)), 589_824),
        (lambda model: lora(model, FEED_FORWARD, 8), 737_280),
    ],
)
def test_as_many_weights_as_the_papers_have(full_size, grow, count):
    model = copy.deepcopy(full_size)
    freeze(model, grow(model))
    assert trainable(model) == count


@pytest.mark.parametrize("kind", GROWN)
def test_names_of_what_was_there_stay(kind):
    model, before = small(), dict(small().state_dict())
    new = GROWN[kind](model)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert set(after) - set(before) == set(new)


@pytest.mark.parametrize("kind", NEUTRAL)
def test_nothing_changes_at_first(kind):
    model = small()
    before = model(x)
    GROWN[kind](model)
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("kind", GROWN)
def test_forward_changes_nothing_and_new_weights_count(kind):
    model = small()
    before = model(x)
    disturbed(model, GROWN[kind](model))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    found = model(x)
    assert not torch.allclose(found, before)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(model(x[:2]), found[:2])


@pytest.mark.parametrize("kind", GROWN)
def test_a_deep_copy_is_on_its_own(kind):
    model = small()
    new = GROWN[kind](model)
    other = copy.deepcopy(model)
    disturbed(other, new)
    theirs = other(x)
    disturbed(model, new)
    with torch.no_grad():
        for name in new:
            model.get_parameter(name).zero_()
    assert torch.equal(other(x), theirs)
    other.zero_grad()
    other(x).sum().backward()
    assert all(other.get_parameter(name).grad is not None for name in new)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", GROWN)
def test_only_what_is_new_trains(kind):
    model = small()
    new = GROWN[kind](model)
    freeze(model, [*new, "head."])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {*new, "head.weight", "head.bias"}


@pytest.mark.parametrize("kind", GROWN)
def test_the_seed_alone_decides(kind):
    torch.manual_seed(3)
    one, other = small(), small()
    GROWN[kind](one)
    torch.rand(7)
    GROWN[kind](other)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_lora_is_w_plus_b_a():
    model = opened(model=MLP(hidden=6, depth=1), side=2).model
    layer = model.body.fc1
    lora(model, "fc1", 2, alpha=3)
    disturbed(model, ["body.fc1.lora_b"])
    inputs = torch.rand(3, 4)
    w = layer.weight + 3 / 2 * layer.lora_b[0] @ layer.lora_a[0]
    torch.testing.assert_close(layer(inputs), F.linear(inputs, w, layer.bias))


def test_lora_of_query_and_value_leaves_the_key():
    model = small()
    disturbed(model, lora(model, QKV, 2, parts=(0, 2)))
    layer = model.body.blocks[0].attn.qkv
    moved = layer.difference().view(3, 12, 12)
    torch.testing.assert_close(moved[0], layer.lora_b[0] @ layer.lora_a[0])
    torch.testing.assert_close(moved[2], layer.lora_b[1] @ layer.lora_a[1])
    assert not moved[1].any()
    inputs = torch.rand(3, 12)
    torch.testing.assert_close(layer(inputs), F.linear(inputs, layer.weight + layer.difference(), layer.bias))


def test_merged_answers_the_same_and_starts_anew():
    model = small()
    new = lora(model, rf"{QKV}|{FEED_FORWARD}", 2)
    disturbed(model, new)
    with torch.no_grad():
        for name in new:
            model.get_parameter(name).mul_(0.1)
    before = model(x)
    merge(model)
    reset(model, seed=5)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    assert not any(model.get_parameter(name).any() for name in new if name.endswith("lora_b"))
    layer = model.body.blocks[0].mlp.fc1
    assert layer.lora_a.abs().max() <= 1 / math.sqrt(12)


def test_lora_equals_that_of_peft():
    from peft import LoraConfig, inject_adapter_in_model

    ours, theirs = small(), small()
    lora(ours, FEED_FORWARD, 3, alpha=6)
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=6, target_modules=rf".*{FEED_FORWARD}"), theirs)
    for path, module in ours.named_modules():
        if hasattr(module, "lora_a"):
            nn.init.normal_(module.lora_b)
            twin = theirs.get_submodule(path)
            twin.lora_A["default"].weight.data.copy_(module.lora_a[0])
            twin.lora_B["default"].weight.data.copy_(module.lora_b[0])
    torch.testing.assert_close(ours(x), theirs(x))


def test_the_adapter_sees_what_comes_before_the_second_normalisation():
    model = small()
    disturbed(model, bottleneck(model, 3, factor=0.5))
    block = model.body.blocks[0]
    assert isinstance(block, Adapted)
    tokens = torch.rand(2, 4, 12)
    middle = tokens + block.attn(block.norm1(tokens))
    down = F.linear(middle, block.adapter.down.weight, block.adapter.down.bias).relu()
    up = F.linear(down, block.adapter.up.weight, block.adapter.up.bias)
    torch.testing.assert_close(block(tokens), middle + block.mlp(block.norm2(middle)) + 0.5 * up)


def test_scale_and_shift_by_channel():
    model = small()
    plain = model.body.patch_embed.proj(x)
    scale_shift(model)
    layer = model.body.patch_embed.proj
    torch.testing.assert_close(layer(x), plain * layer.scale[:, None, None] + layer.shift[:, None, None])


def test_prompts_are_tokens_that_are_taken_away_again():
    model = small()
    disturbed(model, prompts(model, 2))
    block, tokens = model.body.blocks[0], torch.rand(2, 4, 12)
    longer = torch.cat([tokens, block.prompt.expand(2, -1, -1)], 1)
    torch.testing.assert_close(block(tokens), super(type(block).__mro__[1], block).forward(longer)[:, :4])


def test_shallow_prompts_go_through_all_blocks_and_are_taken_away_at_the_end():
    model = small()
    disturbed(model, prompts(model, 2, deep=False))
    body = model.body
    tokens = body.norm_pre(body._pos_embed(body.patch_embed(x)))
    longer = torch.cat([tokens, body.blocks.prompt.expand(5, -1, -1)], 1)
    for block in body.blocks:
        longer = block(longer)
    assert longer.shape[1] == tokens.shape[1] + 2
    features = body.forward_head(body.norm(longer[:, : tokens.shape[1]]), pre_logits=True)
    torch.testing.assert_close(model(x), model.head(features))


def test_a_prefix_is_attended_to():
    model = small()
    before = model(x)
    prefixes(model, [1])
    torch.testing.assert_close(model(x), before)
    attention, tokens = model.body.blocks[1].attn, torch.rand(2, 4, 12)
    keys, values = torch.rand(2, 3, 12), torch.rand(2, 3, 12)
    with prefixed(model, {1: (keys, values)}):
        found = attention(tokens)
    q, k, v = attention.qkv(tokens).chunk(3, -1)
    k, v = torch.cat([keys, k], 1), torch.cat([values, v], 1)
    parts = [part.unflatten(-1, (3, 4)).transpose(1, 2) for part in (q, k, v)]
    weights = (parts[0] @ parts[1].transpose(-2, -1) / 2).softmax(-1)
    torch.testing.assert_close(found, attention.proj((weights @ parts[2]).transpose(1, 2).flatten(2)))
    torch.testing.assert_close(model(x), before)


def test_two_kinds_on_one_module():
    model = small()
    new = [*lora(model, QKV, 2), *scale_shift(model, QKV)]
    disturbed(model, new)
    layer, inputs = model.body.blocks[0].attn.qkv, torch.rand(3, 12)
    w = layer.weight + layer.difference()
    torch.testing.assert_close(layer(inputs), F.linear(inputs, w, layer.bias) * layer.scale + layer.shift)


def test_values_of_another_task_can_be_put_in():
    model = small()
    new = bottleneck(model, 3)
    before, other = model(x), {name: torch.rand_like(model.get_parameter(name)) for name in new}
    with swapped(model, other):
        assert not torch.allclose(model(x), before)
    assert torch.equal(model(x), before)


def test_groups_name_new_weights_by_depth():
    model = small()
    lora(model, QKV, 2)
    bottleneck(model, 3)
    found = groups(model)
    assert "body.blocks.0.attn.qkv.lora_a" in found["qkv.early"]
    assert "body.blocks.1.adapter.down.weight" in found["down.late" if "down.late" in found else "down.middle"]


def test_what_is_no_transformer_is_refused():
    with pytest.raises(Mistake, match="needs a vision transformer"):
        transformer(MLP().build((4,), 2))
    with pytest.raises(Mistake, match="No module of VisionTransformer matches 'fc9'"):
        lora(small(), "fc9", 2)


@pytest.mark.parametrize("module", [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.GroupNorm(1, 3)])
def test_maps_are_scaled_and_shifted_by_channel(module):
    given = torch.rand(2, 1 if isinstance(module, nn.Conv2d) else 3, 5, 5)
    net = nn.Sequential(OrderedDict(body=nn.Sequential(OrderedDict(one=copy.deepcopy(module)))))
    names = scale_shift(net, "one")
    scale, shift = (net.get_parameter(name).detach().view(-1, 1, 1) for name in names)
    torch.testing.assert_close(net(given), module(given) * scale + shift)
