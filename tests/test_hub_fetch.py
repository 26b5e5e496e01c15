"""fetch() of the document's model against a hub on loopback that works, fails, lies and goes away."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import PHI3, Hub, tiny_phi3

ROOT = Path(__file__).parent.parent
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
    hub.cut[WEIGHTS] = at = 25 * 2**20
    assert refused(fetch(), fetch, "what has arrived is kept")
    first = dict(hub.sent)
    hub.cut.clear(), hub.status.clear()
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
    from helpers.hub import _is_wanted

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
