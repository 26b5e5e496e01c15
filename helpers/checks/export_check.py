"""Check an export: its tokenizer, its probabilities against the checkpoint's, its KV cache, and its device."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from helpers.checkpoint.tokenizer import load_tokenizer
from helpers.checks.finding import Finding
from helpers.errors import TutorialError, cause_of, check_token_ids
from helpers.files import GIB, MALFORMED, atomic_write_text, is_ir, read_json
from helpers.generate import PromptCache, generate
from helpers.generate.sampling import log_softmax, single_thread
from helpers.load import load_model, require_export
from helpers.settings import Settings, display_path
from helpers.tokenize import prompt_ids

QUESTIONS = ("What is the capital of France?", "How much is 17 plus 25?", "Write a short story about a lighthouse.")
TOKENS = 16  # of each answer
SAMPLE = "Zwei Gläser für 3.50 €, bitte: f(x) = [a_1] <b>"
ANSWERS_FILE = "selfcheck.json"  # beside the exports: the checkpoint's answers
# The smallest share of their probability that the tokens may keep (geometric mean over the answers).  SmolLM2 keeps all
# of it in int8, 96 % in the catalog's int4, and 63 % with --ratio 1.0 and without AWQ.  If one of its 30 layers does
# nothing, 0 to 94 % remain, and for 24 layers less than this limit.  A higher one could reject sound int4 exports.
MIN_KEPT = 0.8


@dataclass(frozen=True)
class ReferenceAnswer:
    """A greedy answer: the ids of the prompt and of the answer, and the log-probability of each of the latter."""

    prompt_ids: list[int]
    ids: list[int]
    logprobs: list[float]


def check(settings: Settings) -> list[Finding]:
    """Compare an export with its checkpoint, its KV cache with a run without one, and its device with the CPU.

    Loads the checkpoint for a while.  If memory is short, uses the answers of an earlier check, or skips the
    comparison.  Only one model is in memory at a time.  Raises TutorialError when there is no export.
    """
    require_export(settings)
    answers, skipped = _reference_answers(settings)
    model, tok, choice = load_model(settings)
    command = settings.command("export", "--format", settings.format)
    export_again = f"Delete the folder {display_path(settings.model_dir)}, then: {command}"
    if is_ir(settings.checkpoint_dir):
        export_again = "It was not exported here. Choose a different model: python -m helpers models"
    prompts = [prompt_ids(tok, [{"role": "user", "content": question}]) for question in QUESTIONS]
    findings = [_check_tokenizer(tok, prompts, answers, export_again)]
    try:
        if skipped:
            answers = [ReferenceAnswer(p, [token.id for token in generate(model, p, TOKENS)], []) for p in prompts]
        with_cache = np.concatenate([incremental_logprobs(model, answer) for answer in answers])
    except TutorialError as error:  # the logits are not numbers
        return [*findings, Finding("logits", "problem", error.message, export_again)]
    del model
    logprobs = _export_logprobs(settings, choice.device, answers)
    if skipped:
        findings.append(Finding("checkpoint", "note", *skipped))
    else:
        lost = np.maximum(np.mean(np.concatenate([answer.logprobs for answer in answers]) - logprobs), 0)
        hint = f"{export_again}. If the result is the same, this format is too coarse for the model: use --format int8"
        findings.append(_judge("checkpoint", lost, "In the export, the checkpoint's tokens", hint))
    hint = 'Try INFERENCE_PRECISION_HINT = "f32" and KV_CACHE_PRECISION = "f32" in ov_config, or a newer OpenVINO.'
    findings.append(_judge("cache", np.mean(abs(with_cache - logprobs)), "With the KV cache, the same tokens", hint))
    if choice.device == "CPU":
        return [*findings, Finding("device", "ok", "The device is the CPU; there is nothing to compare it with.")]
    lost = np.mean(abs(logprobs - _export_logprobs(settings, "CPU", answers)))
    hint = f'Use device = "CPU", or a newer driver for {choice.device}.'
    return [*findings, _judge("device", lost, f"On {choice.device} instead of the CPU, the same tokens", hint)]


def teacher_forced_logprobs(model, answer: ReferenceAnswer) -> np.ndarray:
    """Run `model` (OpenVINO's or PyTorch's) once over prompt and answer; return the answer's log-probabilities [n]."""
    import torch

    ids = torch.tensor([answer.prompt_ids + answer.ids])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]  # [prompt + n, vocabulary]
    logits = logits[len(answer.prompt_ids) - 1 : -1].float().numpy()  # [n, vocabulary]
    return log_softmax(logits)[np.arange(len(answer.ids)), answer.ids]


