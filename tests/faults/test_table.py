"""The table in docs/faults.md lists just the faults of this suite, and is fit to be read."""

import ast
import re

from faults.conftest import FAULTS, WHOLE
from faults.table import ELSEWHERE, TABLE, Row, read_table, write_table
from helpers.settings import ROOT


def test_the_table_lists_just_the_faults_of_the_suite(request):
    """Of those that were collected; all files of the suite must be, before a row can be called too many."""
    collected, rows = request.config.stash[FAULTS], read_table()
    assert sorted(set(collected) - set(rows)) == [], "write it again: nox -s faults -- --write-table"
    if request.config.stash[WHOLE]:
        assert sorted(set(rows) - set(collected)) == [], "write it again: nox -s faults -- --write-table"


def test_there_are_at_least_sixty(request):
    assert len(read_table()) >= 60


def test_no_row_is_a_traceback_or_knows_a_machine():
    for row in read_table().values():
        assert row.said and row.after and row.code in ("", "0", "1", "2", "130")
        text = f"{row.said} {row.after}"
        assert not re.search(r"Traceback|/tmp/|/work/|/home/|pytest-of|[A-Z]:\\\\|[:=]\d{4,5}\b", text), row


def test_tests_that_the_table_names_exist():
    for name, test in ELSEWHERE:
        file, function = test.split("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, name


def test_what_is_written_comes_back(tmp_path, monkeypatch):
    rows = {row.name: row for row in (Row("a | b", "<x> *.y", "1", "z"), Row("c", "d", "", "e"))}
    monkeypatch.setattr("faults.table.TABLE", tmp_path / "faults.md")
    write_table(rows, {"a | b": "One", "c": "Two", "not run yet": "Two"})
    assert read_table() == rows
    assert TABLE.parent.name == "docs"
