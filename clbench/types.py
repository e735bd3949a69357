"""The kinds of value that options take, with their bounds."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Ge(1)]
"""a whole number, 1 or more"""
Natural = Annotated[int, Ge(0)]
"""a whole number, 0 or more"""
Positive = Annotated[float, Gt(0), Lt(math.inf)]
"""a finite number above 0"""
NonNegative = Annotated[float, Ge(0), Lt(math.inf)]
"""a finite number, 0 or more"""
Share = Annotated[float, Ge(0), Lt(1)]
"""a share, from 0 to below 1"""
Fraction = Annotated[float, Ge(0), Le(1)]
"""a share, from 0 to 1"""
