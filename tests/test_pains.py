"""docs/pains.md: 51 problems, each with proofs that exist and sentences that the program says.

Below stand the proofs that belong to no other test file.
"""

from __future__ import annotations

import ast
import copy
import re
import tomllib
from functools import cache

import pytest
from fakes import WORDS, fake_conversation, tokenizer
from loaded import load
from tiny import TEMPLATE

from helpers import export, settings
from helpers.metrics.quality import REFERENCE
from helpers.settings import ROOT

LINK = re.compile(r"\[[^\]]+\]\((https://github.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+)\)")


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@cache
def messages() -> list[str]:
    """Return every text in helpers/, with … in place of what is inserted at run time."""
    found = set()
    for path in ROOT.glob("helpers/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return sorted(found)


def errors_of(number: int, cells: list[str]):
    """Yield what is wrong with a row of the table."""
    named, pain, state, how, *proof = cells
    links, quotes, proofs = LINK.findall(pain), re.findall(r"“([^”]+)”", how), re.findall(r"`([^`]+)`", "".join(proof))
    if named != str(number) or state not in ("impossible", "answered", "out of scope"):
        yield f"is row {named}, {state}"
    if not links or pain.count("](") != len(links) or len(set(links)) != len(links):
        yield "has no link, or one that is not to an issue or a pull request, or one twice"
    if state == "out of scope":
        return
    if not proofs or state == "answered" and not quotes and "Page" not in how:
        yield "has no proof, or is answered by no sentence"
    for proof in proofs:
        file, _, test = proof.partition("::")
        if not (ROOT / file).is_file() or (test not in names_in(file) if test else not file.endswith(".ipynb")):
            yield f"names {proof}, which does not exist"
    for quote in quotes:
        pattern = re.compile(re.escape(quote.strip()).replace("…", ".*"), re.DOTALL)
        if not any(pattern.search(message) for message in messages()):
            yield f"quotes “{quote}”, which no message says"


def test_each_row_has_links_proofs_and_sentences_of_the_program():
    lines = (ROOT / "docs" / "pains.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| \n").split(" | ") for line in lines if re.match(r"\| \d", line)]
    wrong = [f"{row[0]} {error}" for number, row in enumerate(rows, 1) for error in errors_of(number, row)]
    assert not wrong, "\n".join(wrong)
    assert len(rows) == 51


def test_optimum_cli_runs_without_a_path_to_programs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _ = export._run(["optimum-cli", "export", "openvino", "--help"], tmp_path / "log", tmp_path)
    output = (tmp_path / "log").read_text(encoding="utf-8", errors="replace")
    assert code == 0 and "--group-size" in output, output


def test_no_compiled_model_is_kept_unless_cache_dir_is_set(phi3_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(phi3_folder.rglob("*"))
    load(phi3_folder, **settings.Settings().ov_config)
    assert sorted(phi3_folder.rglob("*")) == before and not list(tmp_path.rglob("*"))
    load(phi3_folder, CACHE_DIR=str(tmp_path / "kept"))
    assert list((tmp_path / "kept").iterdir()), "OpenVINO does not keep one: this test is no longer needed"


@pytest.mark.weekly
def test_phi3_agrees_with_pytorch_beyond_its_sliding_window(phi3_folder, tmp_path_factory):
    """Attention reaches back 2,047 tokens.  Beyond them, the export agrees with PyTorch, and not without the window."""
    import torch
    from hub import tiny_phi3
    from transformers import AutoConfig, AutoModelForCausalLM

    source = tiny_phi3(tmp_path_factory.getbasetemp())
    ids = torch.randint(10, 2000, (1, 2600), generator=torch.Generator().manual_seed(0))
    every = torch.ones_like(ids)
    ours = load(phi3_folder, **REFERENCE)(ids, attention_mask=every).logits[0]  # [2600, vocabulary]

    def similarity(window: int | None):
        config = AutoConfig.from_pretrained(source, sliding_window=window)
        exact = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=torch.float32).eval()
        with torch.no_grad():
            theirs = exact(ids, attention_mask=every).logits[0]
        return torch.nn.functional.cosine_similarity(theirs, ours, dim=-1)  # [2600]

    with_window, without = similarity(2047), similarity(None)
    assert torch.equal(with_window[:2047], without[:2047]), "the window has a different length"
    assert with_window[2100:].mean() > with_window[:2000].mean() - 0.01
    assert with_window[2100:].mean() > without[2100:].mean() + 0.004


def test_a_template_that_leaves_the_system_message_out_gets_its_words():
    conversation, tok = fake_conversation(WORDS), copy.copy(tokenizer())
    conversation.tok, conversation.system = tok, "Be brief."
    leaves_out = TEMPLATE.replace("in messages", "in messages if m.role != 'system'")
    for template, named in (TEMPLATE, False), (leaves_out, True):
        tok.chat_template = template
        answer = conversation.say("Hello")
        assert "".join(answer) == WORDS
        assert any("This model has no system role" in warning for warning in answer.warnings()) is named
        assert tok.decode(conversation.prompt()).count("Be brief.") == 1


def test_a_template_that_leaves_a_message_out_is_named():
    conversation, tok = fake_conversation(WORDS), copy.copy(tokenizer())
    conversation.tok = tok
    for template, named in (TEMPLATE, False), (TEMPLATE.replace("in messages", "in messages[1:]"), True):
        tok.chat_template = template
        answer = conversation.say("Hello")
        assert "".join(answer) == WORDS
        sentence = "This model's chat template leaves out message 0, with the role user."
        assert any(sentence in warning for warning in answer.warnings()) is named


def test_there_is_no_output_widget_and_no_gradio():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    assert not [line for line in needed if re.match("gradio|streamlit", line)]
    sources = [*ROOT.glob("helpers/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    pattern = re.compile(r"\bOutput\(\)|widgets\.Output\b|import .*\bOutput\b|import gradio")
    assert [path.name for path in sources if pattern.search(path.read_text(encoding="utf-8"))] == []
