"""A mixture's batches have exactly their shares of a lesson, of what came before, and of a pretraining pool."""

import numpy as np
import pytest
import torch

from clbench.data import Source
from clbench.mixture import Mixture, around, split

THIRDS = {"pretraining": 1 / 3, "update": 1 / 3, "buffer": 1 / 3}


@pytest.mark.parametrize(
    ("size", "shares", "past", "counts"),
    [
        (512, THIRDS, True, (171, 170, 171)),  # 170 each, two left over: the first two of the order have them
        (512, THIRDS, False, (256, 0, 256)),  # 171 + 170 // 2, and 171 + 85
        (511, THIRDS, False, (255, 0, 256)),
        (10, {"update": 0.5, "buffer": 0.5}, False, (10, 0, 0)),  # no pool: all is the lesson's
        (11, {"pretraining": 0.4, "update": 0.3, "buffer": 0.3}, False, (5, 0, 6)),  # 5, 3, 3: 3 // 2 each, one odd
        (8, {"buffer": 0.5, "pretraining": 0.5}, True, (0, 4, 4)),
        (8, {"buffer": 0.5, "pretraining": 0.5}, False, (0, 0, 6)),  # the lesson's own are dropped
    ],
)
def test_golden_shares(size, shares, past, counts):
    found = split(size, shares, past)
    assert (found["update"], found["buffer"], found["pretraining"]) == counts


def test_batches_hold_the_three_pools_in_order_and_go_round():
    source = Source(torch.arange(60).view(60, 1, 1, 1).byte(), torch.arange(60))
    pools = {"update": torch.arange(10, 20), "buffer": torch.arange(5), "pretraining": torch.arange(30, 60)}
    data = Mixture(source, pools, {"pretraining": 0.25, "update": 0.25, "buffer": 0.5}, lesson=2)
    assert len(data) == 10
    assert data.labels.tolist() == list(range(10, 20))
    batches = [data.gather(index)[1] for index in data.batches(np.random.default_rng(0), 8)]
    assert [len(batch) for batch in batches] == [8, 8]  # as many samples as the lesson has, in whole batches
    update, buffer, pool = (torch.cat([b[part] for b in batches]) for part in (slice(2), slice(2, 6), slice(6, 8)))
    assert set(update.tolist()) <= set(range(10, 20))
    assert set(pool.tolist()) <= set(range(30, 60))
    assert len(set(update.tolist())) == 4  # none twice while there are others
    assert sorted(buffer.tolist()[:5]) == [0, 1, 2, 3, 4]  # eight of five: all, then some again


def test_going_round_is_by_whole_permutations():
    drawn = around(4, 10, np.random.default_rng(3))
    assert sorted(drawn[:4]) == sorted(drawn[4:8]) == [0, 1, 2, 3]
    assert len(drawn) == 10
    assert len(around(0, 0, np.random.default_rng(3))) == 0
