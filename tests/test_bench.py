"""The bench: its tables from stored figures, its targets, the README's part, and a short run of two real engines."""

import json
import os
import subprocess
import sys

import pytest

from helpers import settings
from helpers.generate.speculate import PassTimes
from helpers.settings import ROOT

sys.path.insert(0, str(ROOT / "bench"))  # its files are scripts, not a package
import engines
import replay
import report
import run
from engines import ENGINES, OURS

FP32, BF16 = "PyTorch eager, fp32", "PyTorch eager, bf16"


def played(weights, kv, token, first):
    figures = {"decode 0": token, "decode 512": [2 * one for one in token], "prefill 512": first}
    return figures | {"prefill 32": first, "prefill 1024": first, "kv": kv, "weight_bytes": weights, "kv_bytes": 0}


@pytest.fixture
def stored():
    """Results as run.py stores them, small, in milliseconds that are easy to divide."""
    return {
        "about": {
            "cpu": "A CPU",
            "cores": 2,
            "memory_gib": 8,
            "system": "Linux",
            "model": "a-model",
            "flags": ["--weight-format", "int4"],
            "threads": 2,
            "rounds": 3,
            "prefill": [32, 512, 1024],
            "depths": [0, 512],
            "tokens": 128,
        },
        "bandwidth": {"size_bytes": 100_000_000, "gb_per_second": 20.0},
        "engines": {
            OURS: played(100_000_000, "u8", [5.0, 10.0, 20.0], [512.0, 512.0, 1024.0]),
            FP32: played(500_000_000, "f32", [50.0, 50.0, 50.0], [1024.0, 1024.0, 1024.0]),
            BF16: played(250_000_000, "bf16", [40.0, 40.0, 40.0], [256.0, 512.0, 512.0]),
            "llama.cpp": {"missing": "not installed: llama_cpp"},
        },
        "memory": {OURS: 1234.5},
        "ask": {"seconds": [3.0, 4.0, 5.0]},
        "notebook": {"seconds": [20.0]},
        "export": {
            "ours": {"seconds": [21.0, 11.0, 40.0], "memory_mib": [1500.0]},
            "bare": {"seconds": [20.0, 10.0, 10.0], "memory_mib": [1400.0]},
        },
    }


