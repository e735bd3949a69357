"""What was run, read back: one result, the runs of a configuration, leaderboards, comparisons, ranks."""

from clbench.against import Against, against, render_against
from clbench.comparison import Comparison, Difference, compare, render_comparison
from clbench.configurations import configurations, differences, select
from clbench.leaderboard import DEFAULT, Board, Cell, Standing, leaderboard, render
from clbench.ranking import Ranking, rank, render_ranking
from clbench.result import Result, find, frame, open_result, rescore, summarise

__all__ = [
    "DEFAULT",
    "Against",
    "Board",
    "Cell",
    "Comparison",
    "Difference",
    "Ranking",
    "Result",
    "Standing",
    "against",
    "compare",
    "configurations",
    "differences",
    "find",
    "frame",
    "leaderboard",
    "open_result",
    "rank",
    "render",
    "render_against",
    "render_comparison",
    "render_ranking",
    "rescore",
    "select",
    "summarise",
]
