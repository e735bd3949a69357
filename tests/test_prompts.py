"""Methods whose prompts steer a transformer that stands still: L2P, DualPrompt, CODA-Prompt."""

import copy
import math
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from small import Transformer, images, lesson, opened, syllabus, teach, vit_b16
from torch import nn

from clbench.adapters import freeze, inserted, prefixed, tokens, trainable, transformer
from clbench.batch import Batch
from clbench.errors import Mistake
from clbench.models import ViT
from clbench.strategies.baselines import Naive
from clbench.strategies.coda_prompt import CODAPrompt, agreement, cosine, orthonormal
from clbench.strategies.dual_prompt import DualPrompt
from clbench.strategies.l2p import L2P
from clbench.strategies.prompted import query
from clbench.vision import torchvision

CASES = {
    "l2p": lambda: L2P(pool=4, length=2, top=2),
    "l2p batchwise": lambda: L2P(pool=4, length=2, top=2, batchwise=True),
    "dual_prompt": lambda: DualPrompt(general=2, expert=2, general_blocks=(0,), expert_blocks=(1,)),
    "coda_prompt": lambda: CODAPrompt(components=6, length=2, blocks=(0, 1)),
}
x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(2))


def two_lessons():
    return [lesson(images([0, 1] * 20)), lesson(images([2, 3] * 20), 1)]


def learner(**options):
    return opened(model=Transformer(), **{"batch": 8, "lr": 0.05, **options})


def started(strategy, lessons=2, **options):
    """After `start`, with all classes the experience's own."""
    found = learner(**options)
    strategy.start(found, syllabus(sizes=[40] * lessons))
    strategy.own[:] = True
    return found, transformer(found.model).prompts


