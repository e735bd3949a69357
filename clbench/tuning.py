"""Hyper-parameters chosen by what is held out of training: no exam is read, and under `first` no later experience.

Three protocols:

- whole: every candidate is run over the whole stream, and scored on the validation share of each experience. This is
  the usual way, which Lee et al. 2024 (Hyperparameter Selection in Continual Learning, arXiv 2404.06466) call
  end-of-training: a learner that sees its stream once could not do it.
- first: over the first experience alone, as they recommend, or the first few (`first=2`), scored on their shares.
  One experience can't show forgetting: what only matters later stays undecided, and is said to.
- transfer: as whole, on one data set; the choice is judged on another one under the same scenario (Cha and Cho 2024,
  Hyperparameters in Continual Learning: A Reality Check, arXiv 2403.09066).

Candidates share a protocol and a memory size, so what is chosen is ranked where every other choice is. The validation
share is given back for judging: runs with the chosen values train on everything.
"""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench import catalogue
from clbench.checkpoint import write_atomically
from clbench.config import Plan, check_names, resolve
from clbench.configurations import protocol_changes, protocol_lines, ranges
from clbench.errors import Mistake, unknown
from clbench.leaderboard import Cell, means
from clbench.metric import Summary
from clbench.result import Result, summaries
from clbench.tables import Table, heading, quantities, write
from clbench.words import Options, parse, to_text, typed

if TYPE_CHECKING:
    from rich.console import Console

PROTOCOLS = ("whole", "first", "transfer")
SEEDS = [100, 101, 102]
"""what candidates are run with unless told otherwise: apart from those that one judges with, 0, 1, 2, …"""
JUDGING = list(range(6))
SHARE = 0.1
"""held out of each experience, unless told otherwise"""


@dataclass(frozen=True)
class Search:
    """What is tried, and how it is scored."""

    protocol: str
    metric: Summary
    fixed: dict[str, Any]
    """path to value: what all candidates share"""
    candidates: list[dict[str, Any]]
    """path to value: what each of them tries"""
    seeds: list[int]
    share: float
    """of each experience, held out"""
    first: int | None
    """experiences that are looked at; None: all"""
    plans: list[Plan]
    """the runs, all seeds of one candidate after another"""
    drawn: bool
    """whether candidates are a random part of the grid"""

    @property
    def over(self) -> list[str]:
        """The paths that are tuned."""
        return list(self.candidates[0])

    @property
    def name(self) -> str:
        """The protocol's name, with the number of first experiences."""
        return self.protocol if self.first is None else f"{self.protocol}={self.first}"

    @property
    def source(self) -> str:
        """Where the chosen values come from, for those who read a table with them."""
        about = self.plans[0]
        where = f"protocol {self.name} on {about.values['stream']}"
        grid = f"{len(self.candidates)} candidates of {', '.join(self.over)}, by {self.metric.id}"
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {ranges(self.seeds)}"
        return f"tuned here on validation ({where}, share {self.share:g}, {seeds}, {grid})"


