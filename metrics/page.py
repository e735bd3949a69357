"""What docs/metrics.md says of each metric, made of the metrics themselves.

    python -m clbench.metrics.page docs/metrics.md

writes the parts of the page that stand between `<!-- made: NAME -->` and `<!-- end -->`; the rest is written by hand.
Numbers of worked examples are computed here, from the matrices below; what is typed is the arithmetic that a reader
can follow, and tests hold the two together.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from clbench.accumulation import accumulation
from clbench.catalogue import resolve
from clbench.intransigence import intransigence
from clbench.metric import Probe, Row, Summary
from clbench.metrics.calls import CALLS
from clbench.metrics.detected import DETECTED
from clbench.metrics.elsewhere import ELSEWHERE, LINES
from clbench.metrics.requests import REQUESTS
from clbench.metrics.retention import RETENTION
from clbench.metrics.summary import SUMMARIES

R = ((0.90,), (0.60, 0.88), (0.70, 0.40, 0.92), (0.62, 0.55, 0.70, 0.90))
"""row t, column j: exams are forgotten"""
RUP = ((0.60,), (0.70, 0.50), (0.75, 0.60, 0.90))
"""old exams become better"""
P = ((1, (0.90,)), (2, (0.40, 0.86)), (2, (0.60, 0.88)), (3, (0.50, 0.30, 0.90)), (3, (0.70, 0.40, 0.92)))
"""looks within experiences: which one is being learned, and accuracy on its exams so far"""
Q = {
    "forget 1": (1, (0.80, 0.10, 0.20)),
    "forget 2": (2, (0.90, 0.80, 0.00)),
    "remaining": (None, (0.85, 0.82, 0.75)),
}
"""exams of a stream with two requests: which request asks to forget each, and accuracy after each experience"""
BEST = (0.90, 0.89, 0.94, 0.95)
"""accuracy of cumulative training on exam t at step t"""
KNOWN = ((2, 0.20, 0.50), (4, 0.45, 0.60), (6, 0.60, 0.75), (8, 0.70, 0.80))
"""experiences learned, accuracy on all exams of a recurring stream, and of its reference"""
PROBES = (
    "exams", "cost", "timing", "loss", "drift", "online", "anytime", "anytime100", "restoration", "cka", "calibration",
    "confusion", "plasticity", "recovery", "sparsity", "retrieval", "detection", "localisation", "ranks",
    "usage",
)  # fmt: skip
WIDTH = 120


def matrix_rows(matrix: Sequence[Sequence[float]]) -> list[Row]:
    """A lower triangular matrix as rows: experience t first teaches exam t, of 100 samples."""
    rows = [Row(0, 0, "exam/since", f"e{exam}", exam, 100) for exam in range(len(matrix))]
    for step, cells in enumerate(matrix, start=1):
        rows += [Row(step, step, "class/accuracy", f"e{exam}", value, 100) for exam, value in enumerate(cells)]
    return rows


def examples() -> list[list[Row]]:
    """The rows of the runs that examples are computed from: R, P, and two experiences of online learning."""
    looks = [Row(0, 0, "exam/since", f"e{exam}", exam, 100) for exam in range(len(P[-1][1]))]
    for at, (taught, cells) in enumerate(P):
        looks += [Row(taught - 1, at, "anytime/class", f"e{exam}", value, 100) for exam, value in enumerate(cells)]
    online = [Row(1, 4, "online/accuracy", "", 0.50, 100), Row(2, 16, "online/accuracy", "", 0.70, 300)]
    return [matrix_rows(R), looks, online]


def recurring(column: int) -> list[Row]:
    """The accuracies of KNOWN as rows of a run that is looked at after every second experience."""
    rows = [Row(0, 0, "exam/since", "all", 0, 100)]
    for known in KNOWN:
        step = known[0]
        rows += [Row(step, step, "class/accuracy", "all", known[column], 100)]
        rows += [Row(step, step, "cost/samples", "", 50 * step)]
    return rows


def request_rows() -> list[Row]:
    """Q as rows: the first experience teaches everything, the others are requests; exams have 100 samples."""
    rows = []
    for exam, (until, cells) in Q.items():
        rows += [Row(0, 0, "exam/since", exam, 0, 100), Row(0, 0, "exam/until", exam, until, 100)]
        rows += [Row(step, step, "class/accuracy", exam, value, 100) for step, value in enumerate(cells, start=1)]
    return rows


def shown(number: float) -> str:
    """Four digits after the point at the most, none before it where that is 0."""
    text = f"{abs(number):.4f}".rstrip("0")
    whole, _, digits = text.partition(".")
    whole = "" if whole == "0" and digits else whole
    return ("−" if number < 0 else "") + whole + (f".{digits:0<2}" if digits else "")


def section(summary: Summary, runs: Sequence[Sequence[Row]], name: str) -> str:
    """A heading, the formula, the example with its number (of the first run that has one), the source, the remark."""
    formula = summary.formula.partition("; a: ")[0]
    parts = [f"{summary.citation[0].upper()}{summary.citation[1:]}.", summary.remark]
    if summary.example:
        number = next(value.number for value in map(summary.compute, runs) if value.number is not None)
        parts.insert(0, f"{typeset(summary.example)} = **{shown(number)}**.")
    body = textwrap.fill(" ".join(filter(None, parts)), WIDTH, break_long_words=False, break_on_hyphens=False)
    quoted = textwrap.fill(formula, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return f"### `{name}` (version {summary.version})\n\n{textwrap.indent(quoted, '> ')}\n\n{body}"


def typeset(arithmetic: str) -> str:
    return arithmetic.replace("-", "−").replace(" * ", " · ")


def metrics() -> str:
    """A section for each metric of exams; one for both read-outs."""
    runs, parts = examples(), []
    for id, summary in SUMMARIES.items():
        group, _, name = id.partition("/")
        if group in ("class", "online", "calibration", "plasticity", "retrieval"):
            both = group == "class" and f"task/{name}" in SUMMARIES
            parts.append(section(summary, runs, name if both else id))
    return "\n\n".join(parts)


def costs() -> str:
    lines = ["| id | unit | what it counts |", "| --- | --- | --- |"]
    for id, summary in SUMMARIES.items():
        if id.startswith("cost/"):
            lines.append(f"| `{id}` | {summary.unit} | {summary.formula.partition(': ')[2]} |".replace("|  |", "| |"))
    return "\n".join(lines)


def calls() -> str:
    lines = ["| id | unit | what it is |", "| --- | --- | --- |"]
    lines += [f"| `{id}` | {summary.unit} | {summary.formula} |" for id, summary in CALLS.items()]
    return "\n".join(lines)


def against() -> str:
    """A section for each measure against a reference."""
    best = [Row(step, step, "class/accuracy", f"e{step - 1}", value, 100) for step, value in enumerate(BEST, start=1)]
    parts = [section(intransigence(best)["class/intransigence"], [matrix_rows(R)], "intransigence")]
    parts += [section(summary, [recurring(1)], id) for id, summary in accumulation(recurring(2)).items()]
    return "\n\n".join(parts)


def requests() -> str:
    """Q as a table, and a section for each measure of requests."""
    lines = [f"| Q | {' | '.join(f'`{exam}`' for exam in Q)} |", f"| --- |{' ---: |' * len(Q)}"]
    for step, cells in enumerate(zip(*(cells for _, cells in Q.values()), strict=True)):
        name = f"after request {step}" if step else "everything taught"
        lines.append(f"| {name} | {' | '.join(map(shown, cells))} |")
    return "\n\n".join(["\n".join(lines), *(section(summary, [request_rows()], summary.id) for summary in REQUESTS)])


def detection() -> str:
    """A line for each measure of detection over a run."""
    lines = ["| id | formula |", "| --- | --- |"]
    lines += [f"| `{id}` | {summary.formula.partition('; a: ')[0]} |" for id, summary in DETECTED.items()]
    return "\n".join(lines)


def retention_rows() -> list[Row]:
    """Two exams that are taught and two that never are, at the end."""
    exams = {"birds": (0, 0.40), "signs": (1, 0.90), "photos": (None, 0.60), "sketches": (None, 0.40)}
    rows = [Row(0, 0, "exam/since", exam, since, 100) for exam, (since, _) in exams.items()]
    return rows + [Row(2, 2, "task/accuracy", exam, value, 100) for exam, (_, value) in exams.items()]


def retention() -> str:
    """A section for each measure of accumulation and retention."""
    return "\n\n".join(section(summary, [retention_rows()], summary.id) for summary in RETENTION)


def grid(name: str, matrix: Sequence[Sequence[float]]) -> Iterator[str]:
    """A matrix as a table."""
    size = len(matrix)
    yield f"| {name} | {' | '.join(['j = 1', *map(str, range(2, size + 1))])} |"
    yield f"| --- |{' ---: |' * size}"
    for step, cells in enumerate(matrix, start=1):
        texts = [f" {shown(value)} |" for value in cells] + [" |"] * (size - len(cells))
        yield f"| {'t = 1' if step == 1 else step} |{''.join(texts)}"


def trace() -> str:
    """P as a table."""
    lines = ["| P | while t is learned | j = 1 | 2 | 3 |", "| --- | --- | ---: | ---: | ---: |"]
    for place, (taught, cells) in enumerate(P, start=1):
        texts = [f" {shown(value)} |" for value in cells] + [" |"] * (3 - len(cells))
        lines.append(f"| {'p = 1' if place == 1 else place} | {taught} |{''.join(texts)}")
    return "\n".join(lines)


def elsewhere() -> str:
    """BWT and forgetting of both matrices, ours and other libraries'; bold where they differ from ours."""
    sources = {library: source for _, library, _, _, source in LINES}
    rows = {name: matrix_rows(matrix) for name, matrix in (("R", R), ("Rup", RUP))}
    measures = [(name, matrix) for matrix in rows for name in ("bwt", "forgetting")]
    heads = [f"{ {'bwt': 'BWT', 'forgetting': 'forgetting'}[name] }, {matrix}".strip() for name, matrix in measures]
    form = {"bwt": "+.3f", "forgetting": ".3f"}
    own = [f"{SUMMARIES[f'class/{name}'].compute(rows[matrix]).number:{form[name]}}" for name, matrix in measures]
    lines = [f"| @ | | {' | '.join(heads)} |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    lines.append(f"| | **clbench** | {' | '.join(map(signed, own))} |")
    for library, source in sources.items():
        texts = []
        for (name, matrix), ours in zip(measures, own, strict=True):
            summary = ELSEWHERE.get(f"class/{name}@{library}")
            text = f"{summary.compute(rows[matrix]).number:{form[name]}}" if summary else ""
            texts.append(signed(text) if text in ("", ours) else f"**{signed(text)}**")
        file = source.rpartition(", ")
        lines.append(f"| `{library}` | {file[0]}, `{file[2]}` | {' | '.join(text or 'none' for text in texts)} |")
    return "\n".join(lines)


def signed(text: str) -> str:
    """-0.277 as −.277; what is neither more nor less than 0 without a sign."""
    if float(text or 1) == 0:
        return ".000"
    return text.replace("0.", ".", 1).replace("-", "−")


def probes() -> str:
    """The first sentences of each probe's text, and when it looks."""
    lines = ["| probe | version | looks | |", "| --- | --- | --- | --- |"]
    for name in PROBES:
        probe: type[Probe] = resolve("metric", name)
        when = ", ".join(WHEN.get(entry, f"{entry} times an experience") for entry in probe.when)
        text = re.split(r"(?<!al)\. ", " ".join((probe.__doc__ or "").split("\n\n")[0].split()))[0].rstrip(".")
        lines.append(f"| `{name}` | {probe.version} | {when} | {text.replace('|', '∣')} |")
    return "\n".join(lines)


WHEN: dict[str | int, str] = {
    "experience": "after each experience",
    "every": "after each experience, looked at or not",
    "epoch": "after each pass",
}
BLOCKS: dict[str, Callable[[], str]] = {
    "R": lambda: "\n".join(grid("R", R)),
    "Rup": lambda: "\n".join(grid("Rup", RUP)),
    "P": trace,
    "metrics": metrics,
    "calls": calls,
    "costs": costs,
    "against": against,
    "requests": requests,
    "detection": detection,
    "retention": retention,
    "elsewhere": elsewhere,
    "probes": probes,
}


def updated(page: str) -> str:
    """The page with every part made anew."""

    def made(match: re.Match[str]) -> str:
        return f"<!-- made: {match[1]} -->\n\n{BLOCKS[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- made: (\w+) -->.*?<!-- end -->", made, page, flags=re.DOTALL)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(updated(file.read_text(encoding="utf-8")), encoding="utf-8")
