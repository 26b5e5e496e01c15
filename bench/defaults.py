"""Which weights and which sampling the tutorial should use by default: `nox -s defaults`.

    python bench/defaults.py [--minutes 8] [--scratch FOLDER] [--report]

Measures SmolLM2-135M-Instruct piece by piece and stores each result in bench/defaults.json, so that an interrupted run
resumes where it stopped.  After --minutes no new piece is started.  docs/defaults.md is written when all are done;
--report writes it without measuring.  To measure everything again, delete bench/defaults.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from string import Template

import numpy as np
from rehearsal import cpu_name, rounded

from helpers import catalog, export, settings
from helpers.chat.degenerate import describe_degeneration
from helpers.files import atomic_write_text
from helpers.generate.sampling import CHAT, GREEDY, Sampling
from helpers.metrics import quality, timing

RESULTS, PAGE = settings.ROOT / "bench" / "defaults.json", settings.ROOT / "docs" / "defaults.md"
SCRATCH = Path(tempfile.gettempdir()) / "defaults"
MODEL = catalog.SMOLLM2
REFERENCE = "fp16"
CHUNK = 64  # tokens: neighbours depend on each other, so the bootstrap draws chunks of this length, not tokens
DRAWS = 2_000
ROUNDS, TOKENS = 9, 64  # when measuring speed
BASE, CHOSEN = "int4 0.3", "int4 0.3 awq"  # the weights that the tutorial used before, and those it uses now
HEAD = 200  # characters of an answer within which the fact must occur
MODES, SURFACES = ("conversation", "apart"), ("box", "terminal", "ask")
SHOWN = 300  # characters of an answer that the document shows
QUESTIONS = settings.ROOT / "bench" / "questions.txt"  # not in helpers/metrics, whose texts train phi3_tokenizer
MARKS = {"r": "right", "w": "without the fact", "o": "not checked", "l": "loop", "e": "empty"}


def beginner_questions() -> list[tuple[str, tuple[str, ...]]]:
    """Return 24 short questions, each with the accepted words; none for a question that cannot be checked."""
    lines = QUESTIONS.read_text(encoding="utf-8").strip().split("\n\n")[1].splitlines()
    pairs = [line.partition("|")[::2] for line in lines]
    return [(question.strip(), tuple(re.findall(r"\w+", words))) for question, words in pairs]


CHECKED = sum(bool(words) for _, words in beginner_questions())


def int4(ratio: str, *more: str) -> tuple[str, ...]:
    return ("--weight-format", "int4", "--group-size", "64", "--ratio", ratio, "--sym", *more)


RATIOS = ("0.3", "0.6", "1.0")
WEIGHTS = {f"int4 {ratio}": int4(ratio) for ratio in RATIOS}
WEIGHTS |= {f"int4 {ratio} awq": int4(ratio, "--awq") for ratio in RATIOS}
WEIGHTS |= {name: catalog.PLAIN_FORMATS[name] for name in ("int8", REFERENCE)}

PENALTIES, SEEDS = (1.0, 1.05, 1.1, 1.2), (1, 2, 3)
GREEDY_GRID = [replace(GREEDY, repetition_penalty=penalty) for penalty in PENALTIES]
SAMPLED_GRID = [
    Sampling(temperature, top_p=0.9, repetition_penalty=penalty) for temperature in (0.3, 0.7) for penalty in (1.0, 1.1)
]


# ---------------------------------------------------------------------------------------------------- what is measured
def choice(scratch: Path, weights: str) -> settings.Settings:
    """Return settings with which load_fast finds the export `weights` in the scratch folder."""
    return replace(settings.Settings(), model_root=str(scratch), format=weights.replace(" ", "-"))


def make_export(scratch: Path, weights: str) -> dict:
    """Export the checkpoint; return seconds, and bytes of all weights and of those that a decode step reads."""
    argv = export.command(settings.Settings(), WEIGHTS[weights])
    folder = choice(scratch, weights).model_dir
    folder.parent.mkdir(parents=True, exist_ok=True)
    export.run([*argv[:-1], str(folder)])
    manifest = json.loads((folder / "tutorial_manifest.json").read_text(encoding="utf-8"))
    return {
        "flags": list(WEIGHTS[weights]),
        "seconds": manifest["seconds"],
        "bytes": (folder / "openvino_model.bin").stat().st_size,
        "bytes_per_token": timing.weight_bytes_per_token(folder),
    }


def texts(tok) -> list[tuple[list[int], int]]:
    """Return all shipped texts as (ids, number of the first position that counts).

    They are the evaluation text, and each calibration chat in the chat template.  Of a chat, only the answer with its
    EOS token counts, because the model generates nothing else.
    """
    from helpers.tokenize import prompt_ids

    found = [(tok(quality.evaluation_text())["input_ids"], 0)]
    for question, answer in quality.calibration_chats():
        prompt = prompt_ids(tok, [{"role": "user", "content": question}])
        found.append(
            ([*prompt, *tok(answer, add_special_tokens=False)["input_ids"], tok.eos_token_id], len(prompt) - 1)
        )
    return found


def measure_distance(scratch: Path, weights: str) -> dict:
    """Return sums per chunk at reference settings: tokens, negative log-likelihood, KL, same top-1."""
    from optimum.intel.openvino import OVModelForCausalLM

    from helpers.checkpoint.tokenizer import load_tokenizer

    folder = choice(scratch, weights).model_dir
    model = OVModelForCausalLM.from_pretrained(folder, export=False, ov_config=quality.REFERENCE, device="CPU")
    chunks = []
    for number, (ids, first) in enumerate(texts(load_tokenizer(folder))):
        file = scratch / f"reference-{number}.npy"
        log_p = quality.log_probabilities(model, ids)
        if weights == REFERENCE:
            np.save(file, log_p)
        expected = np.load(file, mmap_mode="r")
        for start in range(first, len(log_p), CHUNK):
            p, q = np.array(expected[start : start + CHUNK]), log_p[start : start + CHUNK]
            nll = -q[np.arange(len(q)), ids[start + 1 : start + 1 + len(q)]].sum(dtype=np.float64)
            divergence = len(q) * quality.kl(p, q)
            chunks.append([len(q), float(nll), divergence, int((p.argmax(1) == q.argmax(1)).sum())])
    return {"chunks": chunks}


def measure_speed(scratch: Path) -> dict:
    """Return tokens per second of each round: all weights loaded, one generating at a time, in turns."""
    from helpers.generate import generate
    from helpers.load import load_fast

    sides = {}
    for weights in WEIGHTS:
        model, tok, _ = load_fast(choice(scratch, weights))
        ids = tok("The history of the harbour begins with")["input_ids"]

        def play(model=model, ids=ids) -> float:
            # EOS is ignored, so that each side generates the same number of tokens.
            moments = [time.perf_counter() for _ in generate(model, ids, TOKENS, stop_ids=())]
            assert len(moments) == TOKENS
            return (TOKENS - 1) / (moments[-1] - moments[0])

        sides[weights] = play
    return {"tokens_per_second": timing.interleaved(sides, ROUNDS, warm_up=2)}


def judge(question: tuple[str, tuple[str, ...]], text: str, looped: bool) -> str:
    """Return e: empty, l: loop, r: right, w: without the fact, o: open, because there is no single right answer."""
    _, words = question
    if not text.strip():
        return "e"
    if looped:
        return "l"
    if not words:
        return "o"
    return "r" if re.search(rf"\b({'|'.join(words)})\b", text[:HEAD], re.IGNORECASE) else "w"


def judge_all(scratch: Path, key: str, answers: list[tuple[str, bool, bool]]) -> dict:
    """Return `verdicts`, letters of judge(), and `limits`, an m for each answer cut off; keep the texts in scratch."""
    questions = beginner_questions()
    assert len(answers) == len(questions)
    file = scratch / "answers" / (re.sub(r"[^\w.]+", "-", key) + ".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    pairs = [[question, text] for (question, _), (text, _, _) in zip(questions, answers, strict=True)]
    file.write_text(json.dumps(pairs, indent=1), encoding="utf-8")
    verdicts = [judge(one, text, looped) for one, (text, looped, _) in zip(questions, answers, strict=True)]
    found = {"verdicts": "".join(verdicts), "limits": "".join(".m"[cut_off] for _, _, cut_off in answers)}
    return found | ({"texts": [text for text, _, _ in answers]} if key.startswith("defaults") else {})


def judged(message) -> tuple[str, bool, bool]:
    """Return text, looped, and cut off, of a message."""
    ids = [token.id for token in message.tokens]
    looped = bool(describe_degeneration(message.content, ids))
    return message.content, looped, message.stats.finish_reason == "max_new_tokens"


def ask_all(scratch: Path, weights: str, sampling: Sampling, mode: str) -> dict:
    """Ask the 24 questions as the chat does, in one "conversation" or "apart"; return a verdict for each."""
    from helpers.chat.conversation import Conversation
    from helpers.load import load_fast

    model, tok, _ = load_fast(choice(scratch, weights))
    chat = Conversation(model, tok, sampling=sampling, max_new_tokens=MODEL.max_new_tokens, alternatives=0)
    answers = []
    for question, _ in beginner_questions():
        if mode == "apart":
            chat.clear()
        for _ in chat.say(question):
            pass
        answers.append(judged(chat.messages[-1]))
    return judge_all(scratch, answers_key(weights, sampling, mode), answers)


def described(sampling: Sampling) -> str:
    parts = [f"temperature {sampling.temperature:g}", f"penalty {sampling.repetition_penalty:g}"]
    if sampling.temperature:
        parts += [f"top_p {sampling.top_p:g}", f"seed {sampling.seed}"]
    return ", ".join(parts)


def answers_key(weights: str, sampling: Sampling, mode: str) -> str:
    return f"answers | {weights} | {described(sampling)} | {mode}"


def defaults_key(surface: str) -> str:
    return f"defaults | {surface} | {CHOSEN} | {described(CHAT)}"


def default_root(scratch: Path) -> Path:
    """Return a model root in which the chosen weights are the int4 export."""
    target = replace(settings.Settings(), model_root=str(scratch / "default")).model_dir
    if not target.exists():
        shutil.copytree(choice(scratch, CHOSEN).model_dir, target)
    return scratch / "default"


def ask_in_box(scratch: Path) -> dict:
    """Ask the 24 questions in the chat box with its defaults, in one conversation."""
    from helpers.chat.box import ChatBox
    from helpers.chat.conversation import Conversation
    from helpers.load import load_model

    model, tok, _ = load_model(replace(settings.Settings(), model_root=str(default_root(scratch))))
    box = ChatBox(Conversation(model, tok, max_new_tokens=MODEL.max_new_tokens), keep=False)
    for question, _ in beginner_questions():
        box.submit(question)
        assert box.wait() and not box.error, box.error
    return judge_all(scratch, defaults_key("box"), [judged(message) for message in box.conversation.messages[1::2]])


def run_helpers(scratch: Path, *argv: str, typed: str = "") -> subprocess.CompletedProcess:
    environment = os.environ | {"TUTORIAL_MODEL_ROOT": str(default_root(scratch)), "PYTHONUTF8": "1"}
    environment |= {"TUTORIAL_MODEL": MODEL.name, "TUTORIAL_DEVICE": "CPU"}
    options = {"cwd": settings.ROOT, "env": environment, "encoding": "utf-8", "capture_output": True, "check": True}
    return subprocess.run([sys.executable, "-m", "helpers", *argv], input=typed, **options)


def ask_in_terminal(scratch: Path) -> dict:
    """Ask the 24 questions in `python -m helpers chat` with its defaults, in one conversation."""
    file = scratch / "terminal.json"
    lines = [*(question for question, _ in beginner_questions()), f"/save {file}", "/bye"]
    run_helpers(scratch, "chat", typed="\n".join(lines) + "\n")
    from helpers.chat.messages import load_conversation
    from helpers.checkpoint.tokenizer import load_tokenizer

    messages = load_conversation(file, load_tokenizer(choice(scratch, CHOSEN).model_dir))[2]
    return judge_all(scratch, defaults_key("terminal"), [judged(message) for message in messages[1::2]])


def ask_apart(scratch: Path) -> dict:
    """Ask each of the 24 questions with `python -m helpers ask` and its defaults."""
    answers = []
    for question, _ in beginner_questions():
        done = run_helpers(scratch, "ask", question)
        answers.append((done.stdout, "repeats itself" in done.stderr, "max_new_tokens" in done.stderr))
    return judge_all(scratch, defaults_key("ask"), answers)


def pieces(scratch: Path) -> dict[str, Callable[[], dict]]:
    """Return all measurements by name, in the order in which they run."""
    todo: dict[str, Callable[[], dict]] = {}
    for weights in WEIGHTS:
        todo[f"export | {weights}"] = lambda weights=weights: make_export(scratch, weights)
    for weights in (REFERENCE, *(name for name in WEIGHTS if name != REFERENCE)):
        todo[f"distance | {weights}"] = lambda weights=weights: measure_distance(scratch, weights)
    todo["speed"] = lambda: measure_speed(scratch)
    for name, ask in zip(SURFACES, (ask_in_box, ask_in_terminal, ask_apart), strict=True):
        todo[defaults_key(name)] = lambda ask=ask: ask(scratch)
    rows = sorted([*greedy_rows(), *sampled_rows()], key=lambda row: row[0] != CHOSEN)  # the chosen weights first
    for weights, sampling in rows:
        for mode in MODES:
            for seeded in with_seeds(sampling, mode):
                key = answers_key(weights, seeded, mode)
                todo[key] = lambda w=weights, s=seeded, m=mode: ask_all(scratch, w, s, m)
    return todo


def greedy_rows() -> list[tuple[str, Sampling]]:
    """Return the chosen weights with each penalty, the others without, and int8 also with the default sampling."""
    others = [(weights, GREEDY) for weights in WEIGHTS if weights != CHOSEN]
    return [*((CHOSEN, sampling) for sampling in GREEDY_GRID), ("int8", CHAT), *others]


def sampled_rows() -> list[tuple[str, Sampling]]:
    return [(CHOSEN, sampling) for sampling in SAMPLED_GRID]


def with_seeds(sampling: Sampling, mode: str) -> list[Sampling]:
    """Return the runs of a row: one if it is greedy; if it samples, three in one conversation and one apart."""
    if not sampling.temperature:
        return [sampling]
    return [replace(sampling, seed=seed) for seed in (SEEDS if mode == MODES[0] else SEEDS[:1])]


# ---------------------------------------------------------------------------------------------------------- the report
PAGE_TEXT = """\
# Default weights and sampling