def row(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_ratio_is_the_median_of_the_rounds_ratios(stored):
    assert report.faster(stored, BF16, "decode 0") == 4  # of 8, 4 and 2
    stored["engines"][OURS]["decode 0"] = [10.0, 20.0, 40.0]
    stored["engines"][BF16]["decode 0"] = [100.0, 10.0, 120.0]
    assert report.faster(stored, BF16, "decode 0") == 3  # of 10, a half and 3, while the medians' ratio is 5


def test_pytorch_is_judged_by_its_faster_type(stored):
    assert report.best_eager(stored) == BF16
    assert row(report.targets(stored), "decode, over PyTorch's faster eager dtype") == ["4.00 ×", "at least 4 ×", "met"]
    stored["engines"][FP32]["decode 0"] = [19.0, 39.0, 39.0]
    found = row(report.targets(stored), "decode, over PyTorch's faster eager dtype")
    assert found == ["3.80 ×", "at least 4 ×", "not met"]


def test_a_bound_belongs_to_at_least_and_at_most_and_not_to_below(stored):
    text = report.targets(stored)
    assert row(text, "`python -m helpers ask`, until the first word") == ["4.0 s", "at most 4 s", "met"]
    assert row(text, "page 00, with the export on disk") == ["20.0 s", "below 20 s", "not met"]
    assert row(text, "export, time ÷ optimum-cli's") == ["1.10 ×", "at most 1.05 ×", "not met"]


def test_what_was_not_measured_is_neither_met_nor_missed(stored):
    text = report.targets(stored)
    for figure in (
        "decode, over llama.cpp on the GGUF file of the checkpoint",
        "decode, over GenAI with SDPA",
        "perplexity of the default export ÷ fp16's",
    ):
        found, _, met = row(text, figure)
        assert (found, met) == ("not measured", "")
    for section in set(stored) - {"about"}:
        del stored[section]
    assert report.targets(stored).count("not measured") == len(report.TARGETS)


def test_the_limit_is_what_the_memory_gives(stored):
    # 100 MB at 20 GB/s take 5 ms, and our loop takes 10.
    assert report.share(stored, OURS, 0) == pytest.approx(0.5)
    stored["engines"][OURS]["kv_bytes"] = 100_000_000 / 64  # after 64 tokens, the middle, twice as much is read
    assert report.share(stored, OURS, 0) == pytest.approx(1.0)
    assert report.share(stored, OURS, 512) > 1  # faster than the memory: the check that a claim is impossible


def test_lookup_is_compared_round_by_round_and_its_texts_are_counted(stored):
    def engine(ms, same):
        counts = dict.fromkeys(report.WORKLOADS, [same, same, same])
        return dict.fromkeys(report.WORKLOADS, ms) | {"same_text": counts}

    names = {OURS: engine([30.0, 20.0, 30.0], 2), engines.OURS_LOOKUP: engine([10.0, 10.0, 10.0], 1)}
    names |= {name: {"missing": "not installed"} for name in engines.LOOKUP_ENGINES if name not in names}
    stored["lookup"] = {"prompts": 2, "engines": names}
    text = report.targets(stored)
    assert row(text, "lookup, rewriting a text, over plain decoding") == ["3.00 ×", "at least 2.5 ×", "met"]
    assert row(text, "lookup, all four, over llama.cpp") == ["not measured", "at least 1.5 ×", ""]
    assert row(report.lookup_table(stored), engines.OURS_LOOKUP) == [*["10.0"] * 4, "50%"]
    assert row(report.lookup_table(stored), "llama.cpp")[0] == "not installed"


def test_the_tables_have_a_row_per_engine_and_the_reason_of_one_that_is_not_there(stored):
    text = report.document(stored, {})
    assert "A CPU, 2 cores, 8 GiB of memory, Linux; a-model, exported for OpenVINO with `--weight-format int4`" in text
    decode, prefill = report.decode_table(stored), report.prefill_table(stored)
    assert decode in text and prefill in text
    assert row(decode, OURS) == ["100 MB", "u8", "10.0 (18.0)", "100", "50", "1.00 ×"]
    assert row(decode, BF16) == ["250 MB", "bf16", "40.0 (40.0)", "25", "12", "4.00 ×"]
    assert row(decode, "llama.cpp") == ["not installed: llama_cpp", "", "", "", "", ""]
    assert row(prefill, OURS) == ["62/s", "1,000/s", "2,000/s", "1.00 ×", "1,234 MiB"]
    assert row(prefill, BF16) == ["62/s", "1,000/s", "2,000/s", "0.50 ×", ""]
    assert "| llama.cpp |" not in prefill
    for table in (decode, prefill, report.targets(stored)):
        assert len({line.count("|") for line in table.splitlines()}) == 1, "each line has all the cells"


def test_an_engine_that_decodes_faster_is_named_with_the_bytes_that_it_reads(stored):
    assert "bytes of weights" not in report.document(stored, {})
    halves = [one / 2 for one in stored["engines"][OURS]["decode 0"]]
    stored["engines"][BF16] |= {"decode 0": halves, "weight_bytes": 80_000_000}
    said = f"{BF16} takes 0.50 times as long per token as {OURS}, and reads 0.80 times as many bytes of weights."
    assert said in report.document(stored, {})


def test_what_the_paged_cache_saves_and_matrix_multiplications_take_is_said(stored):
    stateful = {"prefill 512": [100.0, 200.0], "behind 512": [400.0, 400.0], "decode 1024": [10.0, 10.0]}
    paged = {"prefill 512": [90.0, 180.0], "behind 512": [100.0, 100.0], "decode 1024": [9.5, 9.5]}
    matmuls = {"share": 0.8, "head_bytes": 30_000_000, "head_gb_per_second": 20.0}
    prefill = {"fused": [110.0, 110.0], "separate": [100.0, 100.0], "GenAI": [99.0, 99.0]}
    fusion = {"decode": {"fused": [9.0, 9.0], "separate": [10.0, 10.0]}, "prefill": prefill}
    stored["causes"] = {"attention": {"stateful": stateful, "paged": paged}, "matmuls": matmuls, "fusion": fusion}
    text = report.document(stored, {})
    assert "prefill of 512 tokens takes 0.90 times as long" in text
    assert "after those 0.25 times as long, and a decode step after all of them 0.95 times as long." in text
    assert "Matrix multiplications take 0.80 of the operation time" in text
    assert "the LM head, reads its 30 MB at 20 GB/s" in text
    assert "decode step takes 0.90 times as long as without, and prefill of 512 tokens 1.10 times as long." in text
    assert "0.90 times as fast as GenAI's if projections are fused, and 0.99 times as fast if not. A" in text
    assert "fusion pays off in answers longer than 10 tokens." in text
    fusion["decode"]["fused"] = [11.0, 11.0]
    assert "fusion pays" not in report.document(stored, {})


def test_only_what_stands_between_the_marks_is_replaced():
    before, after = "# A\n<!-- rehearsal -->\nkept\n<!-- /rehearsal -->\n", "\n## B\n"
    text = f"{before}<!-- bench -->\nold\n<!-- /bench -->{after}"
    new = r"a \1 | b" + "\n"  # no pattern's group
    assert report.replace_part(text, "bench", new) == f"{before}<!-- bench -->\n{new}<!-- /bench -->{after}"
    assert report.replace_part(report.replace_part(text, "bench", new), "bench", "old\n") == text


@pytest.mark.parametrize("text", ["", "<!-- bench -->\n", 2 * "<!-- bench -->\n<!-- /bench -->\n"])
def test_without_one_pair_of_marks_nothing_is_written(text, tmp_path, stored):
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="places for bench"):
        report.write(stored, {}, readme, tmp_path / "benchmarks.md")
    assert readme.read_text(encoding="utf-8") == text


