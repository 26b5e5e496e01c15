"""What a configuration states, under each family's names; what is not usable is refused by name."""

from types import SimpleNamespace

import pytest

from helpers.errors import TutorialError
from helpers.load.config import CONTEXT_NAMES, check_config, context_length, eos_token_ids, long_rope_start


def model(eos=None, vocabulary=10, context=8, **config):
    config = {"vocab_size": vocabulary, "max_position_embeddings": context} | config
    return SimpleNamespace(config=SimpleNamespace(**config), generation_config=SimpleNamespace(eos_token_id=eos))


@pytest.mark.parametrize("name", CONTEXT_NAMES)
def test_the_context_length_has_many_names(name):
    assert context_length(SimpleNamespace(**{name: 77})) == 77


def test_a_model_without_positions_has_a_default_context():
    assert context_length(SimpleNamespace()) == 2048


@pytest.mark.parametrize("value", ["8", 8.0, float("nan"), True, 0, -1, 10**13, [8], {}, 10**300])
@pytest.mark.parametrize("name", ["context", "vocabulary", "eos"])
def test_a_value_of_another_type_or_size_is_refused_by_name(name, value):
    if (name, value) == ("eos", 0) and not isinstance(value, bool):
        value = -5  # id 0 exists
    if name == "eos" and value == [8]:
        value = [[8]]
    with pytest.raises(
        TutorialError, match={"context": "context length", "vocabulary": "vocab_size"}.get(name, "eos_token_id")
    ):
        check_config(model(**{name: value}))


def test_a_configuration_without_a_vocabulary_is_refused():
    with pytest.raises(TutorialError, match="vocab_size: None"):
        check_config(model(vocabulary=None))


@pytest.mark.parametrize(
    ("rope", "start"),
    [
        ({}, None),
        ({"rope_scaling": None, "original_max_position_embeddings": 9}, None),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "original_max_position_embeddings": 9}, None),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 9}, 9),
        ({"rope_scaling": {"rope_type": "longrope", "original_max_position_embeddings": 9}}, 9),
        ({"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 9}}, 9),
    ],
)
def test_the_start_of_longrope_has_two_places(rope, start):
    assert long_rope_start(SimpleNamespace(**rope)) == start


def test_an_eos_token_may_have_any_of_three_forms():
    assert [eos_token_ids(model(eos)) for eos in (None, 2, [2, 3])] == [set(), {2}, {2, 3}]
