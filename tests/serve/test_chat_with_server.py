"""helpers.chat.remote against our own server: its figures, its refusals, and slots that are freed."""

from __future__ import annotations

import threading
import time

import pytest
from fakes import LONG, WORDS
from openai_servers import KEY, served_conversation

from helpers.chat.messages import stats_line
from helpers.chat.remote import RemoteConversation
from helpers.errors import TutorialError


@pytest.fixture(scope="module")
def conversation():
    return served_conversation(rate=1e4, max_new_tokens=400)


@pytest.fixture(autouse=True)
def empty(conversation):
    conversation.clear()
    yield
    conversation.pipeline.go.release(10**4)


def until(condition) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("this did not come true")


def test_an_answer_has_the_servers_figures_and_the_probability_of_each_token(conversation):
    answer = conversation.say(WORDS)
    assert "".join(answer) == WORDS and answer.finish_reason == "eos_token"
    assert "".join(conversation.regenerate()) == WORDS, "the context length is known from now on"
    line = stats_line(conversation.messages[-1].stats)
    assert "cached" not in line and line.endswith("of 8,192")
    tokens = conversation.messages[-1].tokens
    assert conversation.tok.decode([token.id for token in tokens]) == WORDS
    assert {round(token.probability, 3) for token in tokens} == {0.607} and conversation.alternatives == 0
    assert conversation.versions(1) == (2, 2)


def test_a_stopped_answer_is_continued(conversation):
    answer = conversation.say(WORDS)
    for _ in answer:
        answer.stop()
    begun = conversation.messages[-1].content
    assert answer.finish_reason == "stopped" and WORDS.startswith(begun) and begun != WORDS
    assert "".join(conversation.resume()) == WORDS
    assert [message.content for message in conversation.messages] == [WORDS, WORDS]


def test_stop_frees_the_slot_on_the_server(conversation):
    conversation.pipeline.hold()
    answer = conversation.say(LONG)
    thread = threading.Thread(target=lambda: list(answer))
    thread.start()
    until(lambda: conversation.pipeline.handles)
    answer.stop()
    thread.join(20)
    until(lambda: not conversation.pipeline.handles)
    assert answer.finish_reason == "stopped" and not conversation.answering


def test_its_refusals_are_sentences(conversation):
    url = str(conversation._server.client.base_url)
    with pytest.raises(TutorialError, match=r"refuses the API key \(401\)"):
        list(RemoteConversation(url, "fake", KEY[::-1]).say("Hello"))
    with pytest.raises(TutorialError, match=r"has no model 'other' \(404\).*\nIts models: fake\."):
        list(RemoteConversation(url, "other", KEY).say("Hello"))
    with pytest.raises(TutorialError, match="context has 8,192 tokens"):
        list(conversation.say("word " * 9000))
    assert conversation.messages == []


def test_a_full_queue_says_when_to_come_back(conversation):
    conversation.pipeline.hold()
    url, refused = str(conversation._server.client.base_url), []

    def ask():
        try:
            list(RemoteConversation(url, "fake", KEY).say("Hello"))
        except TutorialError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(70)]  # Limits has 64
    for thread in threads:
        thread.start()
    until(lambda: len(refused) >= 6)
    conversation.pipeline.go.release(10**4)
    for thread in threads:
        thread.join(20)
    assert len(refused) == 6
    assert all("The server is busy (429)" in each and "Send the message again in" in each for each in refused)
