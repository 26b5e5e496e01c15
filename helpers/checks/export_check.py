"""Is an export sound?  The checkpoint's own words through it, at once and from the cache; and answers in circles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from helpers.checks.finding import Finding
from helpers.errors import TutorialError
from helpers.files import GIB, atomic_write_text
from helpers.generate import PromptCache, generate
from helpers.generate.sampling import single_thread
from helpers.load import load_model
from helpers.settings import Settings, display_path
from helpers.tokenize import prompt_ids

QUESTIONS = ("What is the capital of France?", "How much is 17 plus 25?", "Write a short story about a lighthouse.")
TOKENS = 16  # of each answer
SAMPLE = "Zwei Gläser für 3.50 €, bitte: f(x) = [a_1] <b>"
ANSWERS_FILE = "selfcheck.json"  # beside the exports: what the checkpoint said when it was last asked
# The least of its probability that a token may keep in compressed weights, and in the same ones used in another way.
# SmolLM2 keeps all of it in int8 and 80 % in the catalog's int4; 63 % where int4 takes in all layers (--ratio 1.0),
# which is little more than where one of its 30 layers does nothing (57 %).
MIN_KEPT_WEIGHTS, MIN_KEPT_CACHE = 0.7, 0.7
BETTER = "If it stays so, these flags are too much for this model: --format int8."


@dataclass(frozen=True)
class Comparison(Finding):
    """`kept` is how much of its probability a token keeps, the geometric mean over the answers: 1 is all of it."""

    kept: float | None = None


@dataclass(frozen=True)
class Answer:
    """Greedy `ids` after `prompt`, and for each the log of the probability that their writer gave it."""

    prompt: list[int]
    ids: list[int]
    logs: list[float]


def check(settings: Settings) -> list[Finding]:
    """Compare an export with its checkpoint, its cache with reading anew, its device with the CPU.

    Needs the checkpoint's memory for a while; with less, what the checkpoint said before is taken, or nothing.
    Raises TutorialError where there is no export.
    """
    model, tok, choice = load_model(settings)
    again = f"Delete the folder {display_path(settings.model_dir)}, then: python -m helpers export"
    prompts = [prompt_ids(tok, [{"role": "user", "content": question}]) for question in QUESTIONS]
    answers, why_not = _reference(settings)
    found = [_tokenizer(tok, prompts, answers, again)]
    try:
        if why_not:
            answers = [Answer(ids, [step.id for step in generate(model, ids, TOKENS)], []) for ids in prompts]
        cached = np.concatenate([incremental_logprobs(model, answer) for answer in answers])
    except TutorialError as error:  # scores that are not numbers
        return [*found, Comparison("scores", "problem", error.message, again)]
    cold, same = _export_logprobs(settings, choice.device, answers)
    if why_not:
        found.append(Comparison("checkpoint", "note", why_not, "It is read from: python -m helpers fetch"))
    else:
        lost = np.concatenate([answer.logs for answer in answers]) - cold
        words = f"the checkpoint's words, and its first choice at {same.sum()} of {len(same)} tokens"
        found.append(_judge("checkpoint", np.maximum(np.mean(lost), 0), MIN_KEPT_WEIGHTS, words, f"{again} {BETTER}"))
    hint = 'Try INFERENCE_PRECISION_HINT = "f32" and KV_CACHE_PRECISION = "f32" in ov_config, or a newer OpenVINO.'
    found.append(
        _judge("cache", np.mean(abs(cached - cold)), MIN_KEPT_CACHE, "words when it reads them one by one", hint)
    )
    if choice.device == "CPU":
        return [*found, Comparison("device", "ok", "It is the CPU; there is nothing to compare it with.")]
    on_cpu, _ = _export_logprobs(settings, "CPU", answers)
    hint = f'Use device = "CPU", or a newer driver for {choice.device}.'
    words = f"words on {choice.device}, compared with the CPU"
    return [*found, _judge("device", np.mean(abs(cold - on_cpu)), MIN_KEPT_CACHE, words, hint)]


def teacher_forced_logprobs(model, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
    """What `model` (OpenVINO's or PyTorch's) makes of an answer that it reads in one run.

    Returns the logs of the probabilities of its tokens [n], and whether each is the likeliest [n].
    """
    import torch

    ids = torch.tensor([answer.prompt + answer.ids])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]  # [prompt + n, vocabulary]
    logits, chosen = logits[len(answer.prompt) - 1 : -1].float(), torch.tensor(answer.ids)
    logs = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
    return logs.numpy(), (logits.argmax(-1) == chosen).numpy()


def incremental_logprobs(model, answer: Answer) -> np.ndarray:
    """The same logs [n] as our loop meets them: after the prompt, then token by token from the cache."""
    import torch

    cache, logs = PromptCache(model), []
    for n, chosen in enumerate(answer.ids):
        scores = torch.from_numpy(cache.logits(answer.prompt + answer.ids[:n])).float()
        logs.append(float(scores.log_softmax(-1)[chosen]))
    return np.array(logs)


def checkpoint_answers(folder: Path) -> list[Answer]:
    """The checkpoint's greedy answers to QUESTIONS, by PyTorch, in the precision that it is stored in."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"local_files_only": True, "trust_remote_code": False}
    tok = AutoTokenizer.from_pretrained(folder, **options)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options)
    answers = []
    for question in QUESTIONS:
        prompt = prompt_ids(tok, [{"role": "user", "content": question}])
        ids = torch.tensor([prompt])
        with single_thread():  # no slower for so little, and on a busy machine much faster
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
            said = out[0, len(prompt) :].tolist()
            answers.append(Answer(prompt, said, teacher_forced_logprobs(model, Answer(prompt, said, []))[0].tolist()))
    return answers


