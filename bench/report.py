"""results.json and rehearsal.json → docs/benchmarks.md, and the README's short tables.

    python bench/report.py        write both again from the stored results

Figures are medians of the rounds.  A ratio is the median of the ratios within each round, which other load on the
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
from engines import ENGINES, GENAI_LOOKUP, LOOKUP_ENGINES, OURS, OURS_LOOKUP

from helpers.metrics.timing import ratio
from helpers.settings import ROOT

RESULTS = ROOT / "bench" / "results.json"
REHEARSAL = ROOT / "bench" / "rehearsal.json"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
SPEED_UP = "speed-up of helpers.generate"
PAGED, SDPA = "OpenVINO GenAI, paged attention", "OpenVINO GenAI, SDPA"

WORKLOADS = {
    "rewrite": "rewriting a text",
    "code": "editing given code",
    "question": "a question about a text",
    "prose": "free prose",
}
LOOKUP_METHOD = (
    "Six prompts of each workload (bench/workloads.json), greedy decoding at default settings. Every engine generates "
    "as many tokens as helpers.generate does without lookup. Times are measured from the first new token to the last. "
    "helpers.generate with lookup has a second copy of the graph for drafts (`load_model(..., lookup=True)`). "
    "A pass over several tokens rounds differently from single-token passes, so the text may differ."
)
IN_README = (OURS, "optimum-intel generate", PAGED, "PyTorch eager, bf16", "llama.cpp")


def faster(results: dict, theirs: str, what: str) -> float:
    """Return the speed-up of our loop over `theirs` in "decode 0", "prefill 512", ….  Raises KeyError if unmeasured."""
    engines = results["engines"]
    return ratio(engines[theirs][what], engines[OURS][what])  # milliseconds: theirs are on top


def best_eager(results: dict) -> str:
    """Return the name of PyTorch's faster eager dtype.  Raises KeyError unless both were measured."""
    eager = [name for name in ENGINES if "eager" in name]
    return min(eager, key=lambda name: median(results["engines"][name]["decode 0"]))


def share(results: dict, name: str, depth: int) -> float:
    """Return an engine's bandwidth utilization while it decodes, 0 to 1."""
    engine, about = results["engines"][name], results["about"]
    context = depth + about["tokens"] / 2  # half of the new tokens, on the average
    per_token = engine["weight_bytes"] + context * engine["kv_bytes"]
    return per_token / (median(engine[f"decode {depth}"]) / 1000) / (results["bandwidth"]["gb_per_second"] * 1e9)


def against(results: dict, section: str, what: str) -> float:
    return ratio(results[section]["ours"][what], results[section]["bare"][what])


def with_lookup(results: dict, theirs: str, *workloads: str) -> float:
    """Return the speed-up of our loop with lookup over `theirs`, of several workloads over their sum."""
    engines = results["lookup"]["engines"]
    sums = [
        [sum(row) for row in zip(*(engines[name][each] for each in workloads), strict=True)]
        for name in (theirs, OURS_LOOKUP)
    ]
    return ratio(*sums)


@dataclass(frozen=True)
class Target:
    """`value(results)` raises KeyError where a section has not been run, or an engine is not installed."""

    figure: str
    value: Callable[[dict], float]
    word: str  # "at least", "at most", "below"
    bound: float
    unit: str = "×"

    def met(self, value: float) -> bool:
        return {"at least": value >= self.bound, "at most": value <= self.bound, "below": value < self.bound}[self.word]


def lookup_target(workload: str, theirs: str, bound: float) -> Target:
    over = "plain decoding" if theirs == OURS else theirs
    return Target(
        f"lookup, {WORKLOADS[workload]}, over {over}", lambda r: with_lookup(r, theirs, workload), "at least", bound
    )


def decode(theirs: str) -> Callable[[dict], float]:
    return lambda results: faster(results, theirs, "decode 0")


def prefill(theirs: str) -> Callable[[dict], float]:
    return lambda results: faster(results, theirs, "prefill 512")