This page explains how we chose two defaults for the embedded model, SmolLM2-135M-Instruct: its export flags
(`SMOLLM2_INT4` in `helpers/catalog.py`) and the sampling of the chat (`CHAT` in `helpers/generate/sampling.py`).
`nox -s defaults` takes the measurements and writes this page. These figures were measured on $machine, with $versions;
the measurement took $minutes minutes.

## Decision

- **Weights: `$flags`.** Compared with the earlier default, $base, data-free AWQ multiplies the
  KL divergence from fp16 by $kl_ratio, and the file has the same size. Brackets contain 95 % intervals.
- **Sampling: greedy decoding with a repetition penalty of $penalty**, in the chat box, in `python -m helpers chat` and
  in `python -m helpers ask`. The answers are repeatable. Checks and comparisons of token ids use plain greedy decoding.

int8 is much closer to fp16: its KL divergence is $kl_int8, against $kl for $chosen, and its most likely token equals
fp16's at $top1_int8 of the positions, against $top1. Its file is $more larger ($mb_int8 instead of $mb), and it
decodes $speed_int8 times as fast. If you want the best answers from this model, export int8:
`python -m helpers export --format int8`. The default remains int4 because the tutorial teaches int4, and because models
of a useful size need it: they decode faster and fit into memory.

