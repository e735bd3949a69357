"""A stored configuration run again: does what comes out agree with what is written down?

A metric is `inside` where the mean of the seeds run now lies within the 95 % prediction interval, by Student's t, for
the mean of that many seeds of the same distribution: stored mean ± t s √(1/n + 1/m), n seeds stored, m run now. It asks
whether code and machine still give what they gave, not whether they give it to the digit: `same bits` says that, and
is what to expect with the same versions on one kind of machine. Seconds and memory are shown and not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isclose, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.configurations import ranges, seeds
from clbench.errors import Mistake
from clbench.metric import Row, Summary
from clbench.result import Result, read_rows, summaries, summarise, trouble
from clbench.tables import counted, quantities
from clbench.words import NULL

if TYPE_CHECKING:
    from clbench.sweep import Task


MADE_BY = ("python", "system", "device", "commit")
"""what meta.json says of a run's surroundings, beside versions"""


@dataclass(frozen=True)
class Agreement:
    """One metric of a configuration, stored and now."""

    stored: tuple[float, float | None] | None
    """mean, and half the width of its 95 % interval; None: there is none"""
    now: float | None
    """mean over the seeds that were run"""
    interval: tuple[float, float] | None
    """where it was to lie; None: one stored seed has no interval"""
    verdict: str
    """`inside`, `outside` or `not judged`, and after a colon the reason where it is not the interval"""


def again(group: Sequence[Result], to: Path, count: int | None = None) -> list[Task]:
    """The runs that repeat the first `count` seeds of a configuration, all of them when None, checked.

    The configuration is written to `to`, as HASH.yaml.

    Raises:
        Mistake: none of its runs is done, or not so many; or what it names is not here or has another form today.
    """
    from clbench import config, sweep

    one, done = group[0], [result for result in group if result.state == "done"]
    name = f"{one.stream}/{one.strategy} {one.hash[:8]}"
    if not done:
        raise Mistake(f"There are no numbers of {name} to reproduce: {trouble(group)}.")
    if count is not None and not 1 <= count <= len(done):
        raise Mistake(f"--seeds {count}: {name} has {len(done)} that {'is' if len(done) == 1 else 'are'} done.")
    if isinstance(one.folder, Path) and one.folder.resolve().is_relative_to(to.resolve()):
        raise Mistake(f"--to {to} holds what is to be reproduced; a second run there would be the first: name another.")
    try:
        to.mkdir(parents=True, exist_ok=True)
        file = to / f"{one.hash}.yaml"
        file.write_text("".join(f"{path}: {value}\n" for path, value in one.config.items()), encoding="utf-8")
    except OSError as error:
        raise Mistake(f"--to {to} can't be written to: {error.strerror}.") from None
    plans = [config.resolve({"config": str(file), "seed": result.seed}) for result in done[:count]]
    work = sweep.tasks(plans, to, [f"config={file}", f"seed={','.join(str(plan.seed) for plan in plans)}"])
    for task in work:
        task.meta["preset"] = one.preset
    return work


def changes(stored: Result, meta: dict[str, Any]) -> list[str]:
    """In what a run now (its meta.json) is not what was stored, by what its numbers may depend on."""

    def facts(meta: dict[str, Any]) -> dict[str, Any]:
        config = {path: value for path, value in meta.get("config", {}).items() if path != "seed" and value != NULL}
        data = {f"data {name}": checksum for name, checksum in meta.get("data", {}).items()}
        versions = {f"version of {name}": number for name, number in meta.get("versions", {}).items()}
        return {**versions, **data, **config, **{name: meta.get(name) for name in MADE_BY}}

    then, now = facts(stored.meta), facts(meta)
    names = [name for name in dict.fromkeys((*then, *now)) if then.get(name) != now.get(name)]
    return [f"{name} {_short(then.get(name))} → {_short(now.get(name))}" for name in names]


def _short(value: Any) -> str:
    """A fact as text; of a checksum or a commit the beginning."""
    return "absent" if value is None else re.sub(r"\b([0-9a-f]{8})[0-9a-f]{32,}", r"\1", str(value))


