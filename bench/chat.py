"""What a conversation costs: a later turn with its prefix reused, streaming to the chat box, memory of 200 turns.

    python bench/chat.py [--rounds 5] [--turns 200] [--json FILE]

Everything runs in a Jupyter kernel, as for a reader, with the settings' model, device and ov_config; what the kernel
sends to a browser is received and discarded.  Memory is measured in a kernel of its own.  A round runs each side once;
round 0 is a warm-up.  Figures are medians, the ratio is the median of the ratios within a round.

- reuse: time to first token of turn 5, with a history of more than 1,000 tokens, in a Conversation whose KV cache holds
  the earlier turns, against one with the same turns and an empty cache.  The prompts are the same.
- streaming: decode speed of an answer in a ChatBox that is displayed, against the bare loop of helpers.generate with
  the same sampling and alternatives, on the same prompt.  Both generate the same number of tokens; the words may differ
  after a near-tie, because the chat processes its prompt in two chunks.
- rich: the same, but the box shows an answer of the same length with tables, formulas, code and lists.
- memory: --turns turns in one chat box with a context of 1,024 tokens, whose history is truncated many times: how much
  the kernel's resident set has grown since turn 20, and whether the last answer still streams.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from statistics import median

from jupyter_client.manager import start_new_kernel

from helpers import settings

TARGETS = {
    "reuse": (0.15, "at most"),
    "streaming": (0.95, "at least"),
    "rich": (0.95, "at least"),
    "memory": (50, "below"),
}
SETUP = """
import gc, json, os, tempfile, time
import psutil
kept = tempfile.TemporaryDirectory()
os.environ["TUTORIAL_CONVERSATIONS"] = kept.name  # saving is part of the cost, but not into the reader's folder
from IPython.display import display
from helpers import settings
from helpers.chat.conversation import Conversation
from helpers.chat.messages import Message
from helpers.chat.box import ChatBox
from helpers.generate import PromptCache, generate
from helpers.load import load_model

model, tok, _ = load_model(settings.load())
STORY = "A river runs from the hills to the sea, past a mill, a bridge, a town and its harbour. "
QUESTION = "Explain to a child why the sky is blue and why the evening sky is red."
model.generation_config.eos_token_id = []  # every answer has its full length
RICH = r'''
## Why the sky is blue

Light of the wavelength $\\lambda$ is scattered with the intensity \\(I \\propto \\lambda^{-4}\\):

$$I = I_0 \\frac{1 + \\cos^2\\theta}{2 R^2} \\left(\\frac{2\\pi}{\\lambda}\\right)^4$$

| colour | wavelength | scattered |
|:-------|-----------:|----------:|
| blue   |     450 nm |   **4.4** |
| green  |     550 nm |       2.0 |
| red    |     650 nm |         1 |

- [x] the day: blue light comes from *everywhere*
- [ ] the evening: what is left is $650\\,\\mathrm{nm}$ and longer

```python
def scattered(wavelength: float, other: float = 650) -> float:
    return (other / wavelength) ** 4
```
''' * 4
"""
REUSE = """
chat = Conversation(model, tok, max_new_tokens=48)
for turn in range(4):
    list(chat.say(f"Part {turn + 1}. " + STORY * 12 + "What is it about?"))
cold = Conversation(model, tok, max_new_tokens=4)
cold.messages, chat.max_new_tokens = list(chat.messages), 4
for each in (chat, cold):
    list(each.say("And what did you say first?"))
warm, fresh = chat.messages[-1].stats, cold.messages[-1].stats
assert warm.prompt_tokens == fresh.prompt_tokens > 1000 and fresh.cached_tokens == 0
print(json.dumps([warm.ttft_ms, fresh.ttft_ms, warm.prompt_tokens, warm.cached_tokens]))
"""
STREAMING = """
chat = Conversation(model, tok, max_new_tokens=TOKENS)
box = ChatBox(chat)
display(box)
show = box.widget.show_draft
if rich:
    box.widget.show_draft = lambda number, text, thought: show(number, RICH[: len(text)], thought)
box.submit(QUESTION)
assert box.wait() and not box.error, box.error
answer = chat.messages[-1]
moments = []
prompt = Conversation(model, tok)
prompt.messages = [Message("user", QUESTION)]
ids = []
given = {"sampling": prompt.sampling, "alternatives": prompt.alternatives, "cache": PromptCache(model)}
for token in generate(model, prompt.prompt(), TOKENS, **given):
    ids.append(token.id)
    moments.append(time.perf_counter())