def test_the_readme_and_the_document_have_the_tables_of_the_stored_results(tmp_path):
    readme, document = tmp_path / "README.md", tmp_path / "benchmarks.md"
    readme.write_bytes((ROOT / "README.md").read_bytes())
    report.write(report.stored(report.RESULTS), report.stored(report.REHEARSAL), readme, document)
    assert readme.read_text(encoding="utf-8") == (ROOT / "README.md").read_text(encoding="utf-8")
    assert document.read_text(encoding="utf-8") == report.DOCUMENT.read_text(encoding="utf-8")


def test_the_readme_has_both_speeds_of_five_engines_and_no_target(stored):
    text = report.readme_part(stored)
    table = report.short_table(stored)
    assert table in text and "target" in text and "met" not in table
    assert len(table.splitlines()) == 2 + 5
    assert row(table, OURS) == ["100 MB", "100", "1,000"]
    assert row(table, "llama.cpp") == ["not installed: llama_cpp", "", ""]
    assert row(table, "optimum-intel generate") == ["not measured", "", ""]


def test_the_rehearsal_has_a_row_per_step_and_the_bandwidth_utilization():
    about = {"cpu": "A CPU", "cores": 2, "memory_gib": 8, "system": "Linux"}
    step = {"step": "export", "seconds": 99.6, "memory_gib": 10.44, "disk_gib": 9.66, "note": "slow"}
    decode = {"weight_bytes": 2_670_000_000, "tokens_per_second": [4.0, 6.0, 5.0], "limit": [10.0, 10.0, 10.0]}
    text = report.rehearsal_part({"about": about, "steps": [step], "decode": decode})
    assert row(text, "export") == ["100 s", "10.4 GiB", "9.7 GiB", "slow"]
    assert "decode reached a median of 5.0 tokens/s, a bandwidth utilization of 0.50." in text
    gain = {"plain": [100.0, 90.0], "lookup": [50.0, 45.0], "tokens_per_pass": 2.5}
    decode["replayed"] = {"rewrite": gain, "prose": {"plain": [100.0], "lookup": [100.0], "tokens_per_pass": 1.0}}
    told = report.rehearsal_part({"about": about, "steps": [step], "decode": decode})
    assert "is 2.00 times as fast for rewriting a text (2.50 tokens per pass), and 1.00 times as fast for free" in told