TARGETS = (
    Target("decode, over PyTorch's faster eager dtype", lambda r: faster(r, best_eager(r), "decode 0"), "at least", 4),
    Target("decode, over llama.cpp on the GGUF file of the checkpoint", decode("llama.cpp"), "at least", 2),
    Target("decode, over optimum-intel generate", decode("optimum-intel generate"), "at least", 1.1),
    Target("decode, over GenAI with paged attention (its default)", decode(PAGED), "at least", 1),
    Target("decode, over GenAI with SDPA", decode(SDPA), "at least", 1),
    Target("prefill of 512 tokens, over GenAI with paged attention", prefill(PAGED), "at least", 1),
    Target("prefill of 512 tokens, over GenAI with SDPA", prefill(SDPA), "at least", 1),
    lookup_target("rewrite", OURS, 2.5),
    lookup_target("code", OURS, 1.7),
    lookup_target("question", OURS, 1.3),
    lookup_target("prose", OURS, 0.98),
    *(lookup_target(workload, GENAI_LOOKUP, 1) for workload in WORKLOADS),
    Target("lookup, all four, over llama.cpp", lambda r: with_lookup(r, "llama.cpp", *WORKLOADS), "at least", 1.5),
    Target("decode, bandwidth utilization", lambda r: share(r, OURS, 0), "at least", 0.3, ""),
    Target("export, time ÷ optimum-cli's", lambda r: against(r, "export", "seconds"), "at most", 1.05),
    Target("export, peak memory ÷ optimum-cli's", lambda r: against(r, "export", "memory_mib"), "at most", 1.05),
    Target("perplexity of the default export ÷ fp16's", lambda r: r["quality"]["ratio"], "at most", 1.1),
    Target("TTFT of turn 5 of a chat ÷ without the cached prefix", lambda r: r["chat"]["reuse"], "at most", 0.15),
    Target("decode speed in the chat box ÷ the bare loop", lambda r: r["chat"]["streaming"], "at least", 0.95),
    Target("the same, with tables, formulas and code", lambda r: r["chat"]["rich"], "at least", 0.95),
    Target("memory that 200 turns in the chat box add", lambda r: r["chat"]["memory"], "below", 50, "MiB"),
    Target("`python -m helpers ask`, until the first word", lambda r: median(r["ask"]["seconds"]), "at most", 4, "s"),
    Target("page 00, with the export on disk", lambda r: median(r["notebook"]["seconds"]), "below", 20, "s"),
)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def targets(results: dict) -> str:
    """Return a row per target: what was measured, what was asked for, and whether it is met."""
    rows = []
    for target in TARGETS:
        asked = f"{target.word} {target.bound:g} {target.unit}".strip()
        try:
            value = target.value(results)
        except KeyError:  # its section was not run, or the engine is not installed
            rows.append([target.figure, "not measured", asked, ""])
            continue
        found = f"{value:.1f}" if target.unit in ("s", "MiB") else f"{value:.2f}"
        met = "met" if target.met(value) else "not met"
        rows.append([target.figure, f"{found} {target.unit}".strip(), asked, met])
    return table(["figure", "measured", "target", ""], rows)


def decode_table(results: dict) -> str:
    """Return how fast each engine decodes, and what it reads from memory for a token."""
    near, far = results["about"]["depths"]
    head = ["decode", "weights per token", "KV cache", "ms per token (p90)", "tokens/s", f"after {far}", SPEED_UP]
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
    """Return how fast each engine processes a prompt, in tokens per second, and the memory that it takes."""
    prompts, rows = results["about"]["prefill"], []
    head = ["prefill", *[f"{n} tokens" for n in prompts], f"{SPEED_UP}, {prompts[1]}", "peak memory"]
    for name, engine in results["engines"].items():
        if "missing" not in engine:
            speeds = [f"{1000 * n / median(engine[f'prefill {n}']):,.0f}/s" for n in prompts]
            memory = results.get("memory", {}).get(name)
            peak = f"{memory:,.0f} MiB" if memory else ""
            rows.append([name, *speeds, compared(results, name, f"prefill {prompts[1]}"), peak])
    return table(head, rows)