assert len(ids) == len(answer.tokens) == TOKENS
bare = (TOKENS - 1) / (moments[-1] - moments[0])
box.close()
print(json.dumps([1000 / answer.stats.tpot_ms, bare]))
"""
MEMORY = """
chat = Conversation(model, tok, "Be brief.", max_new_tokens=32, context_length=1024)
box = ChatBox(chat)
display(box)
pieces, write = 0, box.widget.show_draft
def count(*arguments):
    global pieces
    pieces += 1
    write(*arguments)
box.widget.show_draft = count
grown = []
for turn in range(TURNS):
    pieces = 0
    box.submit(f"Turn {turn}. Tell me something about the number {turn}.")
    assert box.wait() and not box.error, box.error
    gc.collect()
    grown.append(psutil.Process().memory_info().rss / 2**20)
stats = chat.messages[-1].stats
assert chat.truncated_messages > TURNS and stats.new_tokens == 32, chat.truncated_messages
print(json.dumps([grown[19], grown[-1], pieces, chat.truncated_messages, max(grown)]))
"""


class Kernel:
    """A new Jupyter kernel, as JupyterLab starts one."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(kernel_name="python3", cwd=str(settings.ROOT))

    def run(self, code: str) -> list[float] | None:
        """Run a cell and return the JSON that it prints last."""
        said, errors = [], []

        def hook(message):
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                said.append(content["text"])
            elif message["msg_type"] == "error":
                errors.append("\n".join(content["traceback"]))

        self.client.execute_interactive(textwrap.dedent(code), timeout=3600, output_hook=hook)
        if errors:
            raise SystemExit(errors[0])
        lines = "".join(said).split()
        return json.loads("".join(said).splitlines()[-1]) if lines else None

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--turns", type=int, default=200, help="turns for the memory, at least 21")
    parser.add_argument("--tokens", type=int, default=256, help="length of the streamed answer")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    set_up = SETUP + f"TOKENS, TURNS = {args.tokens}, {args.turns}\n"
    kernel = Kernel()
    try:
        kernel.run(set_up)
        reuse = [kernel.run(REUSE) for _ in range(args.rounds + 1)][1:]
        rounds = [
            [kernel.run(f"rich = {rich}\n" + STREAMING) for rich in (False, True)] for _ in range(args.rounds + 1)
        ]
        streaming, rich = zip(*rounds[1:], strict=True)
        kernel.end()
        kernel = Kernel()  # in the old one, memory left by the rounds may be freed or reused at any time
        kernel.run(set_up)
        first, last, pieces, truncated_messages, most = kernel.run(MEMORY)
    finally:
        kernel.end()
    figures = {
        "reuse": median(warm / cold for warm, cold, *_ in reuse),
        "streaming": median(box / bare for box, bare in streaming),
        "rich": median(box / bare for box, bare in rich),
        "memory": last - first,
    }
    warm, cold, prompt, reused = (median(column) for column in zip(*reuse, strict=True))
    print(f"turn 5, {prompt:,.0f} tokens of prompt, {reused:,.0f} of them cached:", end=" ")
    print(f"first token after {warm:.0f} ms, with an empty cache {cold:.0f} ms")
    for what, pairs in {"prose": streaming, "tables, formulas, code": rich}.items():
        box, bare = (median(column) for column in zip(*pairs, strict=True))
        print(f"{args.tokens} tokens, {what}: {box:.1f} tokens/s in the chat box, {bare:.1f} in the bare loop")
    print(
        f"{args.turns} turns, {truncated_messages} messages truncated, the last answer came in {pieces} pieces:",
        end=" ",
    )
    print(f"{first:,.0f} MiB after turn 20, {last:,.0f} at the end, {most:,.0f} at most")
    units = {"memory": " MiB"}
    for name, (target, word) in TARGETS.items():
        print(f"{name:10} {figures[name]:.3f}{units.get(name, '')}   target {word} {target}{units.get(name, '')}")
    if args.json:
        args.json.write_text(
            json.dumps(figures | {"rounds": {"reuse": reuse, "streaming": streaming, "rich": rich}}, indent=1)
        )


if __name__ == "__main__":
    sys.exit(main())