def test_a_replayed_answer_is_the_recorded_one_in_fewer_passes(lm, monkeypatch):
    """With lookup a text that repeats itself takes fewer passes, and one of new tokens as many; no weights matter."""
    model = lm.model
    texts = {"rewrite": [([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6] * 4)], "prose": [([1, 2], list(range(3, 40)))]}
    monkeypatch.setattr(replay, "record", lambda: texts)
    monkeypatch.setattr(PassTimes, "cost", lambda times, length, share=0: 1 + length / 100)
    found = replay.replay(model)
    assert found["rewrite"]["tokens_per_pass"] > 2
    assert found["prose"]["tokens_per_pass"] == 1
    assert [len(found[name][side]) for name in texts for side in ("plain", "lookup")] == 4 * [replay.ROUNDS]


def test_results_of_another_machine_are_not_mixed_with_these():
    here = run.about(run.QUICK)
    assert json.loads(json.dumps(here)) == here, "it must come back from the file as it was"
    stored = {"about": here, "ask": {"seconds": [1.0]}}
    assert run.kept(stored, here) is stored
    for other in ({"cpu": "another"}, {"versions": {}}, {"tokens": 64}):
        assert run.kept(stored, here | other) == {"about": here | other}


def test_a_round_reads_each_length_and_writes_after_each_depth():
    assert run.Plan().plays() == [(32, 1), (1024, 1), (1, 128), (512, 128)]
    assert run.rounded({"a": [1.23456, {"b": 123456.0}], "c": 123456, "d": True}) == {
        "a": [1.235, {"b": 123500.0}],
        "c": 123456,
        "d": True,
    }


def test_an_engine_that_is_not_there_says_so(tmp_path, monkeypatch):
    (tmp_path / "llama_cpp.py").write_text("import surely_nobody_has_this", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with engines.Worker("llama.cpp") as worker:
        assert worker.ready == {"missing": "not installed: llama_cpp"}
    (tmp_path / "llama_cpp.py").write_text("open('/somebody/folder/x.gguf')", encoding="utf-8")
    with engines.Worker("llama.cpp") as worker:
        assert worker.ready["missing"].startswith("FileNotFoundError")
        assert "somebody" not in worker.ready["missing"], "a table has no folders of this machine"


@pytest.mark.model
def test_pytorch_reads_the_bytes_of_the_checkpoint():
    """The embeddings are tied, so the file has them once and a token reads them once."""
    from safetensors import safe_open

    choice = settings.Settings()
    with safe_open(choice.checkpoint_dir / "model.safetensors", "np") as file:
        in_file = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118  no mapping
    assert [engines.bytes_per_token(ENGINES[name], choice)[0] for name in (BF16, FP32)] == [in_file, 2 * in_file]
    int4, _ = engines.bytes_per_token(ENGINES[OURS], choice)
    assert in_file / 4 < int4 < in_file / 2, "int4 and int8 mixed"


@pytest.mark.model
@pytest.mark.weekly
def test_two_engines_take_turns_on_the_same_export(tmp_path):
    readme, file = (ROOT / "README.md").read_bytes(), tmp_path / "results.json"
    names = [OURS, "optimum-intel generate"]
    argv = [
        sys.executable,
        ROOT / "bench" / "run.py",
        "--quick",
        "--only",
        "engines",
        "--results",
        file,
        "--rounds",
        "2",
    ]
    argv += [word for name in names for word in ("--engine", name)]
    environ = os.environ | {"TUTORIAL_MODEL": "smollm2-instruct", "TUTORIAL_DEVICE": "CPU"}
    done = subprocess.run(argv, cwd=ROOT, env=environ, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    results = json.loads(file.read_text(encoding="utf-8"))
    assert list(results["engines"]) == names
    for engine in results["engines"].values():
        for what in ("prefill 8", "prefill 16", "prefill 32", "decode 0", "decode 16"):
            assert len(engine[what]) == 2 and min(engine[what]) > 0, what
        assert engine["load_seconds"] > 0 and engine["kv"] == "u8"
        assert engine["weight_bytes"] == results["engines"][OURS]["weight_bytes"], "the same export"
    # Not that of the other: joined products round otherwise.  That both loops are one, exactly, test_generate.py shows.
    assert results["engines"][OURS]["same_ids_as_ours"] is True
    assert report.document(results, report.stored(report.REHEARSAL)) in done.stdout
    assert str(ROOT) not in file.read_text(encoding="utf-8")
    assert (ROOT / "README.md").read_bytes() == readme