def lookup_table(results: dict) -> str:
    """Return the milliseconds per token of each workload, and how many answers are those of plain decoding."""
    rows = []
    for name in LOOKUP_ENGINES:
        engine = results["lookup"]["engines"][name]
        if "missing" in engine:
            rows.append([name, engine["missing"], *[""] * len(WORKLOADS)])
            continue
        same = sum(sum(rounds) for rounds in engine["same_text"].values())
        answers = results["lookup"]["prompts"] * sum(len(engine[workload]) for workload in WORKLOADS)
        rows.append([name, *(f"{median(engine[each]):.1f}" for each in WORKLOADS), f"{same / answers:.0%}"])
    return table(["ms per token", *WORKLOADS.values(), "answers equal to helpers.generate's"], rows)


def short_table(results: dict) -> str:
    """Return the README's rows: both speeds of the engines that a reader may have to choose from."""
    length, rows = results["about"]["prefill"][1], []
    for name in IN_README:
        engine = results["engines"].get(name, {"missing": "not measured"})
        if "missing" in engine:
            rows.append([name, engine["missing"], "", ""])
            continue
        speeds = [1000 / median(engine["decode 0"]), 1000 * length / median(engine[f"prefill {length}"])]
        rows.append([name, f"{engine['weight_bytes'] / 1e6:.0f} MB", *(f"{speed:,.0f}" for speed in speeds)])
    return table(["engine", "weights per token", "decode, tokens/s", f"prefill of {length}, tokens/s"], rows)


def compared(results: dict, name: str, what: str) -> str:
    return f"{faster(results, name, what):.2f} ×" if OURS in results["engines"] else ""


def sentences(results: dict) -> list[str]:
    """Return what the other sections measured, a line each; and for each engine that decodes faster, what it reads."""
    said, engines = [], results.get("engines", {})
    ours = engines.get(OURS, {})
    for name, engine in engines.items():
        if ours and "missing" not in engine and (share_of_time := faster(results, name, "decode 0")) < 0.995:
            read = engine["weight_bytes"] / ours["weight_bytes"]
            said += [
                f"{name} takes {share_of_time:.2f} times as long per token as {OURS}, and reads {read:.2f} times as "
                "many bytes of weights."
            ]
    if "causes" in results:
        both, head = results["causes"]["attention"], results["causes"]["matmuls"]
        less = {what: ratio(both["paged"][what], values) for what, values in both["stateful"].items()}
        n = results["about"]["prefill"][1]
        said += [
            f"With a paged KV cache, prefill of {n} tokens takes {less[f'prefill {n}']:.2f} times as long as with the "
            f"exported graph's stateful cache, prefill of {n} more tokens after those {less[f'behind {n}']:.2f} times "
            f"as long, and a decode step after all of them {less[f'decode {2 * n}']:.2f} times as long.",
            f"Matrix multiplications take {head['share']:.2f} of the operation time of a decode step. The largest, the "
            f"LM head, reads its {head['head_bytes'] / 1e6:.0f} MB at {head['head_gb_per_second']:.0f} GB/s.",
        ]
        if fused := results["causes"].get("fusion"):
            decode, prefill = (ratio(fused[what]["fused"], fused[what]["separate"]) for what in ("decode", "prefill"))
            over = {side: ratio(fused["prefill"]["GenAI"], fused["prefill"][side]) for side in ("fused", "separate")}
            more, less = (
                median(fused[what]["fused"]) - median(fused[what]["separate"]) for what in ("prefill", "decode")
            )
            said += [
                "This project fuses projections that have the same input (helpers/load/graph.py). With fusion, a "
                f"decode step takes {decode:.2f} times as long as without, and prefill of {n} tokens {prefill:.2f} "
                "times as long. With GenAI as the only other engine, our prefill is "
                f"{over['fused']:.2f} times as fast as GenAI's if projections are fused, and {over['separate']:.2f} "
                "times as fast if not."
            ]
            if more > 0 > less:
                said[-1] += (
                    f" After a prompt of {n} tokens, fusion pays off in answers longer than {more / -less:.0f} tokens."
                )
    if "load" in results:
        ours, cold, cached = (
            median(results["load"][side]["first_token_seconds"]) for side in ("ours", "cold", "cached")
        )
        said += [
            f"From the start of loading to the first token: {ours:.2f} s with helpers, {cold:.2f} s with "
            f"optimum-intel, and {cached:.2f} s with optimum-intel and a filled `CACHE_DIR`, which helpers' paged KV "
            "cache cannot use yet."
        ]
    if "bandwidth" in results:
        found = results["bandwidth"]
        size, threads = found["size_bytes"] / 1e6, results["about"]["threads"]
        said += [f"Memory bandwidth, reading {size:.0f} MB with {threads} threads: {found['gb_per_second']:.0f} GB/s."]
    if "export" in results:
        ours, bare = (median(results["export"][side]["seconds"]) for side in ("ours", "bare"))
        said += [f"Export: {ours:.1f} s through helpers, {bare:.1f} s with the bare command."]
    return said


