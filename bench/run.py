"""Compare the speed of the tutorial's model with other engines and with the memory bandwidth: `nox -s bench`.

    python bench/run.py [--quick] [--only SECTION]… [--engine NAME]… [--rounds 7] [--results FILE]

docs/benchmarks.md describes the method.  Each section can be run alone; the results of the others are kept, unless
machine, model, versions or sizes differ.  --quick shows that everything runs; its figures mean nothing, and are stored
only with --results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import replace
from datetime import date
from importlib import metadata
from pathlib import Path
from time import perf_counter

import psutil
import report
from engines import ENGINES, ov_config
from rehearsal import cpu_name, rounded
from sections import QUICK, SECTIONS, Plan, choice

from helpers.files import GIB

LIBRARIES = ["torch", "transformers", "optimum-intel", "openvino", "openvino-genai", "nncf", "llama-cpp-python"]


def version(library: str) -> str:
    try:
        return metadata.version(library).split("+")[0]
    except metadata.PackageNotFoundError:
        return "not installed"


def about(plan: Plan) -> dict:
    """Return the conditions under which the figures hold; results from different conditions are never mixed."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / GIB),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {library: version(library) for library in LIBRARIES},
        "model": choice.model,
        "flags": list(choice.spec.flags[choice.format]),
        "ov_config": ov_config(plan.threads),
        "threads": plan.threads,
        "rounds": plan.rounds,
        "prefill": list(plan.prefill),
        "depths": list(plan.depths),
        "tokens": plan.tokens,
    }


def kept(stored: dict, about: dict) -> dict:
    """Return the stored results if machine, versions and sizes are the same, else none."""
    return stored if stored.get("about") == about else {"about": about}


def stolen() -> tuple[float, float]:
    """Return the CPU seconds that other virtual machines have taken from this one so far, and all CPU seconds."""
    times = psutil.cpu_times()
    return getattr(times, "steal", 0.0), sum(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: does everything run?")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="run only this section; can be repeated")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="run only this engine; can be repeated")
    parser.add_argument("--rounds", type=int, help="counted rounds")
    parser.add_argument("--results", type=Path, help="instead of bench/results.json; docs and README stay as they are")
    given = parser.parse_args()
    plan = QUICK if given.quick else Plan()
    plan = replace(plan, engines=tuple(given.engine or ENGINES), rounds=given.rounds or plan.rounds)
    file = given.results or (None if given.quick else report.RESULTS)
    results = json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else {}
    results = kept(results, about(plan))
    for name in given.only or SECTIONS:
        start, (stolen_before, all_before) = perf_counter(), stolen()
        results[name] = rounded(SECTIONS[name](plan))
        seconds, (stolen_after, all_after) = perf_counter() - start, stolen()
        steal = (stolen_after - stolen_before) / (all_after - all_before)
        print(f"{name}: {seconds:.0f} s; other machines on this host took {steal:.1%} of the CPU", flush=True)
        run = {"date": date.today().isoformat(), "seconds": round(seconds), "steal": round(steal, 4)}
        results["runs"] = results.get("runs", {}) | {name: run}
        if file:
            file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    rehearsal = report.stored(report.REHEARSAL)
    print(report.document(results, rehearsal))
    if file == report.RESULTS:
        report.write(results, rehearsal)


if __name__ == "__main__":
    main()
