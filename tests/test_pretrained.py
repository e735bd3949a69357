"""Models that begin with weights learned elsewhere."""

import copy
import hashlib
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from clbench.backbones import filled, normalised, weights
from clbench.errors import Mistake
from clbench.models import MLP, ViT
from clbench.pretrained import DIGEST, WEIGHTS, ViTT6
from clbench.strategy import Around, Strategy, lacking
from clbench.streams.toy import Toy
from clbench.vision import torchvision


@pytest.fixture(scope="module")
def plain():
    """timm's own, with the weights of the file and the input that its card tells of."""
    torchvision()
    from timm.models.vision_transformer import VisionTransformer

    net = VisionTransformer(img_size=64, patch_size=8, embed_dim=192, depth=6, num_heads=3, num_classes=200)
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def test_the_file_is_the_one_of_the_card():
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == DIGEST


def test_the_weights_are_those_of_the_file_bit_for_bit():
    body, file = ViTT6().build((3, 64, 64), 7).body.state_dict(), load_file(WEIGHTS)
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
    [((3, 32, 32), r"not 3 x 32 x 32: set stream\.resolution=64\.$"), ((1, 64, 64), r"a stream of colour images\.$")],
)
def test_images_of_another_shape_are_a_mistake(shape, line):
    with pytest.raises(Mistake, match=line):
        ViTT6().build(shape, 7)


def test_weights_that_are_damaged_or_of_something_else_are_a_mistake(tmp_path):
    file = tmp_path / "w.safetensors"
    with pytest.raises(Mistake, match=r"can't be read: .*No such file"):
        weights(file)
    file.write_bytes(b"no tensors")
    with pytest.raises(Mistake, match="is damaged: its SHA-256 is not 647a944defc9"):
        weights(file, DIGEST)
    with pytest.raises(Mistake, match="can't be read"):
        weights(file)
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

    assert lacking(Around(Wants()), Toy(), MLP()) == ["pretrained weights", "transformer"]
    assert lacking(Wants(), Toy(), ViT()) == lacking(Wants(), Toy(), ViTT6(pretrained=False)) == ["pretrained weights"]
    assert lacking(Wants(), Toy(), ViTT6()) == []