def disturbed(pool, seed=1):
    """Other prompts than those that were drawn."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in pool.values():
            parameter.copy_(torch.rand(parameter.shape, generator=rng) - 0.5)


def with_class_token(width=12):
    torchvision()
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    body = VisionTransformer((4, 4), 2, 1, num_classes=0, embed_dim=width, depth=2, num_heads=3)
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(width, 4))).eval()


# What all have in common.


@pytest.mark.parametrize("case", CASES)
def test_the_network_stands_still_bit_for_bit(case):
    found = learner(optimizer="adamw", weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in found.model.named_parameters()}
    strategy = teach(found, CASES[case](), two_lessons())
    with torch.inference_mode():
        strategy.predict(found, x)
    after = dict(found.model.named_parameters())
    moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert moved == {"head.weight", "head.bias"}
    assert {name for name, p in after.items() if p.requires_grad} == moved | (after.keys() - before.keys())


@pytest.mark.parametrize("case", CASES)
def test_the_query_knows_of_no_prompts(case):
    strategy = CASES[case]()
    found, pool = started(strategy)
    plain = opened(model=Transformer()).features(x)
    answers = []
    for seed in (1, 2):
        disturbed(pool, seed)
        asked = query(found, x)
        torch.testing.assert_close(asked, plain)
        assert not asked.requires_grad
        answers.append(strategy.predict(found, x))
    assert not torch.allclose(*answers)


@pytest.mark.parametrize("case", CASES)
def test_all_that_a_step_trains_gets_a_gradient(case):
    strategy = CASES[case]()
    found, _ = started(strategy)
    strategy.loss(found, Batch(x, torch.tensor([0, 1, 2, 3, 0]), x)).backward()
    used = {name for name, p in found.model.named_parameters() if p.grad is not None and p.grad.any()}
    others = {name for name, p in found.model.named_parameters() if p.requires_grad and "_1" not in name} - used
    assert not others
    assert not any("_1" in name for name in used)


@pytest.mark.parametrize("case", CASES)
def test_the_second_pass_counts(case):
    found = learner()
    teach(found, CASES[case](), two_lessons()[:1])
    plain = learner()
    freeze(plain.model, ["head."])
    teach(plain, Naive(), two_lessons()[:1])
    assert found.flops.total > 2 * plain.flops.total


@pytest.fixture(scope="module")
def full_size():
    return vit_b16()


# Numbers of weights: derived from the papers' definitions for ViT-B/16.
@pytest.mark.parametrize(
    ("strategy", "count"),
    [(L2P(), 46_080), (DualPrompt(), 15_360 + 230_400 + 7_680), (CODAPrompt(), 3_840_000)],
)
def test_as_many_weights_as_the_papers_have(full_size, strategy, count):
    found = SimpleNamespace(model=copy.deepcopy(full_size), where="meta", seed=0, renews=lambda: None)
    strategy.start(found, syllabus(classes=100, sizes=[1] * 10))
    assert trainable(found.model) == count + 100 * 769


@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (L2P(pool=3, top=4), r"^strategy.top=4: there are only 3 prompts"),
        (DualPrompt(), r"^Prompts would go into the blocks 0, 1, 2, 3, 4; this network has the blocks 0 to 1"),
        (DualPrompt(general_blocks=(0, 1), expert_blocks=(1,)), "each can be named once"),
        (CODAPrompt(blocks=()), "Prompts would go into the blocks none"),
        (CODAPrompt(components=1, blocks=(0,)), "^strategy.components=1: with 2 experiences .* it must be 2 to 12"),
        (CODAPrompt(components=13, blocks=(0,)), "^strategy.components=13: .* it must be 2 to 12"),
    ],
)
def test_what_does_not_fit_is_refused(strategy, line):
    with pytest.raises(Mistake, match=line):
        started(strategy)


# Further tokens.


@pytest.mark.parametrize("class_token", [False, True])
def test_tokens_stand_before_the_patches_and_answer(class_token):
    model = with_class_token() if class_token else ViT(patch=2, width=12, depth=2, heads=3).build((1, 4, 4), 4).eval()
    body, more = model.body, torch.rand(5, 3, 12)
    before, patches = model(x), body.patch_embed(x)
    if class_token:
        own = torch.cat([body.cls_token.expand(5, -1, -1), patches], 1) + body.pos_embed
        sequence = torch.cat([own[:, :1], more + body.pos_embed[:, :1], own[:, 1:]], 1)
    else:
        sequence = torch.cat([more, patches + body.pos_embed], 1)
    outputs = body.norm(body.blocks(sequence))[:, int(class_token) :][:, :3]
    tokens(model)
    assert torch.equal(model(x), before)
    with inserted(model, more):
        torch.testing.assert_close(model(x), model.head(outputs.mean(1)))
        twin = copy.deepcopy(model)
    assert torch.equal(model(x), before)
    torch.testing.assert_close(twin(x), model.head(outputs.mean(1)))


# L2P.


def test_a_sample_is_given_the_prompts_with_the_nearest_keys():
    strategy = L2P(pool=3, length=2, top=2)
    found, pool = started(strategy)
    queries = query(found, x[:2])
    with torch.no_grad():
        pool["key"].copy_(torch.stack([3 * queries[0], -queries[0], queries[0] + 0.5 * queries[1]]))
    near = F.cosine_similarity(queries[:1, None], pool["key"][None], dim=2)
    assert strategy.choose(near).tolist() == [[0, 2]]
    with inserted(found.model, torch.cat([pool["token"][0], pool["token"][2]])[None]):
        expected = found(x[:1])
    torch.testing.assert_close(strategy.predict(found, x[:1]), expected)
    torch.testing.assert_close(strategy.predict(found, x)[:1], expected)


def test_chosen_keys_are_drawn_to_the_queries():
    strategy = L2P(pool=4, length=2, top=2, pull=0.3)
    found, pool = started(strategy)
    batch = Batch(x, torch.tensor([0, 1, 0, 1, 0]), x)
    near = F.cosine_similarity(query(found, x)[:, None], pool["key"][None], dim=2)
    expected = found.criterion(strategy.predict(found, x), batch.y) - 0.3 * near.topk(2).values.sum(1).mean()
    torch.testing.assert_close(strategy.loss(found, batch), expected)


def test_batchwise_all_are_given_what_most_choose_in_training_alone():
    strategy = L2P(pool=4, length=1, top=1, batchwise=True, pull=1.0)
    found, pool = started(strategy)
    queries = query(found, x)
    with torch.no_grad():
        pool["key"].copy_(torch.stack([queries[0], queries[1], queries[2], -queries.mean(0)]))
    mine = F.cosine_similarity(queries[:, None], pool["key"][None], dim=2)
    rows = torch.tensor([0, 1, 1])
    batch = Batch(x[rows], torch.tensor([0, 1, 1]), x[rows])
    answers = strategy.answer(found, batch.x, torch.tensor([[1]]).expand(3, 1))
    expected = found.criterion(answers, batch.y) - mine[rows, 1].mean()
    torch.testing.assert_close(strategy.loss(found, batch), expected)
    torch.testing.assert_close(strategy.predict(found, x[:1]), strategy.answer(found, x[:1], torch.tensor([[0]])))


# DualPrompt.


def experts(strategy, pool, lessons=2):
    return [pool[f"expert_{n}"].detach().clone() for n in range(lessons)], [
        pool[f"key_{n}"].detach().clone() for n in range(lessons)
    ]


def test_the_expert_of_an_experience_trains_alone_and_begins_as_the_last():
    strategy = CASES["dual_prompt"]()
    found, pool = started(strategy)
    (drawn, later), _ = experts(strategy, pool)
    first, second = two_lessons()
    found.begin(first)
    strategy.learn(found, first)
    found.end()
    (one, other), (key, _) = experts(strategy, pool)
    assert not torch.equal(one, drawn)
    assert torch.equal(other, later)
    found.begin(second)
    strategy.lesson = 1
    strategy.follow(found)
    assert torch.equal(pool["expert_1"], one)
    strategy.learn(found, second)
    (still, trained), (same, _) = experts(strategy, pool)
    assert torch.equal(still, one)
    assert torch.equal(same, key)
    assert not torch.equal(trained, one)


def test_the_expert_with_the_nearest_key_answers_of_those_that_have_been_trained():
    strategy = CASES["dual_prompt"]()
    found, pool = started(strategy, lessons=3)
    disturbed(pool)
    queries = query(found, x[:2])
    with torch.no_grad():
        pool["key_0"].copy_(-queries[0])
        pool["key_1"].copy_(2 * queries[0])
        pool["key_2"].copy_(3 * queries[0])
    for lesson_now, chosen in ((0, 0), (1, 1)):
        strategy.lesson = lesson_now
        general, expert = pool["general"], pool[f"expert_{chosen}"]
        with prefixed(found.model, {0: (general[0, :1], general[0, 1:]), 1: (expert[0, :1], expert[0, 1:])}):
            expected = found(x[:1])
        torch.testing.assert_close(strategy.predict(found, x)[:1], expected)


def test_training_uses_the_expert_of_the_experience_whatever_the_query():
    strategy = CASES["dual_prompt"]()
    found, pool = started(strategy)
    strategy.lesson = 1
    batch = Batch(x, torch.tensor([0, 1, 0, 1, 0]), x)
    near = F.cosine_similarity(query(found, x), pool["key_1"][None])
    answers = strategy.answer(found, x, pool["expert_1"][None])
    torch.testing.assert_close(strategy.loss(found, batch), found.criterion(answers, batch.y) - 0.1 * near.mean())


# CODA-Prompt.


def test_a_prompt_is_the_weighed_sum_of_components():
    strategy = CASES["coda_prompt"]()
    found, pool = started(strategy)
    strategy.lesson = 1
    queries, pairs = query(found, x), {}
    p, k, a = (torch.cat([pool[f"{kind}_0"], pool[f"{kind}_1"]], 1) for kind in ("component", "key", "attention"))
    for block in (0, 1):
        alpha = F.cosine_similarity(queries[:, None] * a[block], k[block].expand(5, -1, -1), dim=2)
        torch.testing.assert_close(agreement(queries, a, k)[:, block], alpha)
        prompt = sum(alpha[:, n, None, None, None] * p[block, n] for n in range(6))
        pairs[block] = (prompt[:, 0], prompt[:, 1])
    with prefixed(found.model, pairs):
        expected = found(x)
    torch.testing.assert_close(strategy.predict(found, x), expected)


def test_new_components_are_orthonormal_to_the_old_ones_which_stay():
    strategy = CASES["coda_prompt"]()
    found, pool = started(strategy, optimizer="sgd", momentum=0.9, weight_decay=0.01)
    first, second = two_lessons()
    for one in (first, second):
        found.begin(one)
        strategy.learn(found, one)
        if one is first:
            before = {name: p.detach().clone() for name, p in pool.items() if name.endswith("_0")}
            later = {name: p.detach().clone() for name, p in pool.items() if name.endswith("_1")}
            strategy.lesson = 1
            strategy.orthonormalise(found)
            for kind in ("component", "key", "attention"):
                old, new = pool[f"{kind}_0"].flatten(2), pool[f"{kind}_1"].flatten(2)
                assert not torch.allclose(old @ old.mT, torch.eye(3).expand(2, 3, 3), atol=1e-3)
                torch.testing.assert_close(new @ new.mT, torch.eye(3).expand(2, 3, 3))
                torch.testing.assert_close(old @ new.mT, torch.zeros(2, 3, 3), atol=1e-6, rtol=0)
            with torch.no_grad():
                for name, value in later.items():
                    pool[name].copy_(value)
        found.end()
    assert all(torch.equal(pool[name], value) for name, value in before.items())
    assert not any(torch.equal(pool[name], value) for name, value in later.items())


def test_orthonormal_rows_are_those_of_gram_and_schmidt():
    rows = torch.rand(4, 7, generator=torch.Generator().manual_seed(0))
    expected: list = []
    for row in rows:
        for other in expected:
            row = row - (row @ other) * other
        expected.append(row / row.norm())
    found = orthonormal(rows[None])[0]
    torch.testing.assert_close(found * (found * torch.stack(expected)).sum(1, keepdim=True), torch.stack(expected))


def test_the_penalty_is_0_where_all_is_orthonormal():
    strategy = CODAPrompt(components=6, length=2, blocks=(0, 1), ortho=0.5)
    found, pool = started(strategy)
    strategy.orthonormalise(found)
    assert strategy.penalty(found).item() == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        pool["key_0"][1, 2] *= 2  # an entry of one matrix of 3 x 3 is 4 instead of 1
    assert strategy.penalty(found).item() == pytest.approx(1.0)
    batch = Batch(x, torch.tensor([0, 1, 0, 1, 0]), x)
    plain = found.criterion(strategy.predict(found, x), batch.y)
    assert strategy.loss(found, batch).item() == pytest.approx(plain.item() + 0.5, rel=1e-5)


def test_the_rate_goes_by_epochs_on_a_cosine_of_its_own():
    factor = cosine(5)
    for step in range(20):
        assert factor(step / 20) == pytest.approx(math.cos(99 * math.pi * (step // 4) / (200 * 4)))
    assert cosine(1)(0.5) == 1.0
