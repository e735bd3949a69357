import numpy as np
import pytest
import torch
from small import images, numbers

from clbench.data import Data, Source

SIDE = 3


def source(views=None, channels=2, count=5):
    x = torch.arange(count * SIDE * SIDE * channels, dtype=torch.uint8).view(count, SIDE, SIDE, channels)
    return Source(x, torch.arange(count) * 10, views)


def seen(image, places):
    """One image (numpy, H x W x C) under a view, pixel by pixel."""
    flat = image.reshape(-1, image.shape[-1])
    return np.stack([flat[p] if p >= 0 else np.zeros_like(flat[0]) for p in places]).reshape(image.shape)


VIEWS = torch.tensor([[8, 0, 7, 1, 6, 2, 5, 3, 4], [-1, 1, -1, 3, 4, 5, -1, 7, -1], list(range(9))])
"""a permutation, a rotation with black corners, and the image as it is"""


def test_gather_takes_the_samples_at_positions_of_the_index():
    data = Data(source(), torch.tensor([4, 1, 1, 0]))
    x, y = data.gather(torch.tensor([3, 0, 0]))
    assert y.tolist() == [0, 40, 40]
    assert torch.equal(x, source().x[[0, 4, 4]])
    assert x.dtype == torch.uint8


@pytest.mark.parametrize("view", [0, 1, 2])
def test_gather_under_one_view(view):
    data = Data(source(VIEWS), torch.tensor([2, 4]), view=view)
    x, y = data.gather(torch.tensor([1, 0]))
    assert y.tolist() == [40, 20]
    for row, image in zip(x, source().x[[4, 2]], strict=True):
        np.testing.assert_array_equal(row.numpy(), seen(image.numpy(), VIEWS[view].tolist()))


def test_gather_under_a_view_for_each_sample():
    index, view = torch.tensor([2, 4, 0, 2]), torch.tensor([1, 0, 1, 2])
    positions = torch.tensor([3, 0, 2, 1, 0])
    x, _ = Data(source(VIEWS), index, view=view).gather(positions)
    for row, position in zip(x, positions, strict=True):
        image = source().x[index[position]].numpy()
        np.testing.assert_array_equal(row.numpy(), seen(image, VIEWS[view[position]].tolist()))


def test_labels_are_those_of_the_index():
    data = Data(source(), torch.tensor([3, 3, 1]))
    assert data.labels.tolist() == [30, 30, 10]
    assert len(data) == 3


def test_subset_keeps_view_and_order_and_drops_the_lesson():
    data = Data(source(VIEWS), torch.tensor([4, 3, 2]), view=torch.tensor([0, 1, 2]), lesson=7)
    part = data.subset(torch.tensor([2, 0]))
    assert part.labels.tolist() == [20, 40]
    assert torch.equal(part.gather(torch.arange(2))[0], data.gather(torch.tensor([2, 0]))[0])
    assert part.lesson is None
    assert Data(source(VIEWS), torch.tensor([4, 3]), view=1).subset(torch.tensor([1])).view == 1


def test_concat_of_plain_data():
    whole = source()
    both = Data.concat([Data(whole, torch.tensor([4, 1])), Data(whole, torch.tensor([0]))])
    assert both.view is None
    assert both.labels.tolist() == [40, 10, 0]


def test_concat_of_views_gives_each_sample_its_own():
    whole = source(VIEWS)
    parts = [
        Data(whole, torch.tensor([0, 1]), view=1),
        Data(whole, torch.tensor([1]), view=0),
        Data(whole, torch.tensor([2, 2]), view=torch.tensor([0, 2])),
    ]
    both = Data.concat(parts)
    expected = torch.cat([part.gather(torch.arange(len(part)))[0] for part in parts])
    assert torch.equal(both.gather(torch.arange(5))[0], expected)


def test_concat_refuses_other_sources_and_mixed_views():
    with pytest.raises(ValueError, match="different sources"):
        Data.concat([images([0, 1]), images([0, 1])])
    whole = source(VIEWS)
    with pytest.raises(ValueError, match="Viewed and plain"):
        Data.concat([Data(whole, torch.tensor([0])), Data(whole, torch.tensor([0]), view=0)])


def test_bytes_are_those_of_samples_and_labels():
    assert Data(source(), torch.tensor([0, 3, 3])).nbytes == 3 * (SIDE * SIDE * 2 + 8)
    assert source(VIEWS).nbytes == 5 * (SIDE * SIDE * 2 + 8) + VIEWS.numel() * 8


def test_to_its_own_device_copies_nothing():
    data = images([0, 1, 2])
    assert data.to(torch.device("cpu")).source is data.source
    assert numbers(data.gather(torch.tensor([2, 0]))[0]) == [2, 0]


def test_copies_of_parts_from_different_sources_are_one():
    one, other = images([0, 1, 2, 3]), images([4, 5, 6])
    viewed = Data(Source(one.source.x, one.source.y, torch.arange(15, -1, -1)[None]), torch.tensor([1]), view=0)
    both = Data.copied([other.subset(torch.tensor([2, 0])), viewed])
    x, y = both.gather(torch.arange(3))
    assert y.tolist() == both.labels.tolist() == [6, 4, 1]
    assert torch.equal(x[:2], other.source.x[[2, 0]])
    assert torch.equal(x[2], one.source.x[1].flip(0, 1))
    other.source.x[2] = 0
    assert not torch.equal(both.source.x[0], other.source.x[2])
