"""results.json → what was reached of the targets, and the README's tables.

    python bench/report.py        write the README's part again from bench/results.json

Figures are medians of the rounds.  A ratio is the median of the ratios within a round, which a neighbour on the
machine disturbs least.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from engines import ENGINES, OURS

from helpers.metrics.timing import ratio
from helpers.settings import ROOT

RESULTS = ROOT / "bench" / "results.json"
PAGED, SDPA = "OpenVINO GenAI, paged attention", "OpenVINO GenAI, SDPA"


def faster(results: dict, theirs: str, what: str) -> float:
    """How many times as fast as `theirs` our loop is, in `what`: "decode 0", "prefill 512".  KeyError if unmeasured."""
    engines = results["engines"]
    return ratio(engines[theirs][what], engines[OURS][what])  # milliseconds: theirs are on top


def best_eager(results: dict) -> str:
    """The faster of PyTorch's eager types; KeyError unless all of them were measured."""
    eager = [name for name in ENGINES if "eager" in name]
    return min(eager, key=lambda name: median(results["engines"][name]["decode 0"]))


def share(results: dict, name: str, depth: int) -> float:
    """Bytes that an engine reads per second while it decodes, of what the memory gives."""
    engine, about = results["engines"][name], results["about"]
    context = depth + about["tokens"] / 2  # half of the new tokens, on the average
    per_token = engine["weight_bytes"] + context * engine["kv_bytes"]
    return per_token / (median(engine[f"decode {depth}"]) / 1000) / (results["bandwidth"]["gb_per_second"] * 1e9)


def against(results: dict, section: str, what: str) -> float:
    return ratio(results[section]["ours"][what], results[section]["bare"][what])


@dataclass(frozen=True)
class Target:
    """`value(results)` raises KeyError where a section has not been run, or an engine is not there."""

    figure: str
    value: Callable[[dict], float]
    word: str  # "at least", "at most", "below"
    bound: float
    unit: str = "×"

    def met(self, value: float) -> bool:
        return {"at least": value >= self.bound, "at most": value <= self.bound, "below": value < self.bound}[self.word]


def decode(theirs: str) -> Callable[[dict], float]:
    return lambda results: faster(results, theirs, "decode 0")


def prefill(theirs: str) -> Callable[[dict], float]:
    return lambda results: faster(results, theirs, "prefill 512")


TARGETS = (
    Target("decode: PyTorch's faster eager dtype", lambda r: faster(r, best_eager(r), "decode 0"), "at least", 4),
    Target("decode: llama.cpp on the file that the checkpoint is from", decode("llama.cpp"), "at least", 2),
    Target("decode: optimum-intel generate", decode("optimum-intel generate"), "at least", 1.1),
    Target("decode: GenAI, paged attention (its default)", decode(PAGED), "at least", 1),
    Target("decode: GenAI, SDPA", decode(SDPA), "at least", 1),
    Target("prefill of 512 tokens: GenAI, paged attention", prefill(PAGED), "at least", 1),
    Target("prefill of 512 tokens: GenAI, SDPA", prefill(SDPA), "at least", 1),
    Target("decode: share of what the memory's bandwidth allows", lambda r: share(r, OURS, 0), "at least", 0.3, ""),
    Target("export, time: the bare optimum-cli command", lambda r: against(r, "export", "seconds"), "at most", 1.05),
    Target("export, memory: the same", lambda r: against(r, "export", "memory_mib"), "at most", 1.05),
    Target("perplexity of the default export: fp16's", lambda r: r["quality"]["ratio"], "at most", 1.1),
    Target("turn 5 of a chat, first token: the turn read anew", lambda r: r["chat"]["reuse"], "at most", 0.15),
    Target("decode in the chat box: the bare loop", lambda r: r["chat"]["streaming"], "at least", 0.95),
    Target("memory that many turns in the chat box add", lambda r: r["chat"]["memory"], "below", 50, "MiB"),
    Target("`python -m helpers ask`, start to first word", lambda r: median(r["ask"]["seconds"]), "at most", 4, "s"),
    Target("page 00 with the export on disk", lambda r: median(r["notebook"]["seconds"]), "below", 20, "s"),
)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def targets(results: dict) -> str:
    """A row per target: what was found, what was asked for, and whether it is met."""
    rows = []
    for target in TARGETS:
        asked = f"{target.word} {target.bound:g} {target.unit}".strip()
        try:
            value = target.value(results)
        except KeyError:  # its section was not run, or the engine is not there
            rows.append([target.figure, "not measured", asked, ""])
            continue
        found = f"{value:.1f}" if target.unit in ("s", "MiB") else f"{value:.2f}"
        met = "met" if target.met(value) else "**missed**"
        rows.append([target.figure, f"{found} {target.unit}".strip(), asked, met])
    return table(["ours ÷ theirs", "found", "target", ""], rows)


