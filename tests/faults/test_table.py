"""docs/faults.md lists exactly the faults of this suite."""

import ast
import re

import pytest

from faults.conftest import ALL_FILES, FAULTS, WEEKLY
from faults.table import ELSEWHERE, TABLE, Row, read_table, write_table
from helpers.settings import ROOT


def test_the_table_lists_exactly_the_faults_of_the_suite(request):
    """A row too many shows only if all files of the suite were collected."""
    collected, rows = request.config.stash[FAULTS], read_table()
    missing = set(collected) - set(rows) - request.config.stash[WEEKLY]
    assert sorted(missing) == [], "write it again: nox -s faults -- --write-table"
    if request.config.stash[ALL_FILES]:
        assert sorted(set(rows) - set(collected)) == [], "write it again: nox -s faults -- --write-table"


@pytest.mark.weekly
def test_the_table_lists_the_weekly_faults(request):
    assert sorted(request.config.stash[WEEKLY] - set(read_table())) == [], "nox -s faults -- --write-table"


def test_no_row_has_a_traceback_or_a_detail_of_one_machine():
    rows = read_table().values()
    assert {row.code for row in rows} <= {"", "0", "1", "2", "130"}
    wrong = re.compile(r"Traceback|/tmp/|/work/|/home/|pytest-of|[A-Z]:\\\\|[:=]\d{4,5}\b")
    assert [row for row in rows if not row.message or not row.after or wrong.search(row.message + row.after)] == []


def test_the_tests_named_in_the_table_exist():
    missing = []
    for _, test in ELSEWHERE:
        file, function = test.split("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        missing += [test] * (function not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)})
    assert missing == []


def test_what_is_written_comes_back(tmp_path, monkeypatch):
    rows = {row.name: row for row in (Row("a | b", "<x> *.y", "1", "z"), Row("c", "d", "", "e"))}
    monkeypatch.setattr("faults.table.TABLE", tmp_path / "faults.md")
    write_table(rows, {"a | b": "One", "c": "Two", "not run yet": "Two"})
    assert read_table() == rows
    assert TABLE.parent.name == "docs"