def search(
    words: Sequence[str], protocol: str = "whole", metric: str = "class/final_accuracy", draws: int | None = None
) -> tuple[Search, Options]:
    """The candidates that a command's words ask for, each resolved before the first one starts.

    Args:
        words: as for a run; what is swept over is tuned.
        protocol: whole, first or transfer.
        metric: the summary that is selected on, over the exams of the validation shares.
        draws: so many random points of the grid; None: all.

    Raises:
        Mistake: a name or a value is wrong, there is nothing to choose between, or the choice would not be fair.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    points, options = parse(words)
    check_names(points)
    axes = {path: _distinct(point[path] for point in points) for path in points[0]}
    seeds, share, first = axes.pop("seed", SEEDS), _one(axes, "stream.validation", SHARE), _one(axes, "first", None)
    _refuse(axes, protocol, first)
    over = [path for path, values in axes.items() if len(values) > 1]
    if not over:
        raise Mistake("There is nothing to choose between: sweep over what is to be tuned, as in learner.lr=0.01,0.1.")
    candidates: list[dict[str, Any]] = _distinct({path: point[path] for path in over} for point in points)
    drawn = draws is not None and draws < len(candidates)
    if draws is not None and drawn:
        if draws < 2:
            raise Mistake(f"--draws {draws}: of fewer than two candidates none can be chosen.")
        chosen = sorted(random.Random(0).sample(range(len(candidates)), draws))
        candidates = [candidates[index] for index in chosen]
    fixed = {path: values[0] for path, values in axes.items() if path not in over}
    first = (1 if first is None else first) if protocol == "first" else None
    held = {"stream.validation": share, "stream.exam_on": "validation"} | ({} if first is None else {"first": first})
    plans = [
        resolve({**fixed, **candidate, **held, "seed": seed}) for candidate in candidates for seed in sorted(seeds)
    ]
    _fair(plans, over)
    tried = [{path: plan.values[path] for path in over} for plan in plans[:: len(seeds)]]
    if protocol == "transfer":
        kept = {path: value for path, value in plans[0].values.items() if re.match(r"strategy\b|learner\.lr$", path)}
        fixed = {path: value for path, value in kept.items() if path not in over} | fixed
    found = Search(protocol, summaries([metric])[metric], fixed, tried, sorted(seeds), share, first, plans, drawn)
    return found, typed(Options, options)


def _distinct(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _one(axes: dict[str, list[Any]], path: str, default: Any) -> Any:
    values = axes.pop(path, [default])
    if len(values) > 1:
        raise Mistake(f"{path} can't be tuned: it is a part of how candidates are scored.")
    return values[0]


def _refuse(axes: dict[str, list[Any]], protocol: str, first: int | None) -> None:
    for path in ("config", "tuned"):
        if path in axes:
            raise Mistake(f"{path}=FILE can't be tuned: give the strategy, the stream and what is swept over.")
    for path in ("stream", "strategy", "model", "recipe"):
        if len(axes.get(path, ())) > 1:
            raise Mistake(f"{path}={','.join(map(str, axes[path]))}: one {path} is tuned at a time.")
    if axes.pop("stream.exam_on", ["validation"]) != ["validation"]:
        raise Mistake("Tuning selects on stream.exam_on=validation; exams on test data would be seen before judging.")
    if first is not None and protocol != "first":
        raise Mistake(f"first={first} belongs to --protocol first; protocol {protocol} is over the whole stream.")
    name = str(axes.get("stream", ["digits"])[0])
    entry = catalogue.resolve("stream", name)
    lacks = {"validation", "exam_on"} - {option.name for option in fields(entry)}
    if lacks:
        raise Mistake(f"Nothing can be tuned on stream={name}: it holds no validation share out of its experiences.")


def _fair(plans: Sequence[Plan], over: Sequence[str]) -> None:
    """Candidates share a protocol, and every axis of the table.

    Raises:
        Mistake: they don't.
    """
    for path in over:
        if path.endswith("memory_size"):
            raise Mistake(f"{path} is an axis of the table, not a knob: more is better. Tune at one size.")
    first = plans[0].protocol()
    for plan in plans:
        if changes := protocol_changes(first, plan.protocol()):
            fields = ", ".join(f"{field} ({here}, {there})" for field, (here, there) in changes.items())
            raise Mistake(
                f"Candidates must share a protocol, or none could be ranked with others; here differ: {fields}."
            )


@dataclass(frozen=True)
class Outcome:
    """What the candidates came to."""

    search: Search
    cells: list[Cell]
    """mean and interval of each candidate, in their order"""
    chosen: int | None
    """the best mean, the earlier one of two equal ones; None: no candidate has a mean"""

    @property
    def values(self) -> dict[str, Any]:
        """Path to value: what was chosen."""
        return {} if self.chosen is None else self.search.candidates[self.chosen]

    @property
    def equals(self) -> list[dict[str, Any]]:
        """The candidates with exactly the chosen one's mean, itself among them."""
        pairs = zip(self.search.candidates, self.cells, strict=True)
        return [] if self.chosen is None else [c for c, cell in pairs if cell.mean == self.cells[self.chosen].mean]

    @property
    def source(self) -> str:
        """As the search's; and of how many that were equally good it is the first."""
        ties = f"; the first of {len(self.equals)} that are equal" if len(self.equals) > 1 else ""
        return self.search.source + ties


