"""The only code that draws, for JupyterLab and for the stored page: charts, tokens and tables."""

from helpers.show.charts import bars, drawable, lines, picture, squares, style, subplots, timeline  # noqa: F401
from helpers.show.diagrams import flow  # noqa: F401
from helpers.show.tables import facts, source, table  # noqa: F401
from helpers.show.tokens import changes, chips, steps  # noqa: F401
