"""expect() requires the very failure; exercise() reports and never stops a notebook."""

import pytest

from helpers.lesson import exercise, expect


def test_expect_requires_the_failure_and_prints_its_message(capsys):
    with expect(ValueError, "wide"):
        raise ValueError("too wide")
    assert capsys.readouterr().out == "ValueError: too wide\n"
    with pytest.raises(AssertionError, match="should have failed"), expect(ValueError, "wide"):
        pass
    with pytest.raises(AssertionError, match="too narrow"), expect(ValueError, "wide"):
        raise ValueError("too narrow")
    with pytest.raises(KeyError), expect(ValueError, "wide"):
        raise KeyError("wide")


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ('Cannot load "/home/me/lib/python/../libs/gpu.so": no', 'Cannot load "…/gpu.so": no'),
        ("C:\\Users\\me\\model does not exist", "…/model does not exist"),
        ("look at https://hf.co//tmp/tmpx1/stranger.", "look at https://hf.co…/stranger."),
        ("look at https://hf.co/microsoft/phi", "look at https://hf.co/microsoft/phi"),
        ("./model/phi3/int4, src/core/core.cpp:117 and 3/4", "./model/phi3/int4, src/core/core.cpp:117 and 3/4"),
    ],
)
def test_expect_prints_no_folder_of_this_machine(capsys, message, printed):
    with expect(ValueError, "o"):
        raise ValueError(message)
    assert capsys.readouterr().out == f"ValueError: {printed}\n"


def test_exercise_reports_the_result_and_the_reason(capsys):
    with exercise("1 Predict"):
        assert True
    with exercise("2 Change"):
        raise AssertionError("the ids differ")
    with exercise("3 Build"):
        raise KeyError
    told = capsys.readouterr().out.splitlines()
    assert told == ["1 Predict: solved.", "2 Change: not yet: the ids differ", "3 Build: not yet: KeyError"]
