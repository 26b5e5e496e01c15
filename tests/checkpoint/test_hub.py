"""fetch() of the document's model against a hub on loopback that works, fails, lies and goes away."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub import PHI3, Hub, tiny_phi3

from helpers.checkpoint.fetch import fetch as fetch_here
from helpers.checkpoint.hub import _Progress, from_hub, hub_error
from helpers.errors import TutorialError

ROOT = Path(__file__).parents[2]
WEIGHTS = "model-00001-of-00001.safetensors"


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    return tiny_phi3(tmp_path_factory.getbasetemp())


@pytest.fixture
def hub(repository):
    with Hub(repository) as hub:
        yield hub


@pytest.fixture
def fetch(hub, tmp_path):
    """fetch(HF_ENDPOINT=…) runs the command line as a reader would, in a process of its own."""

    def run(**environ):
        environ = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DOWNLOAD_TIMEOUT": "2"} | environ
        environ |= {"TUTORIAL_MODEL_ROOT": str(tmp_path / "model"), "HF_HOME": str(tmp_path / "hf"), "PYTHONUTF8": "1"}
        argv = [sys.executable, "-m", "helpers", "fetch", "--model", PHI3.name]
        options = {"cwd": ROOT, "env": os.environ | environ, "capture_output": True, "encoding": "utf-8", "timeout": 60}
        ran = subprocess.run(argv, **options)
        assert "Traceback" not in ran.stderr
        return ran

    run.checkpoint = tmp_path / "model" / PHI3.name / "checkpoint"
    return run


def whole(fetch, repository):
    """The checkpoint's files are the repository's data files, byte for byte, and no others."""
    data = {file.name: file.read_bytes() for file in repository.iterdir() if file.suffix != ".py"}
    return {file.name: file.read_bytes() for file in fetch.checkpoint.iterdir()} == data


def refused(ran, fetch, *words):
    """It ended with exit code 1 and a sentence that has `words`; nothing that looks finished is there."""
    assert ran.returncode == 1, ran.stdout + ran.stderr
    sentence = ran.stderr.strip().splitlines()[-3:]
    assert all(word in " ".join(sentence) for word in words), ran.stderr
    assert not fetch.checkpoint.exists()
    return True


def test_the_data_files_arrive_and_no_code(hub, fetch, repository):
    ran = fetch()
    assert ran.returncode == 0, ran.stderr
    assert whole(fetch, repository)
    assert "MIT" in ran.stdout and PHI3.revision in ran.stdout, "licence and revision come before the bytes"
    assert "modeling_phi3.py" in hub.files() and hub.asked["GET modeling_phi3.py"] == 0
    api = [asked for asked in hub.asked if "/api/" in asked]
    assert api == [f"GET /api/models/{PHI3.origin}/revision/{PHI3.revision}"], "the pinned revision, never main"
    assert ran.stderr == "" and "\r" not in ran.stdout, "no progress spam in a log"
    assert "nothing to do" in fetch(HF_ENDPOINT="http://127.0.0.1:9").stdout, "the second run needs no hub"


def test_an_interrupted_download_goes_on_where_it_stopped(hub, fetch, repository):
    size = (repository / WEIGHTS).stat().st_size
    hub.trim[WEIGHTS] = at = 25 * 2**20
    assert refused(fetch(), fetch, "what has arrived is kept")
    first = dict(hub.sent)
    hub.trim.clear(), hub.status.clear()
    assert fetch().returncode == 0
    assert whole(fetch, repository)
    again = {name for name, sent in hub.sent.items() if sent > first.get(name, 0)}
    assert "config.json" in first and "config.json" not in again, "what was complete does not move again"
    # The client keeps what came in steps of 10 MiB.
    assert hub.sent[WEIGHTS] - first[WEIGHTS] == size - 20 * 2**20 < size - at + 10 * 2**20


def test_an_interrupted_download_is_not_believed_when_the_hub_is_gone(hub, fetch):
    hub.status[WEIGHTS] = 500
    assert refused(fetch(), fetch)
    assert refused(fetch(HF_ENDPOINT="http://127.0.0.1:9"), fetch, "HTTPS_PROXY")


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_wrong_content_is_noticed_and_the_next_run_repairs_it(hub, fetch, repository, name):
    hub.spoiled.add(name)
    assert refused(fetch(), fetch, name, "not the file that was published")
    hub.spoiled.clear()
    assert fetch().returncode == 0
    assert whole(fetch, repository)


@pytest.mark.parametrize(
    "where, status, words",
    [("/api/", 401, "token"), ("/api/", 404, "HF_ENDPOINT"), ("/api/", 429, "Wait"), ("/api/", 500, "Wait")]
    + [("config.json", 403, "token"), (WEIGHTS, 500, "Wait")],
)
def test_each_refusal_gets_its_sentence(hub, fetch, where, status, words):
    hub.status[where] = status
    assert refused(fetch(), fetch, str(status), words)


def test_another_repository_or_revision_is_refused_as_the_hub_does(hub, fetch):
    hub.commit = "0" * 40
    assert refused(fetch(), fetch, f"{PHI3.origin} at revision {PHI3.revision[:7]}", "404")


def test_a_log_in_page_in_the_way_is_named(hub, fetch):
    hub.status["/api/"] = 200
    assert refused(fetch(), fetch, "not a hub", "log-in page")


def test_a_silent_hub_is_not_waited_for_forever(hub, fetch):
    hub.silent = True
    assert refused(fetch(), fetch, "timed out")


def test_no_hub_at_all(fetch):
    assert refused(fetch(HF_ENDPOINT="http://127.0.0.1:9"), fetch, "HF_ENDPOINT", "HTTPS_PROXY")
    assert refused(fetch(HF_HUB_OFFLINE="1"), fetch, "HF_HUB_OFFLINE")


def test_a_name_that_leads_out_of_the_folder_is_not_wanted():
    from helpers.checkpoint.hub import _is_wanted

    assert [name for name in ("config.json", "../config.json", "a/b.json", "/b.json", "x.py") if _is_wanted(name)] == [
        "config.json"
    ]


def test_the_hub_of_these_tests_speaks_as_the_real_one(hub, repository):
    """What huggingface_hub itself makes of it, in this process: list, tree, metadata, snapshot."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    api = HfApi(endpoint=hub.url, token=False)
    assert api.model_info(PHI3.origin).sha == PHI3.revision
    tree = {entry.path: entry for entry in api.list_repo_tree(PHI3.origin)}
    assert set(tree) == {file.name for file in repository.iterdir()}
    url = hf_hub_url(PHI3.origin, WEIGHTS, endpoint=hub.url)
    metadata = get_hf_file_metadata(url, token=False)
    assert (metadata.etag, metadata.commit_hash) == (tree[WEIGHTS].lfs.sha256, PHI3.revision)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("microsoft/another")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(PHI3.origin, revision="0" * 40)
    with pytest.raises(EntryNotFoundError):
        get_hf_file_metadata(hf_hub_url(PHI3.origin, "nothing.json", endpoint=hub.url), token=False)
    assert json.loads((repository / "config.json").read_text())["random_weights"] is True