def _export_logprobs(settings: Settings, device: str, answers: Sequence[Answer]) -> tuple[np.ndarray, np.ndarray]:
    """at_once() of all answers in a row, by the export as the document loads it.

    Not by runtime.load, whose model scores the last position only.
    """
    from optimum.intel.openvino import OVModelForCausalLM

    model = OVModelForCausalLM.from_pretrained(
        settings.model_dir,
        export=False,
        device=device,
        ov_config=dict(settings.ov_config),
        trust_remote_code=False,
    )
    logs, same = zip(*(teacher_forced_logprobs(model, answer) for answer in answers), strict=True)
    return np.concatenate(logs), np.concatenate(same)


def _reference(settings: Settings) -> tuple[list[Answer], str]:
    """What the checkpoint says, or said when it was last asked; where neither can be had, nothing and why."""
    import psutil

    folder, spec = settings.checkpoint_dir, settings.spec
    kept, key = (
        folder.with_name(ANSWERS_FILE),
        {"revision": spec.revision, "questions": list(QUESTIONS), "tokens": TOKENS},
    )
    free, need = psutil.virtual_memory().available / GIB, 1 + spec.checkpoint_gib
    why = f"Left out: the checkpoint takes {need:.1f} GiB of memory, and {free:.1f} are free."
    if not folder.exists():
        why = "Left out: the checkpoint is not on this disk."
    elif free > need:
        answers = checkpoint_answers(folder)
        with suppress(TutorialError):  # a shared folder may be read-only
            atomic_write_text(kept, json.dumps(key | {"answers": [asdict(answer) for answer in answers]}))
        return answers, ""
    with suppress(OSError, ValueError, TypeError, KeyError):  # none there, or not one of ours
        table = json.loads(kept.read_text(encoding="utf-8"))
        if {name: table[name] for name in key} == key:
            return [Answer(**answer) for answer in table["answers"]], ""
    return [], why


def _tokenizer(tok, prompts: list[list[int]], answers: Sequence[Answer], again: str) -> Comparison:
    back = tok.decode(tok(SAMPLE, add_special_tokens=False)["input_ids"])
    if "".join(back.split()) != "".join(SAMPLE.split()):
        return Comparison("tokenizer", "problem", f"It makes {back!r} of {SAMPLE!r}.", again)
    if answers and prompts != [answer.prompt for answer in answers]:
        return Comparison("tokenizer", "problem", "It makes other ids of a question than the checkpoint's.", again)
    return Comparison("tokenizer", "ok", "It reads a text and writes the same again.")


def _judge(name: str, lost: float, least: float, words: str, hint: str) -> Comparison:
    """The finding for `lost`, the mean difference of logs; for what is not a number it is a problem."""
    kept = float(np.exp(-lost))
    what = f"It keeps {kept:.0%} of the probability of {words}. At least {least:.0%} is sound."
    return Comparison(name, "ok", what, "", kept) if kept >= least else Comparison(name, "problem", what, hint, kept)
