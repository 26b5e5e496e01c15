"""The one place that draws, for JupyterLab and for the stored page.

A module for each kind of drawing; pages write show.table(…), show.chips(…) and do not care where it stands.
"""

from helpers.show.canvas import COLOURS, picture
from helpers.show.quality import pareto, surprises
from helpers.show.speed import groups, one_answer, scaling
from helpers.show.tables import facts, source, table
from helpers.show.text import budget, fork, language_costs, merge_tree, reshaped, road, top_tokens
from helpers.show.times import agreement, curves, reading, rhythm, rounds, stacks, timeline
from helpers.show.tokens import CONTROL, Chips, changes, chips, steps
from helpers.show.turns import filling
from helpers.show.weights import (
    before_and_after,
    group_errors,
    number_formats,
    on_grid,
    precision_map,
    ranking,
    trade_off,
)

__all__ = [
    "COLOURS",
    "CONTROL",
    "Chips",
    "agreement",
    "before_and_after",
    "budget",
    "changes",
    "chips",
    "curves",
    "facts",
    "filling",
    "fork",
    "group_errors",
    "groups",
    "language_costs",
    "top_tokens",
    "merge_tree",
    "number_formats",
    "on_grid",
    "one_answer",
    "pareto",
    "picture",
    "precision_map",
    "ranking",
    "reading",
    "reshaped",
    "rhythm",
    "road",
    "rounds",
    "scaling",
    "source",
    "stacks",
    "steps",
    "surprises",
    "table",
    "timeline",
    "trade_off",
]
