"""The contract that every stream, strategy and metric keeps, ours and those of plug-ins, each checked in one line:

    from clbench.testing import check_strategy

    def test_mine():
        check_strategy(Mine)

What is checked is given as a name from a catalogue, as an instance, or as a function (a class) that makes one. A check
that fails raises AssertionError; its one line says what is broken and what the likely cause is. A check takes about a
second, needs no data, and leaves the global generators and the thread count as they were.
"""

from clbench.testing.metrics import check_metric
from clbench.testing.strategies import check_resume, check_strategy
from clbench.testing.streams import check_stream

__all__ = ["check_metric", "check_resume", "check_strategy", "check_stream"]
