"""What was run, read back: one result, the runs of a configuration, leaderboards, comparisons, ranks, references."""

from clbench.comparison import Comparison, Difference, comparable, compare, render_comparison
from clbench.configurations import configurations, differences, select
from clbench.leaderboard import DEFAULT, Board, Cell, Standing, leaderboard, render
from clbench.paired import Paired, paired, render_paired
from clbench.ranking import Ranking, rank, render_ranking
from clbench.reference import against
from clbench.result import Result, find, frame, open_result, rescore, summarise

__all__ = [
    "DEFAULT",
    "Board",
    "Cell",
    "Comparison",
    "Difference",
    "Paired",
    "Ranking",
    "Result",
    "Standing",
    "against",
    "comparable",
    "compare",
    "configurations",
    "differences",
    "find",
    "frame",
    "leaderboard",
    "open_result",
    "paired",
    "rank",
    "render",
    "render_comparison",
    "render_paired",
    "render_ranking",
    "rescore",
    "select",
    "summarise",
]