def measured_on(about: dict) -> str:
    machine = f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB of memory, {about['system']}"
    flags = " ".join(about["flags"])
    return f"{machine}; {about['model']}, exported for OpenVINO with `{flags}`, {about['threads']} threads"


def readme_part(results: dict) -> str:
    """Return what stands between the README's marks."""
    about = results["about"]
    how = f"greedy decoding of {about['tokens']} tokens, medians of {about['rounds']} rounds"
    parts = [f"Measured by `nox -s bench` on {measured_on(about)}, {how}."]
    parts += [short_table(results)] if "engines" in results else []
    parts += ["More engines, the targets and the method: [docs/benchmarks.md](docs/benchmarks.md)."]
    return "\n\n".join(parts) + "\n"


def document(results: dict, rehearsal: dict) -> str:
    """Return docs/benchmarks.md."""
    about = results["about"]
    parts = [
        "# Benchmarks",
        "`nox -s bench` runs the measurements and writes this file; `nox -s rehearsal` does the same for its last "
        "section. To change the text, edit bench/report.py.",
        "## Method",
        f"- Machine and model: {measured_on(about)} each. Expect different figures on your machine, and measure them.",
        "- Each engine has its own process. The engines take turns (A, B, C, A, B, C, …); those that wait use no CPU. "
        f"{about['rounds']} rounds after a warm-up. Each round has a new prompt, the same for all engines, so that no "
        "engine finds it in a cache.",
        f"- Greedy decoding, exactly {about['tokens']} tokens, EOS ignored. Decode is timed from the first new token "
        "to the last, after a prompt of one token, or of 512 where the table says so. Prefill is timed from the call "
        "to the first new token.",
        f"- A figure is the median of its rounds. *{SPEED_UP}* is the engine's time divided by helpers.generate's: "
        "the median of the ratios within each round. Above 1 ×, helpers.generate is faster. Differences of a few per "
        "cent change sign from run to run.",
        "- llama.cpp runs the 4-bit GGUF file that was dequantized to make the embedded checkpoint. The others run "
        "that checkpoint, or its export, which is quantized again: the same model with different weights.",
        "- Memory is measured in a separate run.",
    ]
    if "engines" in results:
        parts += ["## Decode", decode_table(results), "## Prefill", prefill_table(results)]
    if "lookup" in results:
        parts += ["## Prompt lookup", LOOKUP_METHOD, lookup_table(results)]
    parts += ["## Targets", "The project set these targets before it measured.", targets(results)]
    parts += ["## Where the time goes", *sentences(results)]
    if rehearsal:
        parts += ["## Phi-3-mini's shape", rehearsal_part(rehearsal).rstrip()]
    # Bullets stay one list; everything else is separated by an empty line.
    return "\n\n".join(parts).replace("\n\n- ", "\n- ").replace("## Method\n- ", "## Method\n\n- ") + "\n"