## Weights

$weights

- **MB** is the size of `openvino_model.bin`, in millions of bytes. A decode step reads all of it.
- **Perplexity**, **KL divergence** and **top-1 agreement** cover $tokens tokens of all texts in `helpers/metrics`: the
  evaluation text, and the answers of the calibration chats in the chat template. No recipe here uses calibration data.
  The model runs at reference settings (f32 computation and KV cache, dynamic quantization off). The intervals come from
  a paired bootstrap over $chunks chunks of at most $chunk tokens.
- **Speed** is the decode speed at the default settings, $decoded tokens after a short prompt. The formats take turns
  for $rounds rounds; a ratio is the median of the ratios within the rounds, with a bootstrap interval over the rounds.
- **Export** is the time of one run of `optimum-cli` for each format, on a machine that also did other work.

## Answers

`bench/questions.txt` has 24 short beginner questions. They are asked *together*, in one conversation in the
order of the file, and *apart*, each in a new conversation, at the default settings of the CPU.

- **Loops**: answers that `helpers/chat/degenerate.py` reports as repeating themselves.
- **Right**: $checked of the questions have a list of accepted words, which we wrote before we looked at any answer. An
  answer is right if one of these words occurs within its first $head characters. The check is lenient: "eight pairs of
  legs" counts as right for a spider. It is also strict: grapes, lemons and papayas are three fruits, but none of them
  is on the list. A loop does not count as right.
