"""TutorialError as a reader sees it, and the checks of arguments that raise it."""

import numpy as np
import pytest

from helpers.errors import TutorialError, check_int, check_token_ids


def test_an_error_is_its_message_and_its_hint():
    assert str(TutorialError("What happened.", "What to do.")) == "What happened.\nWhat to do."
    assert str(TutorialError("What happened.")) == "What happened."


def test_a_notebook_shows_the_message_instead_of_a_traceback(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("from helpers.errors import TutorialError; raise TutorialError('What happened.', 'What to do.')")
    assert capsys.readouterr().out.strip() == "TutorialError: What happened.\nWhat to do."


@pytest.mark.parametrize("number", [0, 1, 2, True, np.int64(7), 10**30])
@pytest.mark.parametrize("least", [0, 1, 2])
def test_check_int_returns_integers_from_the_least_on(number, least):
    if number >= least:
        found = check_int(number, "seed", least)
        assert found == number and isinstance(found, int)
    else:
        with pytest.raises(TutorialError, match=f"seed cannot be {number}(?s:.*){least} or more"):
            check_int(number, "seed", least)


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", None, [1]])
def test_check_int_refuses_anything_else(value):
    with pytest.raises(TutorialError, match="seed cannot be"):
        check_int(value, "seed")


@pytest.mark.parametrize("ids", [[], [0], (3, 2), np.array([5, 0]), range(3)])
def test_check_token_ids_returns_a_list_of_ints(ids):
    for given in (ids, iter(ids)):
        found = check_token_ids(given)
        assert found == list(ids) and all(type(each) is int for each in found)


@pytest.mark.parametrize("ids", [[-1], [3, -1], [1.0], ["1"], "12", [[1]], None, 7])
def test_check_token_ids_refuses_anything_else(ids):
    with pytest.raises(TutorialError, match="not ids of tokens"):
        check_token_ids(ids)
