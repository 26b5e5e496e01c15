"""A Conversation whose turns are real and whose answers are known by heart: no model has to be loaded."""

import threading

from helpers.chat.conversation import Conversation
from helpers.chat.messages import GenerationStats, Message
from helpers.generate import GeneratedToken
from helpers.generate.sampling import GREEDY

WORDS = ["One ", "two ", "**three**", " four ", "five."]


class FakeConversation(Conversation):
    """Each word waits for `go`; an exception among them is raised, and a function is called."""

    def __init__(self, **settings):
        self.tok = self.model = None
        self.system, self.sampling, self.max_new_tokens, self.context_length = "", GREEDY, 8, 100
        self.messages, self.truncated_messages, self.prefill_progress, self.answering = [], 0, (0, 0), False
        self.words, self.go, self._stop = list(WORDS), threading.Semaphore(10_000), threading.Event()
        self.finish_reason, self.forget = "end token", 0
        self.__dict__.update(settings)

    def _answer(self, turns, given=()):
        self._require_idle()
        self._stop = threading.Event()
        return self._write(turns, ["kept "] * len(given), self._stop)

    def _write(self, turns, said, stop):
        self.messages, self.answering, end = turns, True, "error"
        self.truncated_messages += self.forget
        words = [*said, *self.words]
        said = []
        try:
            for word in words:
                if stop.is_set() or not self.go.acquire(timeout=20):
                    end = "stopped"
                    break
                if isinstance(word, Exception):
                    raise word
                if callable(word):
                    word()
                    continue
                said.append(word)
                yield word
            else:
                end = self.finish_reason
        finally:
            steps = [GeneratedToken(n, 0.5, ((n, 0.5), (99, 0.25)), 1.0) for n in map(said.index, said)]
            figures = GenerationStats(20, 15, len(said), 300.0, 20.0, self.context_length, end)
            self.messages = [*turns, Message("assistant", "".join(said), tuple(steps), figures)]
            self.answering = False