- **Empty**: answers without text.
- **Cut off**: answers that reached `max_new_tokens` ($limit). Most loops are among them.

One run has 24 answers, so a difference of one or two answers between two rows means nothing.

### Greedy decoding

$greedy

### Sampling

With top-p 0.9. *Together* was run with three seeds, whose numbers are separated by commas, and *apart* with one.

$sampled

## The defaults in the chat box, the terminal and `ask`

The box and the terminal answer the questions in one conversation, while `ask` answers each of them in a new process.

$defaults

$answers

## Run it again

```
pipx run nox -s defaults
```

A run resumes where an earlier one stopped. To measure everything again, delete `bench/defaults.json` first. The exports
are kept in `defaults`, a folder in the system's temporary folder, and take 1.5 GB. Options follow `--`:
`nox -s defaults -- --minutes 8` starts no new measurement after eight minutes, and `-- --report` only writes this page.
"""


def drawn(results: dict, weights: str) -> np.ndarray:
    """Return the sums of all chunks, then of DRAWS bootstrap samples, the same for all weights: [1 + DRAWS, 4]."""
    chunks = np.array(results[f"distance | {weights}"]["chunks"])
    picks = np.random.default_rng(0).integers(len(chunks), size=(DRAWS, len(chunks)))
    return np.concatenate([chunks.sum(0)[None], chunks[picks].sum(1)])


def with_interval(values: np.ndarray, form: str) -> str:
    """Return the first of `values` and the 95 % interval of the others."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:{form}} [{low:{form}}, {high:{form}}]"


