"""Which functions may be trained on and which examined, so that no test function has a copy or near copy in training.

Four steps, in this order: files are for training or for tests, whole; of equal functions one is kept (equal up to
layout and comments); training functions that are equal to a test function up to names and constants go; and so do
those whose token 5-grams are like a test function's (Jaccard index above 0.8), which MinHash finds (Broder 1997, "On
the resemblance and containment of documents") and an exact count confirms.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

GRAM = 5
"""tokens of a shingle"""
ALIKE = 0.8
"""Jaccard index above which two functions are near copies"""
BANDS, ROWS = 12, 4
"""of the signature; two functions with an index of 0.8 share a band with a chance of 0.998"""
LARGE = 50
"""a bucket of more test functions than these is compared with so many of them"""


def leaks(arrays: Mapping[str, np.ndarray], in_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which functions are kept for training, and which for tests (bool, F).

    Args:
        arrays: of `clbench.code`: `digests` (F x 2 x 2 uint64: exact, shape), `tokens`, `token_at`
        in_test: which functions stand in test files
    """
    exact, shape = arrays["digests"][:, 0, 0], arrays["digests"][:, 1, 0]
    test, train = in_test & first(exact, in_test), ~in_test & first(exact, ~in_test)
    train &= ~np.isin(exact, exact[test]) & ~np.isin(shape, shape[test])
    grams, at = shingles(arrays["tokens"], arrays["token_at"])
    train[near(grams, at, np.flatnonzero(train), np.flatnonzero(test))] = False
    return train, test


def first(keys: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which of those `among` are the first with their key (bool)."""
    rows = np.flatnonzero(among)
    found = np.zeros(len(keys), bool)
    found[rows[np.unique(keys[rows], return_index=True)[1]]] = True
    return found


def shingles(tokens: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A number for each run of GRAM tokens within a function, and where each function's begin (F + 1)."""
    counts = np.maximum(np.diff(at) - GRAM + 1, 0)
    grams = np.zeros(max(len(tokens) - GRAM + 1, 0), np.uint64)
    for place in range(GRAM):
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + tokens[place : place + len(grams)].astype(np.uint64)
    within = np.zeros(len(grams) + 1, np.int64)
    np.add.at(within, at[:-1][counts > 0], 1)
    np.add.at(within, (at[:-1] + counts)[counts > 0], -1)
    return _mixed(grams)[np.cumsum(within[:-1]) > 0], np.concatenate([[0], np.cumsum(counts)])


def near(grams: np.ndarray, at: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Those of the functions `train` that are near copies of one of `test`."""
    train, test = (rows[at[rows + 1] > at[rows]] for rows in (train, test))
    if not len(train) or not len(test):
        return train[:0]
    rows = np.sort(np.concatenate([train, test]))
    signed = signatures(grams, at)
    sets: dict[int, np.ndarray] = {}
    found: set[int] = set()
    is_test = np.isin(rows, test)
    for band in range(BANDS):
        keys = np.zeros(len(rows), np.uint64)
        for row in range(ROWS):
            keys = _mixed(keys ^ signed[band * ROWS + row][rows])
        order = np.argsort(keys, kind="stable")
        cuts = np.flatnonzero(np.diff(keys[order])) + 1
        for start, stop in zip(np.r_[0, cuts], np.r_[cuts, len(order)], strict=True):
            if stop - start < 2:
                continue
            bucket = order[start:stop]
            tests = rows[bucket[is_test[bucket]]][:LARGE]
            for one in rows[bucket[~is_test[bucket]]] if len(tests) else ():
                if one not in found and any(_alike(grams, at, sets, one, other) for other in tests):
                    found.add(one)
    return np.array(sorted(found), np.int64)


def signatures(grams: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The MinHash signature of each function, BANDS * ROWS x F; of one without shingles, the largest number."""
    salts = np.random.PCG64(0).random_raw(BANDS * ROWS)
    found = np.full((len(salts), len(at) - 1), np.iinfo(np.uint64).max, np.uint64)
    full = np.flatnonzero(np.diff(at))
    for line, salt in zip(found, salts, strict=True):
        line[full] = np.minimum.reduceat(_mixed(grams ^ salt), at[full])
    return found


def _alike(grams: np.ndarray, at: np.ndarray, sets: dict[int, np.ndarray], one: int, other: int) -> bool:
    for function in (one, other):
        if function not in sets:
            sets[function] = np.unique(grams[at[function] : at[function + 1]])
    a, b = sets[one], sets[other]
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both > ALIKE * (len(a) + len(b) - both)


def _mixed(keys: np.ndarray) -> np.ndarray:
    """Each number scattered over 64 bits."""
    keys = (keys ^ (keys >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    return keys ^ (keys >> np.uint64(29))