def outcome(search: Search, results: Sequence[Result]) -> Outcome:
    """The candidates' scores and the choice, from their runs in the order of `search.plans`. A candidate with a seed
    that is missing, failed or diverged has no mean, and is not chosen.
    """
    n, id = len(search.seeds), search.metric.id
    groups = [list(results[start : start + n]) for start in range(0, len(results), n)]
    found = [means(group, {id: search.metric})[id] for group in groups]
    sign = -1 if search.metric.better == "lower" else 1
    there = [index for index, cell in enumerate(found) if cell.mean is not None]
    best = max(there, key=lambda index: (sign * (found[index].mean or 0.0), -index), default=None)
    return Outcome(search, found, best)


def preset(outcome: Outcome) -> str:
    """The text of a file for `clbench run tuned=FILE`: its source, what was tuned, and `path: value` as a command has
    it."""
    search = outcome.search
    stated = {"stream": search.plans[0].values["stream"], "strategy": search.plans[0].values["strategy"]}
    values = {"source": outcome.source, "over": search.over, **stated, **search.fixed, **outcome.values}
    return "".join(f"{path}: {to_text(value)}\n" for path, value in values.items())


def save(outcome: Outcome, path: Path) -> None:
    """Write the preset.

    Raises:
        Mistake: nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, preset(outcome).encode())
    except OSError as error:
        raise Mistake(f"{path} can't be written: {error.strerror}.") from None


def usual_place(search: Search, results: Path) -> Path:
    """Where the preset goes unless told otherwise."""
    about = search.plans[0]
    name = re.sub(r"\W+", "-", f"{about.values['stream']} {about.label} {search.name}")
    return results / "tuned" / f"{name}.yaml"


def command(search: Search, file: Path) -> str:
    """The words that judge what was chosen, on the exams of its own stream."""
    return shlex.join(["clbench", "run", f"tuned={to_text(str(file))}", f"seed=range({len(JUDGING)})"])


def judging(search: Search, words: Sequence[str], file: str) -> list[list[str]]:
    """The words of the commands that judge the choice on exams, one for each stream: the file of the choice with
    these words laid over it, and what goes over to another stream.

    Raises:
        Mistake: they change what was tuned, or are judged on another stream, or not on another, as the protocol has it,
            or under another scenario.
    """
    points, options = parse(words)
    for path in (*options, *points[0]):
        if path.partition(".")[0] not in ("stream", "model", "seed", "probes") or path in search.over:
            raise Mistake(
                f"{path} has no place behind --judge: there stand the stream with its options, and the seeds."
            )
    check_names(points)
    tuned, moved = search.plans[0].values["stream"], search.protocol == "transfer"
    kept = {p: value for p, value in search.fixed.items() if not (moved and p.partition(".")[0] == "stream")}
    commands = []
    for stream in _distinct(point.get("stream", tuned) for point in points):
        if stream != tuned and not moved:
            raise Mistake(f"What was tuned on {tuned} is judged on {stream} under --protocol transfer only.")
        there = {f"stream.{option.name}" for option in fields(catalogue.resolve("stream", stream))} - {"stream.data"}
        over = {path: v for path, v in search.fixed.items() if moved and path in there and path not in points[0]}
        for point in points:
            if point.get("stream", tuned) == stream:
                plan = resolve({**kept, **search.candidates[0], **over, **point})
                if moved:
                    _same_scenario(search.plans[0], plan)
        given = [f"stream={stream}" if word.startswith("stream=") else word for word in words]
        seeds = [] if "seed" in points[0] else [f"seed=range({len(JUDGING)})"]
        carried = [f"{path}={to_text(value)}" for path, value in over.items()]
        commands.append([f"tuned={to_text(file)}", *given, *carried, *seeds])
    return commands


def _same_scenario(tuned: Plan, judged: Plan) -> None:
    """Whether two streams differ in nothing but their data, as far as the transfer protocol asks.

    Raises:
        Mistake: they do not, or the data are the same.
    """
    from copy import deepcopy

    one, other = tuned.stream.protocol(), judged.stream.protocol()
    names = (tuned.values["stream"], judged.values["stream"])
    if set(tuned.stream.checksums().values()) & set(judged.stream.checksums().values()):
        raise Mistake(
            f"--protocol transfer judges on other data than it tunes on; {names[0]} and {names[1]} share theirs."
        )
    streams = [deepcopy(plan.stream) for plan in (tuned, judged)]
    for stream, plan in zip(streams, (tuned, judged), strict=True):
        stream.open(plan.seed)
    for what, (a, b) in {
        "scenario": (one.get("scenario"), other.get("scenario")),
        "number of experiences": tuple(map(len, streams)),
    }.items():
        if a != b:
            raise Mistake(f"--protocol transfer needs one {what}: {names[0]} has {a}, {names[1]} has {b}.")


def render(outcome: Outcome, format: str = "terminal", console: Console | None = None) -> str:
    """The candidates, best first, as text in the formats of a leaderboard but csv."""
    search, metric = outcome.search, outcome.search.metric
    values = [None if cell.mean is None else (cell.mean, cell.half_width) for cell in outcome.cells]
    unit, texts = quantities(values, metric.unit)
    sign = -1 if metric.better == "lower" else 1
    order = sorted(range(len(values)), key=lambda i: (values[i] is None, -sign * (outcome.cells[i].mean or 0.0), i))
    rows = []
    for index in order:
        name = _shown(search.candidates[index]) + (" (chosen)" if index == outcome.chosen else "")
        cell = outcome.cells[index]
        rows.append(["\n".join(filter(None, (name, cell.note))), str(cell.n), texts[index]])
    about = search.plans[0]
    title = f"{about.label} on {about.values['stream']}: {len(search.candidates)} candidates"
    part = "the whole stream" if search.first is None else _experiences(search.first)
    lines = [
        f"protocol {search.name}: {part}, scored on the {100 * search.share:g} % held out of each experience, "
        f"seeds {ranges(search.seeds)}",
        *protocol_lines(about.protocol()),
    ]
    return write([Table(title, lines, ["", "n", heading(metric, unit)], rows, _notes(outcome))], format, console)


def _shown(values: dict[str, Any]) -> str:
    return " ".join(f"{path}={to_text(value)}" for path, value in values.items())


def _experiences(first: int) -> str:
    return "the first experience" if first == 1 else f"the first {first} experiences"


def _notes(outcome: Outcome) -> list[str]:
    from clbench.statistics import ENOUGH

    search, notes = outcome.search, []
    if search.drawn:
        notes.append("Candidates are a random part of the grid, the same one each time.")
    if search.first == 1:
        notes.append("One experience can't show forgetting: what acts on later ones alone is not decided by this.")
    if len(outcome.equals) > 1:
        there = "; ".join(map(_shown, outcome.equals))
        notes.append(f"These are equal to the last digit, and the first of them is taken: {there}.")
    for path, value in outcome.values.items():
        tried = sorted({c[path] for c in search.candidates if isinstance(c[path], int | float)})
        if len(tried) > 2 and value in (tried[0], tried[-1]) and not isinstance(value, bool):
            side = "smallest" if value == tried[0] else "largest"
            notes.append(f"{path}={to_text(value)} is the {side} that was tried: the best may lie beyond it.")
    if len(search.seeds) < ENOUGH:
        notes.append(
            f"With fewer than {ENOUGH} seeds no difference between candidates can be claimed; the best mean is taken."
        )
    notes.append("n: seeds; means over seeds ± 95 % intervals by Student's t.")
    return notes