def rehearsal_part(rehearsal: dict) -> str:
    """Return what Phi-3-mini costs: a row per step, and how close decode comes to the limit of the memory bandwidth."""
    about, decode = rehearsal["about"], rehearsal["decode"]
    machine = f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB of memory, {about['system']}"
    rows = ["| step | time | peak memory | disk | |", "|---|---:|---:|---:|---|"]
    for cost in rehearsal["steps"]:
        figures = f"{cost['seconds']:.0f} s | {cost['memory_gib']:.1f} GiB | {cost['disk_gib']:.1f} GiB"
        rows += [f"| {cost['step']} | {figures} | {cost['note']} |"]
    speed, utilization = decode["tokens_per_second"], ratio(decode["tokens_per_second"], decode["limit"])
    parts = [
        f"Measured by `nox -s rehearsal` on {machine}, with random weights in Phi-3-mini's shape:",
        "\n".join(rows),
        f"A decode step reads {decode['weight_bytes'] / 1e9:.2f} GB of weights. Over several rounds, decode "
        f"reached a median of {median(speed):.1f} tokens/s, a bandwidth utilization of {utilization:.2f}.",
    ]
    if passes := decode.get("pass_ms"):
        one, *longer = [size for size in passes if size.isdigit()]
        cost = {size: ratio(passes[size], passes[one]) for size in longer}
        change = median(ratio(passes[f"{size} after 5"], passes[size]) - 1 for size in longer)
        most = cost[longer[-1]] * (1 + change) - 1
        *some, last = (f"{cost[size]:.2f}" for size in longer)
        times, counts = f"{', '.join(some)} and {last}", f"{', '.join(longer[:-1])} and {longer[-1]}"
        parts.append(
            f"A forward pass over {counts} tokens takes {times} times as long as one over a single token. If the pass "
            f"before it had a different size, it takes {change:.0%} longer still. So a draft of {int(longer[-1]) - 1} "
            f"tokens pays off if more than {max(0, most):.1f} of them are accepted on average."
        )
    if replayed := decode.get("replayed"):
        gains = [
            f"{ratio(found['plain'], found['lookup']):.2f} times as fast for {WORKLOADS[workload]} "
            f"({found['tokens_per_pass']:.2f} tokens per pass)"
            for workload, found in replayed.items()
        ]
        parts.append(
            "A model with random weights accepts no drafts, so bench/replay.py replays the embedded model's answers in "
            f"this shape. Compared with plain decoding, prompt lookup is {', '.join(gains[:-1])}, and {gains[-1]}."
        )
    # docs.kernel.org/admin-guide/cgroup-v1/memory.html, "Shared Page Accounting"
    parts.append(
        "Peak memory includes the pages of mapped files (weights and shared libraries), which the system can drop and "
        "read again. A cgroup is charged for such a page only if it is the first to read it, so a peak can exceed the "
        "limit."
    )
    return "\n\n".join(parts) + "\n"


def replace_part(text: str, name: str, content: str) -> str:
    """Return `text` with `content` between <!-- name --> and <!-- /name -->.  Raises ValueError unless there is one."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    changed, found = marks.subn(lambda part: part[1] + content + part[2], text)
    if found != 1:
        raise ValueError(f"{found} places for {name}")
    return changed


def stored(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write(results: dict, rehearsal: dict, readme: Path = ROOT / "README.md", document_file: Path = DOCUMENT) -> None:
    """Write the README's parts and docs/benchmarks.md; what has not been measured stays as it is."""
    text = readme.read_text(encoding="utf-8")
    if results:
        text = replace_part(text, "bench", readme_part(results))
    if rehearsal:
        text = replace_part(text, "rehearsal", rehearsal_part(rehearsal))
    if results:
        document_file.write_text(document(results, rehearsal), encoding="utf-8")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(stored(RESULTS), stored(REHEARSAL))
