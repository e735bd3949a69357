import numpy as np
import pytest
import torch
from scipy import stats

from clbench.transform import ImageTransform, Transform

MEAN, STD = (0.1, 0.5, 0.9), (0.2, 0.3, 1.7)


def batch(count, height=8, width=8, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(1, 256, (count, height, width, channels), dtype=np.uint8))


def by_hand(raw, mean=MEAN, std=STD):
    """(x / 255 - mean) / std, N x C x H x W, in double precision."""
    x = raw.numpy().astype(np.float64) / 255
    return ((x - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)


def test_encoding_is_the_formula():
    raw = batch(4, height=5, width=7)
    raw[0] = 0
    x = ImageTransform(MEAN, STD)(raw)
    assert x.dtype == torch.float32
    assert x.shape == (4, 3, 5, 7)
    np.testing.assert_allclose(x.numpy(), by_hand(raw), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"crop": 2}, {"flip": True}, {"crop": 2, "flip": True}])
def test_output_is_contiguous_with_channels_first(options):
    x = ImageTransform(MEAN, STD, **options)(batch(5, height=6, width=4), np.random.default_rng(0))
    assert x.shape == (5, 3, 6, 4)
    assert x.is_contiguous()


def test_without_a_generator_nothing_is_augmented():
    raw = batch(16)
    plain = ImageTransform(MEAN, STD)(raw)
    assert torch.equal(ImageTransform(MEAN, STD, crop=4, flip=True)(raw), plain)
    assert torch.equal(ImageTransform(MEAN, STD)(raw, np.random.default_rng(0)), plain)


def test_same_generator_same_images():
    raw, transform = batch(32), ImageTransform(crop=4, flip=True, mean=(0.0,) * 3, std=(1.0,) * 3)
    first, again, other = (transform(raw, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_crops_are_windows_of_the_padded_image_all_equally_likely():
    count, edge = 1620, 4
    raw = batch(count)
    padded = np.pad(raw.numpy(), ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    shown = np.rint(ImageTransform((0.0,) * 3, (1.0,) * 3, crop=edge)(raw, np.random.default_rng(0)).numpy() * 255)
    found = np.zeros((9, 9), int)
    for image, canvas in zip(shown.transpose(0, 2, 3, 1), padded, strict=True):
        windows = [(i, j) for i in range(9) for j in range(9) if (canvas[i : i + 8, j : j + 8] == image).all()]
        assert len(windows) == 1
        found[windows[0]] += 1
    assert stats.chisquare(found.ravel()).pvalue > 1e-3


def test_half_of_the_images_are_mirrored_left_to_right():
    raw = batch(2000)
    plain = ImageTransform(MEAN, STD)(raw)
    shown = ImageTransform(MEAN, STD, flip=True)(raw, np.random.default_rng(0))
    same = (shown == plain).flatten(1).all(1)
    mirrored = (shown == plain.flip(3)).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)
    assert stats.binomtest(int(mirrored.sum()), 2000).pvalue > 1e-3


def test_the_plain_transform_only_changes_the_type():
    raw = torch.arange(6).view(2, 3)
    x = Transform()(raw, np.random.default_rng(0))
    assert x.dtype == torch.float32
    assert x.tolist() == raw.tolist()