def incremental_logprobs(model, answer: ReferenceAnswer) -> np.ndarray:
    """Return the same log-probabilities [n] as our loop computes them: token by token with the KV cache."""
    cache = PromptCache(model)
    rows = (cache.logits(answer.prompt_ids + answer.ids[:n]) for n in range(len(answer.ids)))
    return np.array([log_softmax(row)[token_id] for row, token_id in zip(rows, answer.ids, strict=True)])


def checkpoint_answers(folder: Path) -> list[ReferenceAnswer]:
    """Return the checkpoint's greedy answers to QUESTIONS, computed by PyTorch in the precision of its file."""
    import torch
    from transformers import AutoModelForCausalLM

    tok, options = load_tokenizer(folder), {"local_files_only": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options)
    answers = []
    for question in QUESTIONS:
        prompt = prompt_ids(tok, [{"role": "user", "content": question}])
        ids = torch.tensor([prompt])
        with single_thread():  # as fast for so few tokens, and much faster on a busy machine
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
            answer = ReferenceAnswer(prompt, out[0, len(prompt) :].tolist(), [])
            answers.append(replace(answer, logprobs=teacher_forced_logprobs(model, answer).tolist()))
    return answers


def _export_logprobs(settings: Settings, device: str, answers: Sequence[ReferenceAnswer]) -> np.ndarray:
    """Return the log-probabilities of all tokens of `answers` by the export on `device`, without a KV cache."""
    from optimum.intel.openvino import OVModelForCausalLM

    options = {"device": device, "ov_config": dict(settings.ov_config), "trust_remote_code": False}
    # Not with load_model(), whose model computes the logits of the last position only.
    model = OVModelForCausalLM.from_pretrained(settings.model_dir, export=False, **options)
    return np.concatenate([teacher_forced_logprobs(model, answer) for answer in answers])


def _reference_answers(settings: Settings) -> tuple[list[ReferenceAnswer], tuple[str, ...]]:
    """Return the checkpoint's answers, new or from an earlier check, and (); without either, [] and (reason, hint)."""
    file = settings.home / ANSWERS_FILE
    key = {"revision": settings.spec.revision, "questions": list(QUESTIONS), "tokens": TOKENS}
    free, need = psutil.virtual_memory().available / GIB, 1 + settings.spec.checkpoint_gib
    skipped = f"Skipped: the checkpoint needs {need:.1f} GiB of memory; {free:.1f} is free.", "Close other programs."
    if is_ir(settings.checkpoint_dir):
        return [], ("Skipped: this model was not exported here.", "To compare, export its checkpoint yourself.")
    if not settings.checkpoint_dir.exists():
        skipped = "Skipped: the checkpoint is not on this disk.", f"To fetch it: {settings.command('fetch')}"
    elif free > need:
        try:
            answers = checkpoint_answers(settings.checkpoint_dir)
        except TutorialError:  # it has no chat template
            raise
        except Exception as error:  # each library raises its own types for a damaged file
            what = f"{display_path(settings.checkpoint_dir)} cannot be loaded. {type(error).__name__}: {error}"
            hint = f"To see whether its files are damaged: {settings.command('doctor', '--thorough')}"
            raise cause_of(error) or TutorialError(what, hint) from error
        with suppress(TutorialError):  # a shared folder may be read-only
            atomic_write_text(file, json.dumps(key | {"answers": [asdict(answer) for answer in answers]}))
        return answers, ()
    with suppress(OSError, TutorialError, *MALFORMED):  # no file, or not one of ours
        saved = read_json(file)
        if saved["answers"] and saved == key | {"answers": saved["answers"]}:
            # By position, because an earlier version used different names.
            answers = [[*answer.values()] for answer in saved["answers"]]
            return [ReferenceAnswer(*map(check_token_ids, (p, i)), [float(x) for x in f]) for p, i, f in answers], ()
    return [], skipped


def _check_tokenizer(tok, prompts: list[list[int]], answers: Sequence[ReferenceAnswer], hint: str) -> Finding:
    decoded = tok.decode(tok(SAMPLE, add_special_tokens=False)["input_ids"])
    if "".join(decoded.split()) != "".join(SAMPLE.split()):
        return Finding("tokenizer", "problem", f"The text {SAMPLE!r} becomes {decoded!r}.", hint)
    if answers and prompts != [answer.prompt_ids for answer in answers]:
        return Finding("tokenizer", "problem", "Its token ids for a question differ from the checkpoint's.", hint)
    return Finding("tokenizer", "ok", "Encoding and decoding a text returns the same text.")


def _judge(topic: str, lost: float, what: str, hint: str) -> Finding:
    """Return the finding for `lost`, a mean difference of log-probabilities; a problem if it is not a number."""
    kept = float(np.exp(-lost))
    message = f"{what} keep {kept:.0%} of their probability; at least {MIN_KEPT:.0%} is expected."
    return Finding(topic, "ok", message) if kept >= MIN_KEPT else Finding(topic, "problem", message, hint)