# In this process, from a repository of 3 MiB.

MIB = 2**20
FILES = {
    "config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "LICENSE": b"",
    "tokenizer.json": b"{}" + b" " * 5000,
    "tokenizer.model": bytes(100),
    "model.safetensors": (2).to_bytes(8, "little") + b"{}" + bytes(range(256)) * (3 * 2**12 - 1) + bytes(246),
}
OTHERS = {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"a pickle", "README.md": b"Hello."}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A hub with FILES and OTHERS, which huggingface_hub takes for its own."""
    from huggingface_hub import constants

    repository = tmp_path / "repository"
    repository.mkdir()
    for name, data in (FILES | OTHERS).items():
        (repository / name).write_bytes(data)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with Hub(repository) as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


@pytest.fixture
def part(tmp_path):
    """The folder in which a download is made, and goes on."""
    folder = tmp_path / "part"
    folder.mkdir()
    return folder


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_data_comes_and_code_only_where_the_catalog_trusts_it(small, part):
    from_hub(PHI3, part)
    assert content(part) == FILES
    from_hub(replace(PHI3, trust_remote_code=True), part)
    assert content(part) == FILES | {"modeling.py": OTHERS["modeling.py"]}


def test_the_bytes_are_counted_over_all_files_and_with_those_of_the_last_time(small, part, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    (part / "model.safetensors").write_bytes(FILES["model.safetensors"][:MIB])
    from_hub(PHI3, part)
    shown = [text.rstrip() for text in capsys.readouterr().out.split("\r")[1:]]
    assert list(dict.fromkeys(shown)) == [*(f"downloading {n} of 3 MiB" for n in (0, 1, 3)), "downloaded"]


@pytest.mark.parametrize("compresses", [False, True])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_goes_on_from_what_is_here(small, part, name, compresses):
    small.compresses = compresses
    (part / name).write_bytes(FILES[name][:1234])
    (part / "config.json").write_bytes(FILES["config.json"])
    from_hub(PHI3, part)
    assert content(part) == FILES
    assert small.sent[name] == len(FILES[name]) - 1234 and "GET config.json" not in small.asked


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_is_not_the_published_one_is_deleted_and_comes_anew(small, part, name):
    wrong = FILES[name][:-1] + b"!"
    (part / name).write_bytes(wrong)
    with pytest.raises(TutorialError, match=f"{name} is not the file that was published"):
        from_hub(PHI3, part)
    assert not (part / name).exists()
    (part / name).write_bytes(wrong + b"and more")  # longer than the hub's: of another revision, say
    from_hub(PHI3, part)
    assert content(part) == FILES


@pytest.mark.parametrize("missing, words", [("config.json", "no config.json"), ("model.safetensors", "no weights")])
def test_a_repository_that_lacks_what_a_model_needs_is_refused(small, part, missing, words):
    (small.folder / missing).unlink()
    with pytest.raises(TutorialError, match=f"{PHI3.origin}.* {words}"):
        from_hub(PHI3, part)


def test_a_hub_that_gives_no_hashes_is_not_believed(small, part, monkeypatch):
    monkeypatch.setattr(small, "entry", lambda name, key: {key: name, "size": len((FILES | OTHERS)[name])})
    with pytest.raises(TutorialError, match="cannot be checked"):
        from_hub(PHI3, part)
    assert content(part) == {}


@pytest.mark.parametrize("where", ["/api/", "config.json"])
@pytest.mark.parametrize("status, words", [(401, "token"), (403, "token"), (404, "HF_ENDPOINT"), (500, "Wait")])
def test_a_refusal_of_the_list_or_of_a_file_is_a_sentence(small, part, where, status, words):
    small.status[where] = status
    with pytest.raises(TutorialError, match=rf"\({status}\)(?s:.*){words}"):
        from_hub(PHI3, part)
    assert not (part / "config.json").exists() or (part / "config.json").stat().st_size == 0


def answered(status: int, words: str = "") -> Exception:
    error = OSError(words)
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    "error, words",
    [
        (answered(429), "too many requests .*429.*Wait"),
        (answered(500), "500.*Wait"),
        (answered(503), "503.*Wait"),
        (answered(499, "Closed"), "did not give org/it: Closed\n.*HTTPS_PROXY.*HF_ENDPOINT"),
        (OSError("\n Refused\nand more"), "did not give org/it: Refused\n"),
        (ConnectionResetError(), "did not give org/it: ConnectionResetError\n"),
    ],
    ids=str,
)
def test_what_the_hub_said_is_told_in_a_line_with_a_cure(error, words):
    said = hub_error(error, "org/it")
    assert re.search(words, str(said), re.DOTALL) and "and more" not in str(said)


def test_a_log_in_page_is_named_by_its_address_without_the_password(small, part, monkeypatch):
    from huggingface_hub import constants

    small.status["/api/"] = 200
    host = small.url.removeprefix("http://")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://me:secret@{host}")
    with pytest.raises(TutorialError, match=f"^{host} answers, but it is not a hub") as caught:
        from_hub(PHI3, part)
    assert "secret" not in str(caught.value) and "log-in page" in caught.value.hint


def test_a_token_that_no_header_can_carry_is_named_by_its_variable(small, part, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "ключ")
    with pytest.raises(TutorialError, match="HF_TOKEN"):
        from_hub(PHI3, part)


def test_a_silent_hub_is_given_up_after_the_client_s_own_time(small, part, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    small.silent = True
    with pytest.raises(TutorialError, match="timed out"):
        from_hub(PHI3, part)


def test_a_full_disk_is_named_and_what_came_is_kept(small, small_disk):
    with pytest.raises(TutorialError, match="disk filled up"):
        from_hub(PHI3, small_disk)
    assert (small_disk / "config.json").read_bytes() == FILES["config.json"]


def test_a_file_that_is_begun_anew_again_and_again_is_given_up():
    progress = _Progress(100)
    for _ in range(3):
        progress.update(0), progress.update(50), progress.update(-50)
    with pytest.raises(TutorialError, match="begun anew"):
        progress.update(-1)


def test_a_fetch_says_the_size_of_what_came_and_goes_on_after_a_failure(small, tmp_path):
    checkpoint, said = tmp_path / "checkpoint", []
    small.status["tokenizer.json"] = 500
    model = replace(PHI3, checkpoint_gib=0)
    with pytest.raises(TutorialError):
        fetch_here(model, checkpoint, said.append)
    assert not checkpoint.exists()
    small.status.clear()
    assert fetch_here(model, checkpoint, said.append) == checkpoint
    assert content(checkpoint) == FILES and said[-1].endswith("is complete: 3 MB.")
    assert small.asked["GET model.safetensors"] == small.asked["GET config.json"] == 1
    assert model.origin in said[0] and "7290 MiB" in said[0]
