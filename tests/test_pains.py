"""docs/pains.md keeps its word: 33 pains, each with proofs that exist and sentences that the source has.

Below it stand the proofs that no other file has a room for.
"""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache

import pytest
from loaded import load

from helpers import export, settings
from helpers.checkpoint.random_weights import phi3_tokenizer
from helpers.errors import TutorialError
from helpers.metrics.quality import REFERENCE
from helpers.settings import ROOT
from helpers.tokenize import prompt_ids

TEXT = (ROOT / "docs" / "pains.md").read_text(encoding="utf-8")
ROWS = [line.strip("| \n").split(" | ") for line in TEXT.splitlines() if re.match(r"\| \d", line)]
LINK = re.compile(r"\[[^\]]+\]\(([^\s)]+)\)")
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])


def test_they_are_33():
    assert [row[0] for row in ROWS] == [str(number) for number in range(1, 34)]
    assert {row[2] for row in ROWS} == {"impossible", "answered", "out of scope"}


@rows
def test_a_pain_is_somebodys(row):
    links = LINK.findall(row[1])
    assert links and row[1].count("](") == len(links), "a link that is none"
    for link in links:
        assert re.fullmatch(r"https://github.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", link), link
    assert len(set(links)) == len(links)


@rows
def test_a_proof_exists_and_a_reason_is_given(row):
    if row[2] == "out of scope":
        assert len(row) == 4 and len(row[3].strip("| ")) > 40, "no reason"
        return
    proofs = re.findall(r"`([^`]+)`", row[4])
    assert proofs, "nothing proves it"
    for proof in proofs:
        file, _, test = proof.partition("::")
        assert (ROOT / file).is_file(), file
        assert file.endswith(".ipynb") if not test else test in names_in(file), proof


@rows
def test_a_sentence_is_the_programs(row):
    sentences = re.findall(r"“([^”]+)”", row[3])
    assert sentences or row[2] != "answered" or "Page" in row[3], "answered by which sentence?"
    for sentence in sentences:
        pattern = re.escape(sentence.strip()).replace("…", ".*")
        assert any(re.search(pattern, text, re.DOTALL) for text in texts()), sentence


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@cache
def texts() -> frozenset[str]:
    """Every text in helpers/, with … in place of what is inserted when it is used."""
    found = set()
    for path in ROOT.glob("helpers/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


def test_optimum_cli_is_run_where_no_program_can_be_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _ = export._run(["optimum-cli", "export", "openvino", "--help"], tmp_path / "log", tmp_path)
    words = (tmp_path / "log").read_text(encoding="utf-8", errors="replace")
    assert code == 0 and "--group-size" in words, words


def test_no_compiled_model_is_kept(phi3_folder, tmp_path, monkeypatch):
    """Neither in the model's folder nor where one works; with a folder for it, one is kept there."""
    monkeypatch.chdir(tmp_path)
    before = sorted(phi3_folder.rglob("*"))
    load(phi3_folder, **settings.Settings().ov_config)
    assert sorted(phi3_folder.rglob("*")) == before and not list(tmp_path.rglob("*"))
    load(phi3_folder, CACHE_DIR=str(tmp_path / "kept"))
    assert list((tmp_path / "kept").iterdir()), "OpenVINO keeps nothing any more: drop this test"


def test_phi3_reads_on_beyond_its_window(phi3_folder, tmp_path_factory):
    """Its attention reaches back 2,047 tokens.  Beyond, the export follows PyTorch as before, not one without it."""
    import torch
    from hub import tiny_phi3
    from transformers import AutoConfig, AutoModelForCausalLM

    source = tiny_phi3(tmp_path_factory.getbasetemp())
    ids = torch.randint(10, 2000, (1, 2600), generator=torch.Generator().manual_seed(0))
    every = torch.ones_like(ids)
    ours = load(phi3_folder, **REFERENCE)(ids, attention_mask=every).logits[0]  # [2600, vocabulary]

    def alike(window: int | None):
        config = AutoConfig.from_pretrained(source, sliding_window=window)
        exact = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=torch.float32).eval()
        with torch.no_grad():
            theirs = exact(ids, attention_mask=every).logits[0]
        return torch.nn.functional.cosine_similarity(theirs, ours, dim=-1)  # [2600]

    follows, without = alike(2047), alike(None)
    assert torch.equal(follows[:2047], without[:2047]), "the window begins elsewhere"
    assert follows[2100:].mean() > follows[:2000].mean() - 0.01
    assert follows[2100:].mean() > without[2100:].mean() + 0.004


def test_a_template_that_leaves_a_message_out_is_said():
    tok = phi3_tokenizer()
    tok.chat_template = tok.chat_template.replace("in messages %}", "in messages if message.role != 'system' %}")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert prompt_ids(tok, messages[1:])
    with pytest.raises(TutorialError, match="leaves out message 0, of the role system"):
        prompt_ids(tok, messages)


def test_there_is_no_output_widget_and_no_gradio():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    assert not [line for line in needed if re.match("gradio|streamlit", line)]
    sources = [*ROOT.glob("helpers/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    pattern = re.compile(r"\bOutput\(\)|widgets\.Output\b|import .*\bOutput\b|import gradio")
    assert [path.name for path in sources if pattern.search(path.read_text(encoding="utf-8"))] == []