def speed_ratio(results: dict, weights: str, base: str) -> np.ndarray:
    """Return the median of the ratios within the rounds, then of DRAWS bootstrap samples of the rounds."""
    rounds = results["speed"]["tokens_per_second"]
    ratios = np.array(rounds[weights]) / np.array(rounds[base])
    picks = np.random.default_rng(0).integers(len(ratios), size=(DRAWS, len(ratios)))
    return np.concatenate([[np.median(ratios)], np.median(ratios[picks], axis=1)])


def table(head: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def weights_table(results: dict) -> str:
    reference, base, rows = drawn(results, REFERENCE), drawn(results, BASE), []
    for weights in WEIGHTS:
        sums, made = drawn(results, weights), results[f"export | {weights}"]
        tokens = sums[:, 0]
        same = weights == REFERENCE
        rows.append(
            [
                f"**{weights}**" if weights == CHOSEN else weights,
                f"{made['bytes'] / 1e6:.0f}",
                "1" if same else with_interval(np.exp((sums - reference)[:, 1] / tokens), ".3f"),
                "0" if same else with_interval(sums[:, 2] / tokens, ".4f"),
                "1" if weights == BASE else "0" if same else with_interval(sums[:, 2] / base[:, 2], ".2f"),
                "100" if same else with_interval(100 * sums[:, 3] / tokens, ".1f"),
                "1" if weights == BASE else with_interval(speed_ratio(results, weights, BASE), ".2f"),
                f"{made['seconds']:.0f}",
            ]
        )
    head = ["weights", "MB", "perplexity ÷ fp16", "KL to fp16, nats", f"KL ÷ {BASE}", "same top-1, %"]
    return table([*head, f"speed ÷ {BASE}", "export, s"], rows)


def counts(results: dict, keys: list[str]) -> list[str] | None:
    """Return loops, right facts, empty and cut-off answers of some runs, per run; None unless all were measured."""
    if any(key not in results for key in keys):
        return None
    runs = [results[key] for key in keys]
    found = [[run["verdicts"].count(mark) for run in runs] for mark in "lre"]
    found.append([run["limits"].count("m") for run in runs])
    return [", ".join(map(str, each)) for each in found]


def answers_table(results: dict, configurations: Iterable[tuple[str, Sampling]]) -> str:
    rows = []
    for weights, sampling in configurations:
        row = [weights, f"{sampling.temperature:g}", f"{sampling.repetition_penalty:g}"]
        for mode in MODES:
            keys = [answers_key(weights, seeded, mode) for seeded in with_seeds(sampling, mode)]
            row += counts(results, keys) or [""] * 4
        if any(row[3:]):
            default = (weights, sampling) == (CHOSEN, CHAT)
            rows.append([f"**{cell}**" if default and cell else cell for cell in row])
    figures = ("loops", f"right of {CHECKED}", "empty", "cut off")
    head = [f"{figure}, {mode}" for mode in ("together", "apart") for figure in figures]
    return table(["weights", "temperature", "penalty", *head], rows)


def defaults_table(results: dict) -> str:
    rows = [[name, *(counts(results, [defaults_key(name)]) or ["not measured"] * 4)] for name in SURFACES]
    return table(["defaults in", "loops", f"right of {CHECKED}", "empty", "cut off"], rows)


def answers_list(results: dict, name: str) -> str:
    """Return all answers of the defaults, each on one line, in a folded block of code."""
    run, lines = results[defaults_key(name)], []
    for (question, _), text, verdict in zip(beginner_questions(), run["texts"], run["verdicts"], strict=True):
        answer = " ".join(text.split())
        shown = answer if len(answer) <= SHOWN else f"{answer[:SHOWN]} …"
        lines += [f"{question} ({MARKS[verdict]})", f"    {shown}"]
    summary = f"<summary>The 24 answers from {name}, the first {SHOWN} characters of each</summary>"
    return "\n".join(["<details>", summary, "", "```text", *lines, "```", "", "</details>"])


def document(results: dict) -> str:
    about, made = results["about"], {name: results[f"export | {name}"] for name in WEIGHTS}
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    base, chosen, int8 = (drawn(results, name) for name in (BASE, CHOSEN, "int8"))
    values = {
        "machine": f"{about['cpu']}, {about['cores']} cores",
        "versions": versions,
        "minutes": f"{results['minutes']:.0f}",
        "flags": " ".join(WEIGHTS[CHOSEN]),
        "chosen": CHOSEN,
        "base": BASE,
        "penalty": f"{CHAT.repetition_penalty:g}",
        "kl_ratio": with_interval(chosen[:, 2] / base[:, 2], ".2f"),
        "kl": with_interval(chosen[:, 2] / chosen[:, 0], ".3f"),
        "kl_int8": with_interval(int8[:, 2] / int8[:, 0], ".4f"),
        "top1": f"{100 * chosen[0, 3] / chosen[0, 0]:.0f} %",
        "top1_int8": f"{100 * int8[0, 3] / int8[0, 0]:.0f} %",
        "mb": f"{made[CHOSEN]['bytes'] / 1e6:.0f} MB",
        "mb_int8": f"{made['int8']['bytes'] / 1e6:.0f} MB",
        "more": f"{100 * (made['int8']['bytes'] / made[CHOSEN]['bytes'] - 1):.0f} %",
        "speed_int8": with_interval(speed_ratio(results, "int8", CHOSEN), ".2f"),
        "tokens": f"{int(base[0, 0]):,}",
        "chunks": len(results[f"distance | {REFERENCE}"]["chunks"]),
        "chunk": CHUNK,
        "rounds": ROUNDS,
        "decoded": TOKENS,
        "head": HEAD,
        "checked": CHECKED,
        "limit": MODEL.max_new_tokens,
        "weights": weights_table(results),
        "greedy": answers_table(results, greedy_rows()),
        "sampled": answers_table(results, sampled_rows()),
        "defaults": defaults_table(results),
        "answers": "\n\n".join(answers_list(results, name) for name in ("box", "ask")),
    }
    return Template(PAGE_TEXT).substitute(values)


# ---------------------------------------------------------------------------------------------------------- the program
def about() -> dict:
    """Return the machine and the versions for which the results hold."""
    libraries = ("openvino", "nncf", "optimum-intel", "transformers")
    versions = {each: metadata.version(each) for each in libraries}
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new piece after this many minutes")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="folder for the exports, 1.5 GB; it is kept")
    parser.add_argument("--report", action="store_true", help="only write docs/defaults.md, from complete results")
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"about": about()}
    todo = {} if given.report else pieces(given.scratch)
    if todo:  # drop the pieces of an earlier version
        results = {name: value for name, value in results.items() if name in {"about", "minutes", *todo}}
    missing = [name for name in todo if name not in results]
    start = time.perf_counter()
    for number, name in enumerate(missing, 1):
        if time.perf_counter() - start > 60 * given.minutes:
            print(f"{len(missing) - number + 1} of {len(todo)} pieces remain: run it again.")
            break
        piece_start = time.perf_counter()
        results[name] = rounded(todo[name]())
        seconds = time.perf_counter() - piece_start
        shown = results[name].get("verdicts", "")
        print(f"{number}/{len(missing)} {name}: {seconds:.0f} s {shown}", flush=True)
        results["minutes"] = round(results.get("minutes", 0) + seconds / 60, 2)
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in results.items())
        atomic_write_text(RESULTS, f"{{\n{lines}\n}}\n")
    if all(name in results for name in pieces(given.scratch)):
        atomic_write_text(PAGE, document(results))
        print(f"{settings.display_path(PAGE)} is written.")


if __name__ == "__main__":
    main()