def decode_table(results: dict) -> str:
    """How fast each engine writes, and what it reads from memory for a token."""
    near, far = results["about"]["depths"]
    head = ["writing", "weights per token", "KV cache", "ms per token (p90)", "tokens/s", f"after {far}", "ours ÷ it"]
    rows = []
    for name, engine in results["engines"].items():
        if "missing" in engine:
            rows.append([name, engine["missing"], *[""] * 5])
            continue
        token = engine[f"decode {near}"]
        p90 = np.quantile(token, 0.9)
        row = [name, f"{engine['weight_bytes'] / 1e6:.0f} MB", engine["kv"], f"{median(token):.1f} ({p90:.1f})"]
        row += [f"{1000 / median(token):.0f}", f"{1000 / median(engine[f'decode {far}']):.0f}"]
        rows.append([*row, compared(results, name, f"decode {near}")])
    return table(head, rows)


def prefill_table(results: dict) -> str:
    """How fast each engine reads a prompt, in tokens per second, and the memory that it takes."""
    prompts, rows = results["about"]["prefill"], []
    head = ["reading", *[f"{n} tokens" for n in prompts], f"ours ÷ it, {prompts[1]}", "peak memory"]
    for name, engine in results["engines"].items():
        if "missing" not in engine:
            speeds = [f"{1000 * n / median(engine[f'prefill {n}']):,.0f}/s" for n in prompts]
            memory = results.get("memory", {}).get(name)
            peak = f"{memory:,.0f} MiB" if memory else ""
            rows.append([name, *speeds, compared(results, name, f"prefill {prompts[1]}"), peak])
    return table(head, rows)


def compared(results: dict, name: str, what: str) -> str:
    return f"{faster(results, name, what):.2f} ×" if OURS in results["engines"] else ""


def sentences(results: dict) -> list[str]:
    """What the other sections found, a line each; and of those who write faster than we, how much less they read."""
    said, engines = [], results.get("engines", {})
    ours = engines.get(OURS, {})
    for name, engine in engines.items():
        if ours and "missing" not in engine and (share_of_time := faster(results, name, "decode 0")) < 0.995:
            read = engine["weight_bytes"] / ours["weight_bytes"]
            said += [f"{name} takes {share_of_time:.2f} of our time for a token, and reads {read:.2f} of our bytes."]
    if "causes" in results:
        both, head = results["causes"]["attention"], results["causes"]["products"]
        less = {what: ratio(both["blocks"][what], values) for what, values in both["state"].items()}
        n = results["about"]["prefill"][1]
        said += [
            f"Keys and values in blocks (paged attention) make reading {n} tokens take {less[f'prefill {n}']:.2f} of "
            f"the time that the exported graph's state takes, reading {n} behind those {less[f'behind {n}']:.2f}, and "
            f"a token after all of them {less[f'decode {2 * n}']:.2f}.",
            f"Products take {head['share']:.2f} of the time of a token's operations. The largest, the head of "
            f"{head['head_bytes'] / 1e6:.0f} MB, reads {head['head_gb_per_second']:.0f} GB/s.",
        ]
    if "load" in results:
        ours, cold, cached = (
            median(results["load"][side]["first_token_seconds"]) for side in ("ours", "cold", "cached")
        )
        said += [
            f"Loading, to the first token: {ours:.2f} s. optimum-intel: {cold:.2f} s; {cached:.2f} s with a filled "
            "`CACHE_DIR`, which OpenVINO cannot use for blocks yet."
        ]
    if "bandwidth" in results:
        found = results["bandwidth"]
        said += [f"Two threads read {found['size_bytes'] / 1e6:.0f} MB of memory at {found['gb_per_second']:.0f} GB/s."]
    if "export" in results:
        ours, bare = (median(results["export"][side]["seconds"]) for side in ("ours", "bare"))
        said += [f"Export: {ours:.1f} s through helpers, {bare:.1f} s by the bare command."]
    return said


def markdown(results: dict) -> str:
    about = results["about"]
    machine = f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB of memory, {about['system']}"
    parts = [
        f"Measured by `nox -s bench` on {machine}: {about['model']} as `{' '.join(about['flags'])}`, "
        f"{about['threads']} threads each, one process per engine, by turns, greedy, {about['tokens']} tokens; "
        f"medians of {about['rounds']} rounds."
    ]
    parts += [decode_table(results), prefill_table(results)] if "engines" in results else []
    return "\n\n".join([*parts, targets(results), *sentences(results)]) + "\n"


def replace_part(text: str, name: str, content: str) -> str:
    """`text` with `content` between its marks <!-- name --> and <!-- /name -->.  ValueError if it has not one pair."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    changed, found = marks.subn(lambda part: part[1] + content + part[2], text)
    if found != 1:
        raise ValueError(f"{found} places for {name}")
    return changed


def write_readme(results: dict, readme: Path = ROOT / "README.md") -> None:
    text = replace_part(readme.read_text(encoding="utf-8"), "bench", markdown(results))
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_readme(json.loads(RESULTS.read_text(encoding="utf-8")))
