"""Everything that the notebooks draw: charts, diagrams, tables and tokens."""

from helpers.show.charts import bars, drawable, lines, picture, squares, style, subplots, timeline  # noqa: F401
from helpers.show.diagrams import flow  # noqa: F401
from helpers.show.tables import facts, source, table  # noqa: F401
from helpers.show.tokens import changes, chips, steps  # noqa: F401
