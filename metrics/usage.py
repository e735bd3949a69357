"""Whole calls, written by a language model one token after another: exact match, BLEU and the names of keywords.

API usage prediction of Weyssow et al. 2023 (FSE), who sample at a temperature of 0.2; decoding here is greedy, so that
a number can be had again. BLEU is sentence BLEU-4 of Papineni et al. 2002 (ACL) with one added to the counts of two and
more (Lin and Och 2004, COLING), over lexical tokens. Keyword F1 is ours: Python names its arguments.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clbench.callsites import LEXEME
from clbench.metric import Look, Probe, Row
from clbench.metrics.calibration import taught
from clbench.types import Count

LONGEST = 30
"""tokens that are written at the most"""
KEYWORD = re.compile(r"[(,]\s*(\w+)\s*=(?!=)")


@dataclass
class Usage(Probe):
    """`usage/exact`, `usage/bleu`, `usage/keyword_f1`: of each exam that asks for whole calls (`stream.ask=usage`) and
    was taught so far, how like the true call what the model writes after the same code is. Keyword F1 is over the calls
    that have keywords.
    """

    samples: Count = 50
    """of each exam that are written, evenly spread over it"""

    def __call__(self, look: Look) -> Iterable[Row]:
        exams = [exam for exam in taught(look, self.samples) if exam.score == "usage"]
        if look.step and not any(exam.score == "usage" for exam in look.exams):
            yield Row(look.step, look.at, "usage/exact", "", None, 0, "no exam asks for whole calls: stream.ask=usage")
        for exam in exams:
            raw, y = look.learner.gather(exam.data, torch.arange(len(exam.data), device=exam.data.index.device))
            there = y >= 0
            given = [self.words(look, row[mask]) for row, mask in zip(y, there, strict=True)]
            found = [self.words(look, row) for row in written(look, raw, there.int().argmax(1) + 1)]
            pairs = [(call(a), call(b)) for a, b in zip(found, given, strict=True)]
            scores = {"exact": [float(a == b) for a, b in pairs], "bleu": [bleu(a, b) for a, b in pairs]}
            scores["keyword_f1"] = [keyword_f1(a, b) for a, b in pairs if KEYWORD.search(b)]
            for name, values in scores.items():
                mean = sum(values) / len(values) if values else None
                note = "" if values else "no call of the exam has keywords"
                yield Row(look.step, look.at, f"usage/{name}", exam.name, mean, len(values), note)

    def words(self, look: Look, tokens: Tensor) -> str:
        return look.learner.text(tokens.tolist()).strip()


@torch.inference_mode()
def written(look: Look, raw: Tensor, lengths: Tensor) -> Tensor:
    """The LONGEST tokens that the strategy finds likeliest after the first `lengths` tokens of each row, one by one.
    Where the context is full the oldest token goes.
    """
    raw, rows, found = raw.clone(), torch.arange(len(raw), device=raw.device), []
    width = raw.shape[1]
    for _ in range(LONGEST):
        logits = [look.strategy.predict(look.learner, look.learner.encode(part)) for part in raw.split(16)]
        places = zip(logits, lengths.split(16), strict=True)
        best = torch.cat([one[torch.arange(len(one)), :, at - 1] for one, at in places])
        found.append(best.argmax(1))
        full = lengths == width
        raw[full] = raw[full].roll(-1, 1)
        lengths = lengths + (~full).long()
        raw[rows, lengths - 1] = found[-1].to(raw.dtype)
    return torch.stack(found, 1)


def call(text: str) -> str:
    """A text up to the bracket that closes its first one; as it is where none does."""
    depth = 0
    for match in LEXEME.finditer(text):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if match[0] == ")" and depth <= 0:
            return text[: match.end()]
    return text


def lexical(text: str) -> list[str]:
    return [match[0] for match in LEXEME.finditer(text)]


def bleu(found: str, given: str) -> float:
    """Smoothed sentence BLEU-4 of two calls."""
    a, b = lexical(found), lexical(given)
    if not a:
        return 0.0
    logs = 0.0
    for n in range(1, 5):
        ours, theirs = grams(a, n), grams(b, n)
        both, all_ = (ours & theirs).total() + (n > 1), ours.total() + (n > 1)
        if not both:
            return 0.0
        logs += math.log(both / all_) / 4
    return math.exp(logs + min(0.0, 1 - len(b) / len(a)))


def grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def keyword_f1(found: str, given: str) -> float:
    """F1 of the names of the keywords of two calls."""
    a, b = (set(KEYWORD.findall(text)) for text in (found, given))
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0
