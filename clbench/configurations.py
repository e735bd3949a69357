"""The runs of one configuration, a strategy with its options: one for each seed. What tells configurations apart."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from clbench.errors import Mistake, unknown
from clbench.result import Result, find
from clbench.words import NULL

FIRST = ("stream", "model", "epochs", "batch", "scenario", "experiences", "class order", "order")
"""the fields of a protocol that a reader looks for first"""
TOLD = (
    "format", "stream", "strategy", "seed", "hash", "protocol", "axes", "config", "preset", "whole_stream", "sweep",
    "started",
)  # fmt: skip
"""what meta.json says of what was run, not of where it comes from"""


def configurations(results: Iterable[Result]) -> list[list[Result]]:
    """The runs of each strategy and hash, by seed. Where a seed is there twice the run started last counts."""
    groups: dict[tuple[str, str], dict[int, Result]] = {}
    for result in sorted(results, key=lambda result: result.meta.get("started", "")):
        groups.setdefault((result.strategy, result.hash), {})[result.seed] = result
    return [[group[seed] for seed in sorted(group)] for _, group in sorted(groups.items())]


def select(root: str | Path, spec: str) -> list[Result]:
    """The runs of the one configuration that `spec` names, by seed.

    Args:
        root: the folder under which runs lie.
        spec: a strategy, `stream/strategy`, the beginning of a hash (four digits or more), or a folder of runs.

    Raises:
        Mistake: there is none, or there are several, which are then listed with what tells them apart.
    """
    results = find(root)
    found = matching(root, results, spec)
    if not found:
        there = {name for result in results for name in (result.strategy, f"{result.stream}/{result.strategy}")}
        raise unknown(f"configuration in {root}", spec, there) if there else Mistake(f"There is no run in {root}.")
    groups = configurations(found)
    if len(groups) > 1:
        raise Mistake(
            f"'{spec}' stands for {len(groups)} configurations: {candidates(groups)}. "
            "Name one by its stream/strategy or the beginning of its hash."
        )
    return groups[0]


def matching(root: str | Path, results: Sequence[Result], spec: str) -> list[Result]:
    """The runs beneath `root` that `spec` names, of any number of configurations; `results` are all that there are."""
    return (
        [result for result in results if spec in (result.strategy, f"{result.stream}/{result.strategy}")]
        or [result for result in results if len(spec) >= 4 and result.hash.startswith(spec)]
        or next((runs for folder in (Path(root, spec), Path(spec)) if folder.is_dir() and (runs := find(folder))), [])
    )


def candidates(groups: Sequence[list[Result]]) -> str:
    """Configurations as text: stream, strategy and hash, and what tells those of one stream apart."""
    texts = []
    for stream in sorted({group[0].stream for group in groups}):
        there = [group for group in groups if group[0].stream == stream]
        for group, settings in zip(there, differences(there), strict=True):
            shown = shown_settings({key: value for key, value in settings.items() if key != "hash"})
            texts.append(f"{stream}/{group[0].strategy} {group[0].hash[:8]}{f' ({shown})' if shown else ''}")
    return "; ".join(texts)


def differences(groups: Sequence[Sequence[Result]]) -> list[dict[str, str]]:
    """For each configuration what tells it from the others.

    These are axes (memory), and options between configurations of one strategy; where these are all equal versions and
    data, and in the end the hash.
    """
    metas = [group[0].meta for group in groups]
    found = _varying([meta.get("axes", {}) for meta in metas])
    details: tuple[tuple[Callable[[dict[str, Any]], dict[str, str]], bool], ...] = (
        (_options, False),
        (_versions, True),
        (lambda meta: {"hash": meta["hash"][:8]}, True),
    )
    for detail, only_twins in details:
        alike: dict[tuple, list[int]] = {}
        for index, meta in enumerate(metas):
            alike.setdefault((meta["strategy"], *(found[index].items() if only_twins else ())), []).append(index)
        for same in alike.values():
            for index, more in zip(same, _varying([detail(metas[index]) for index in same]), strict=True):
                found[index] |= more
    return found


def _options(meta: dict[str, Any]) -> dict[str, str]:
    axes = meta.get("axes", {})
    return {
        path.removeprefix("strategy."): value
        for path, value in meta.get("config", {}).items()
        if path not in ("seed", "stream", "strategy") and path.partition(".")[2] not in axes and value != NULL
    }


def _versions(meta: dict[str, Any]) -> dict[str, str]:
    versions = {f"version of {name}": version for name, version in meta.get("versions", {}).items()}
    return versions | {f"data {name}": digest[:8] for name, digest in meta.get("data", {}).items()}


def _varying(settings: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Each dictionary without the entries that all of them share."""
    keys = {key: None for each in settings for key in each}
    varying = [key for key in keys if len({str(each.get(key)) for each in settings}) > 1]
    return [{key: str(each[key]) for key in varying if each.get(key) is not None} for each in settings]


def provenance(group: Sequence[Result]) -> dict[str, list[str]]:
    """What is written down of where runs come from: every value of each fact; commands that differ by seeds are one."""
    found: dict[str, dict[str, None]] = {}
    commands: dict[str, set[int]] = {}
    for result in group:
        for key, value in result.meta.items():
            if key not in TOLD and value not in ("", None, {}):
                found.setdefault(key, {})[_fact(value)] = None
        words = shlex.split(result.meta.get("command", ""))
        commands.setdefault(shlex.join(w for w in words if not w.startswith("seed=")), set()).add(result.seed)
    if "command" in found:
        texts = (f"{words} seed={','.join(map(str, sorted(seeds)))}" for words, seeds in commands.items())
        found["command"] = dict.fromkeys(texts)
    started = sorted(result.meta["started"][:16].replace("T", " ") for result in group if "started" in result.meta)
    when = {"started": [" to ".join(dict.fromkeys((started[0], started[-1]))) + " UTC"]} if started else {}
    return {key: list(values) for key, values in found.items()} | when


def _fact(value: Any) -> str:
    """A fact of meta.json as text; of a checksum the beginning."""
    if not isinstance(value, dict):
        return plain(value)
    short = {key: str(each)[:12] if len(str(each)) == 64 else str(each) for key, each in value.items()}
    return ", ".join(f"{key} {each}" for key, each in short.items())


def protocol_changes(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which two protocols differ, with both values; None where a protocol lacks the field."""
    return {
        field: (one.get(field), other.get(field))
        for field in dict.fromkeys((*FIRST, *one, *other))
        if one.get(field) != other.get(field)
    }


def protocol_lines(protocol: dict[str, Any]) -> list[str]:
    """A protocol as text: a line of what a reader looks for first, a line of the rest."""
    first = [field for field in FIRST if field in protocol]
    rest = [field for field in protocol if field not in FIRST]
    return [" · ".join(f"{field} {plain(protocol[field])}" for field in fields) for fields in (first, rest) if fields]


def plain(value: Any) -> str:
    """A protocol's value in a reader's words."""
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


def shown_settings(settings: dict[str, str]) -> str:
    """Settings as text: memory 500, alpha 0.3."""
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def label(result: Result, settings: dict[str, str]) -> str:
    """A configuration's name where it stands beside others."""
    return f"{result.strategy} ({shown_settings(settings)})" if settings else result.strategy


def seeds(group: Iterable[Result]) -> list[int]:
    """The seeds of a configuration, in order."""
    return sorted(result.seed for result in group)


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in order, as short text: 0-5, 8."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
