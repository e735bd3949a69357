"""A dual encoder answers by captions, learns a pool once for all seeds, and knows what it has not been shown."""

from importlib.util import find_spec

import pytest
import torch
from small import images, opened, syllabus

from clbench import captions
from clbench.clip import OpenClip
from clbench.data import Data, Source
from clbench.dual import Dual
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.stream import Stream, Syllabus
from clbench.streams.fomo import contrastive
from clbench.towers import Matched
from clbench.transform import ImageTransform

NAMES = ("a high cat.", "a high dog.", "a low cat.", "a low dog.")


def patterns(labels):
    """Cats are a bright column at the left and dogs at the right; high ones have a bright row above, low ones below."""
    data = images(labels, side=8)
    x, y = data.source.x // 8, data.source.y
    for one, label in zip(x, y.tolist(), strict=True):
        one[:, 6:] += 200 * (label % 2)
        one[:, :2] += 200 * (1 - label % 2)
        (one[6:] if label >= 2 else one[:2]).fill_(220)
    return Data(Source(x, y), data.index)


def learner(model, pool, seed=0, names=NAMES):
    given = Syllabus(1, 4, (1, 8, 8), (8,), False, names=names)
    found = Learner(device="cpu", threads=1)
    found.open(model, given, ImageTransform(), contrastive, seed, pool)
    return found


def test_logits_are_scaled_cosines():
    head = Matched(2, 3, 2, temperature=0.5)
    with torch.no_grad():
        head.image.weight.copy_(torch.eye(2))
        head.text.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    head.read(torch.tensor([[2.0, 0.0, 7.0], [3.0, 4.0, 0.0]]))
    torch.testing.assert_close(head(torch.tensor([[5.0, 0.0]])), torch.tensor([[2.0, 2 * 0.6]]))


def test_hashed_captions_are_near_where_they_share_words():
    found = captions.hashed(["a sketch of a dog.", "a sketch of a dogs.", "an elephant"])
    near = found @ found.T
    assert torch.allclose(near.diag(), torch.ones(3))
    assert near[0, 1] > 0.7 > 0.2 > near[0, 2]


def test_a_pool_is_learned_once_for_all_seeds_and_by_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, pool = Dual(width=16, pretraining_epochs=20, pretraining_batch=16), patterns([0, 1, 2] * 20)
    first = learner(model, pool)
    kept = list(tmp_path.rglob("dual/*.safetensors"))
    assert len(kept) == 1
    monkeypatch.setattr(Dual, "_pretrained", None)  # what is kept is not learned again
    second = learner(model, pool, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    learner(model, patterns([0, 1, 2] * 21))
    assert len(list(tmp_path.rglob("dual/*.safetensors"))) == 2
    # Low dogs were never shown; their caption is made of words that were.
    unseen = patterns([3] * 20)
    x = first.encode(unseen.gather(torch.arange(20))[0])
    assert float((first(x).argmax(1) == 3).double().mean()) > 0.6


def test_without_a_pool_or_epochs_it_begins_apart():
    assert not torch.equal(*(next(learner(Dual(width=4), None, seed).model.parameters()) for seed in (0, 1)))


def test_the_embedded_tower_takes_smaller_images():
    model = Dual("vit_t6", width=8)
    net = model.build((1, 16, 16), 4)
    net.head.read(captions.hashed(NAMES))
    assert net(torch.rand(2, 1, 16, 16)).shape == (2, 4)
    assert model.offers == {"transformer", "pretrained weights"}
    with pytest.raises(Mistake, match="multiple of 8"):
        model.build((3, 28, 28), 4)


def test_what_it_needs_is_said(monkeypatch):
    with pytest.raises(Mistake, match="does not say"):
        opened(model=Dual(width=4))
    monkeypatch.setattr(captions, "find_spec", lambda name: None)
    with pytest.raises(Mistake, match=r"clbench\[text\]"):
        captions.minilm(["a cat"])
    monkeypatch.setattr("clbench.clip.find_spec", lambda name: None)
    with pytest.raises(Mistake, match=r"clbench\[clip\]"):
        OpenClip("ViT-B-16").build((3, 32, 32), 4)


@pytest.mark.skipif(find_spec("open_clip") is None, reason="open_clip is not installed: the extra clip")
@pytest.mark.parametrize("text", ["trained", "frozen"])
def test_a_model_of_open_clip_with_random_weights(text):
    model = OpenClip("ViT-S-32-alt", text=text)
    given = Syllabus(1, 4, (3, 32, 32), (8,), False, names=NAMES)
    found = Learner(device="cpu", threads=1, lr=1e-4)
    found.open(model, given, ImageTransform((0.0,) * 3, (1.0,) * 3), contrastive, 0, None)
    logits = found(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 4)
    contrastive(logits, torch.tensor([0, 1])).backward()
    texts = [p.grad is not None for n, p in found.model.named_parameters() if n.startswith("head.clip.transformer")]
    assert all(texts) if text == "trained" else not any(texts)
    with pytest.raises(Mistake, match="no model of open_clip named"):
        OpenClip("ViT-B-1").build((3, 32, 32), 4)
    assert syllabus().names == ()
    assert Stream().pool() is None