def agreements(stored: Sequence[Result], now: Sequence[Result], metrics: Iterable[str]) -> dict[str, Agreement]:
    """What became of each metric; `stored` and `now` are done.

    Raises:
        Mistake: there is no such summary.
    """
    then, here = ([result.summaries(metrics) for result in group] for group in (stored, now))
    repeated = summarise(read_rows(now[0].folder / "rows.csv"), metrics)
    found = {}
    for id, value in repeated.items():
        numbers, again = ([value[id].number for value in values] for values in (then, here))
        found[id] = _agreement(numbers, again, judged=value.number is not None)
    return found


def _agreement(stored: Sequence[float | None], now: Sequence[float | None], judged: bool) -> Agreement:
    from clbench.statistics import mean_interval

    numbers, again = ([number for number in values if number is not None] for values in (stored, now))
    if len(numbers) < len(stored) or len(again) < len(now):
        lost, had = len(again) < len(now), len(numbers) == len(stored)
        reasons = {(True, True): "outside: it is undefined now", (False, False): "outside: it was undefined"}
        return Agreement(None, None, None, reasons.get((lost, had), "inside: undefined, as it was"))
    mean, half = mean_interval(numbers)
    new, _ = mean_interval(again)
    if not judged:
        return Agreement((mean, half), new, None, "not judged: a rerun does not repeat it")
    if half is None:
        same = isclose(mean, new, rel_tol=1e-9)
        reason = "inside: the same number" if same else "not judged: one stored seed has no interval"
        return Agreement((mean, half), new, None, reason)
    wide = half * sqrt(1 + len(numbers) / len(again))
    inside = abs(new - mean) <= wide + 1e-9 * abs(mean)
    return Agreement((mean, half), new, (mean - wide, mean + wide), "inside" if inside else "outside")


def same_bits(stored: Result, now: Result) -> str:
    """Empty where a run repeated the stored rows bit for bit; otherwise the first row that it did not."""
    then, here = (read_rows(result.folder / "rows.csv") for result in (stored, now))
    kept = {row.metric for row in then}
    here = [row for row in here if row.metric in kept]
    for a, b in zip(then, here, strict=False):
        if a != b:
            return f"{_told(a)} was {_number(a)}, is {_number(b)}" if a[:4] == b[:4] else f"{_told(a)} is {_told(b)}"
    return "" if len(then) == len(here) else f"{len(then)} rows were {len(here)}"


def _told(row: Row) -> str:
    return f"{row.metric}{f' of {row.subject}' if row.subject else ''} after {row.step} experiences (step {row.at})"


def _number(row: Row) -> str:
    return "undefined" if row.value is None else repr(row.value)


def told(metric: Summary, found: Agreement) -> str:
    """What became of a metric, in one line."""
    ends = found.interval or (None, None)
    values = [found.stored, *(None if number is None else (number, None) for number in (found.now, *ends))]
    unit, (stored, now, low, high) = quantities(values, metric.unit)
    verdict, _, reason = found.verdict.partition(": ")
    reason = reason or f"{low} to {high}"
    return f"{verdict}: {metric.title or metric.id} {now} {unit}, stored {stored} {unit} ({reason})".replace("  ", " ")


def verdict(group: Sequence[Result], now: Sequence[Result], metrics: Iterable[str]) -> tuple[bool, list[str]]:
    """Whether nothing is outside, and what came out: a line for each metric, and one about bits.

    Args:
        group: what is stored of a configuration.
        now: runs of it with seeds that are stored as done, themselves done.
        metrics: ids of summaries.

    Raises:
        Mistake: there is no such summary.
    """
    chosen = summaries(metrics)
    stored = {result.seed: result for result in group if result.state == "done"}
    found = agreements([*stored.values()], now, chosen)
    lines = [told(chosen[id], each) for id, each in found.items()]
    few, whole = counted(len(now), "seed"), counted(len(stored), "seed")
    lines.append(f"(A to B): 95 % prediction interval for the mean of {few}, from {whole} stored")
    apart = {result.seed: first for result in now if (first := same_bits(stored[result.seed], result))}
    if apart:
        seed, first = next(iter(apart.items()))
        lines.append(f"same bits: no; {len(apart)} of {few} differ, seed {seed} first at {first}")
    else:
        lines.append(f"same bits: yes, every stored row of seed{'s' * (len(now) > 1)} {ranges(seeds(now))}")
    return not any(each.verdict.startswith("outside") for each in found.values()), lines
