"""fetch() of the sample's model from a hub on loopback that works, fails, lies and disappears."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest
from hub import PHI3, Hub, _hash, tiny_phi3
from hypothesis import example, given
from strategies import NOT_JSON, NOT_OBJECTS, reshaped

from helpers.catalog import find
from helpers.checkpoint import hub as hub_module
from helpers.checkpoint.fetch import fetch
from helpers.checkpoint.hub import _is_wanted, from_hub, hub_error, listing
from helpers.errors import TutorialError
from helpers.files import GIB, MANIFEST, find_damaged, read_manifest
from helpers.settings import ROOT

MIB = 2**20
WEIGHTS = "model.safetensors"
FILES = {
    "config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "LICENSE": b"",
    "tokenizer.json": b"{}" + b" " * 5000,
    "tokenizer_config.json": b"{}",
    "tokenizer.model": bytes(100),
    WEIGHTS: (2).to_bytes(8, "little") + b"{}" + bytes(range(256)) * (3 * 2**12 - 1) + bytes(246),
}
OTHERS = {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"a pickle", "README.md": b"Hello.", MANIFEST: b"{}"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with FILES and OTHERS, which huggingface_hub, in this process, takes for its own."""
    from huggingface_hub import constants

    repository = tmp_path / "repository"
    repository.mkdir()
    for name, data in (FILES | OTHERS).items():
        (repository / name).write_bytes(data)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with Hub(repository) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


@pytest.fixture
def part(tmp_path):
    """The folder in which a download is made, and continues."""
    folder = tmp_path / "part"
    folder.mkdir()
    return folder


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != MANIFEST}


def test_data_is_downloaded_and_code_only_where_the_catalog_trusts_it(hub, part):
    from_hub(PHI3, part)
    assert content(part) == FILES and not (part / MANIFEST).exists()
    api = [asked for asked in hub.asked if "/api/" in asked]
    assert api == [f"GET /api/models/{PHI3.origin}/revision/{PHI3.revision}"], "the pinned revision, never main"
    from_hub(replace(PHI3, trust_remote_code=True), part)
    assert content(part) == FILES | {"modeling.py": OTHERS["modeling.py"]}


def test_a_name_that_leads_out_of_the_folder_is_not_wanted():
    names = "config.json", "../config.json", "a/b.json", "/b.json", "x.py", "a\\\\b.json", "C:b.json", ".b.json"
    names += "\x1b[2J.json", "b.json\n", "b\0.json", "é.json", "x" * 200 + ".json", "", "con .json", MANIFEST
    assert [name for name in names if _is_wanted(name)] == ["config.json"]


def test_only_names_of_data_are_wanted():
    """An IR has files of its own; no other repository needs them."""
    graphs = [f"openvino_{part}.{kind}" for part in ("model", "tokenizer", "detokenizer") for kind in ("xml", "bin")]
    licences = ["LICENSE", "LICENSE.md", "LICENSE.txt"]
    others = ["LICENSE.py", "LICENSE.exe", "LICENSE.txt.sh", "LICENSES", "openvino_evil.bin", "openvino_evil.xml"]
    others += ["openvino_model.bin.py", "openvino_tokenizer.so", "pytorch_model.bin", "tokenizer.model.py"]
    assert [name for name in licences + others + graphs if _is_wanted(name)] == licences
    assert [name for name in licences + others + graphs if _is_wanted(name, is_ir=True)] == licences + graphs


def test_graphs_are_downloaded_only_where_the_repository_is_an_ir(hub):
    for name in ("openvino_tokenizer.xml", "openvino_tokenizer.bin", "openvino_evil.bin", "LICENSE.py"):
        (hub.folder / name).write_bytes(b"data")
    assert {entry.name for entry in listing(PHI3)[1]} == {*FILES}
    (hub.folder / "openvino_model.xml").write_bytes(b"<net></net>")
    more = {"openvino_model.xml", "openvino_tokenizer.xml", "openvino_tokenizer.bin"}
    assert {entry.name for entry in listing(PHI3)[1]} == {*FILES} - {WEIGHTS} | more


def test_progress_counts_all_files_and_what_an_earlier_run_downloaded(hub, part, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    (part / WEIGHTS).write_bytes(FILES[WEIGHTS][:MIB])
    from_hub(PHI3, part)
    shown = [text.rstrip() for text in capsys.readouterr().out.split("\r")[1:]]
    assert list(dict.fromkeys(shown)) == [*(f"downloading {n} of 3 MiB" for n in (0, 1, 2, 3)), "downloaded"]


@pytest.mark.parametrize("compresses", [False, True])
@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_download_continues_inside_a_file(hub, part, name, compresses):
    hub.compresses = compresses
    (part / name).write_bytes(FILES[name][:1234])
    (part / "config.json").write_bytes(FILES["config.json"])
    from_hub(PHI3, part)
    assert content(part) == FILES
    assert hub.sent[name] == len(FILES[name]) - 1234 and "GET config.json" not in hub.asked


def test_an_interrupted_download_goes_on_where_it_stopped(hub, part):
    hub.trim[WEIGHTS] = 5 * MIB // 2
    with pytest.raises(TutorialError, match="what has arrived is kept"):
        from_hub(PHI3, part)
    before = hub.sent[WEIGHTS]
    assert (part / WEIGHTS).stat().st_size == 5 * MIB // 2, "each byte that arrived"
    hub.trim.clear(), hub.status.clear()
    from_hub(PHI3, part)
    assert content(part) == FILES and hub.sent[WEIGHTS] - before == len(FILES[WEIGHTS]) - 5 * MIB // 2


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_wrong_content_is_noticed_and_the_next_run_repairs_it(hub, part, name):
    hub.spoiled.add(name)
    with pytest.raises(TutorialError, match=f"{name} is not the published file"):
        from_hub(PHI3, part)
    assert not (part / name).exists()
    hub.spoiled.clear()
    (part / name).write_bytes(FILES[name] + b"and more")  # longer than the hub's, as of a different revision
    from_hub(PHI3, part)
    assert content(part) == FILES


BOUNDS = [
    ("bomb", True, "config.json", "sends a compressed file"),
    ("endless", {"config.json"}, "config.json", "sends more than the 2 bytes that config.json"),
    ("endless", {WEIGHTS}, WEIGHTS, "bytes that model.safetensors"),
    ("endless", {"listing"}, "listing", "more than the 16,777,216 bytes that its list of files"),
    ("trickles", {"tokenizer.json"}, "tokenizer.json", "less than 1,024 bytes a second"),
    ("trickles", {"listing"}, "listing", "less than 1,024 bytes a second"),
]


@pytest.mark.parametrize("how, what, name, words", BOUNDS)
def test_never_more_is_written_than_was_listed_and_a_trickle_ends(hub, part, monkeypatch, how, what, name, words):
    monkeypatch.setattr(hub_module, "WINDOW", 0.2)
    setattr(hub, how, what)
    with pytest.raises(TutorialError, match=words):
        from_hub(PHI3, part)
    assert all(len(data) <= len(FILES[name]) for name, data in content(part).items())
    assert hub.sent["listing"] < 40 * MIB


@pytest.mark.parametrize("where", ["listing", "files"])
def test_a_hub_that_answers_with_a_different_revision_is_refused(hub, part, monkeypatch, where):
    if where == "listing":
        hub.answers = "0" * 40
    else:  # it changes after the listing
        monkeypatch.setattr("helpers.files.ProgressLine.__init__", lambda _: setattr(hub, "answers", "0" * 40))
    with pytest.raises(TutorialError, match=f"answers with revision 0000000 of {PHI3.origin} instead of"):
        from_hub(PHI3, part)
    assert not any(content(part).values())


def test_a_repository_that_is_larger_than_the_catalog_says_is_refused(hub, part, monkeypatch):
    entry = hub.entry
    monkeypatch.setattr(hub, "entry", lambda name, key: entry(name, key) | {"size": 2**40})
    with pytest.raises(TutorialError, match="The hub lists [0-9,.]+ GiB"):
        from_hub(PHI3, part)
    assert content(part) == {}


LISTED = {
    "sha": PHI3.revision,
    "siblings": [{"rfilename": WEIGHTS, "size": 5, "blobId": "a1", "lfs": {"sha256": "b2"}}],
}


@given(info=reshaped(LISTED))
@example(info=LISTED)
def test_no_listing_is_too_strange(info):
    def answer(*_, **__):
        return nullcontext(
            SimpleNamespace(iter_raw=lambda: [json.dumps(info).encode()], url=httpx.URL("http://127.0.0.1:1"))
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "_get", answer)
        try:
            _, entries = listing(PHI3)
        except TutorialError as error:
            assert re.match(
                "127.0.0.1:1 answers, but it is not a hub|This hub gives no hash|The hub |microsoft", error.message
            )
        else:
            assert info["sha"] == PHI3.revision and [entry.name for entry in entries] == [WEIGHTS]


@pytest.mark.parametrize("data", [*NOT_JSON, *NOT_OBJECTS])
def test_a_listing_that_is_no_json_object_is_not_a_hubs(hub, part, monkeypatch, data):
    monkeypatch.setattr(json, "dumps", lambda *_: SimpleNamespace(encode=lambda: data))  # what the hub sends
    with pytest.raises(TutorialError, match="is not a hub"):
        from_hub(PHI3, part)


def test_only_what_the_hub_lists_gets_into_the_checkpoint(hub, fetched, tmp_path):
    """Whatever lies in the unfinished folder: it is deleted, and never written through."""
    mine = tmp_path / "mine.json"
    mine.write_bytes(b"mine")
    part = fetched.checkpoint.with_name("checkpoint.part-kept")
    (part / "deep" / "folder").mkdir(parents=True)
    (part / "deep" / "config.json").write_bytes(b"{}")
    (part / "special_tokens_map.json").write_bytes(b"{}")
    (part / "modeling.py").write_bytes(b"raise SystemExit")
    (part / "config.json").symlink_to(mine)
    (part / "tokenizer.json").hardlink_to(mine)
    (part / "tokenizer_config.json").mkdir()
    (part / WEIGHTS).symlink_to(tmp_path / "nowhere")
    assert content(fetched()) == FILES and mine.read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()


def test_an_unfinished_folder_that_is_a_link_is_not_followed(hub, fetched, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.txt").write_bytes(b"mine")
    fetched.checkpoint.with_name("checkpoint.part-kept").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert content(fetched()) == FILES
    assert content(tmp_path / "elsewhere") == {"mine.txt": b"mine"}


@pytest.mark.parametrize(
    "environ",
    [
        {"NO_PROXY": "localhost,[::1]", "HTTPS_PROXY": "http://127.0.0.1:9"},
        {"NO_PROXY": "fe80::/10", "HTTPS_PROXY": "http://127.0.0.1:9"},
        {"ALL_PROXY": "http://127.0.0.1:port"},
        {"HTTP_PROXY": "gopher://127.0.0.1:9"},
        {"HF_ENDPOINT": "http://127.0.0.1:abc"},
        {"HF_ENDPOINT": "http:" + "//[::1"},
    ],
)
def test_variables_that_the_client_refuses_are_named(hub, part, monkeypatch, environ):
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", environ.get("HF_ENDPOINT", hub.url))
    close_session()  # which keeps the proxies that it began with
    with pytest.raises(TutorialError, match="variable\\.\nCheck HF_ENDPOINT.*HF_TOKEN(?s:.*)NO_PROXY"):
        from_hub(PHI3, part)
    monkeypatch.undo()
    close_session()


def test_a_repository_without_safetensors_is_refused(hub, part):
    (hub.folder / WEIGHTS).unlink()
    with pytest.raises(TutorialError, match=f"{PHI3.origin} has no weights as safetensors"):
        from_hub(PHI3, part)


def test_a_hub_that_gives_no_hashes_is_refused(hub, part, monkeypatch):
    monkeypatch.setattr(hub, "entry", lambda name, key: {key: name, "size": len((FILES | OTHERS)[name])})
    with pytest.raises(TutorialError, match="cannot be checked"):
        from_hub(PHI3, part)
    assert content(part) == {}


@pytest.mark.parametrize("where", ["/api/", "config.json"])
@pytest.mark.parametrize("status, words", [(401, "token"), (403, "token"), (404, "HF_ENDPOINT"), (500, "Wait")])
def test_each_refusal_gets_its_sentence(hub, part, where, status, words):
    hub.status[where] = status
    with pytest.raises(TutorialError, match=rf"\({status}\)(?s:.*){words}"):
        from_hub(PHI3, part)
    assert not (part / "config.json").exists() or (part / "config.json").stat().st_size == 0


def test_a_revision_that_the_hub_lacks_is_named(hub, part):
    hub.commit = "0" * 40
    for revision, shown in ((PHI3.revision, PHI3.revision[:7]), ("release-2.0", "release-2.0")):
        words = rf"{PHI3.origin} at revision {shown} \(404\)(?s:.*)name, the revision"
        with pytest.raises(TutorialError, match=words):
            from_hub(replace(PHI3, revision=revision), part)


def answered(status: int, words: str = "") -> Exception:
    error = OSError(words)
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    "error, words",
    [
        (answered(429), "limits the requests .*429.*Wait"),
        (answered(500), "500.*Wait"),
        (answered(503), "503.*Wait"),
        (answered(499, "Closed"), "did not deliver org/it: Closed\n.*HTTPS_PROXY.*HF_ENDPOINT"),
        (OSError("\n Refused\nand more"), "did not deliver org/it: Refused\n"),
        (ConnectionResetError(), "did not deliver org/it: ConnectionResetError\n"),
    ],
    ids=str,
)
def test_the_hubs_answer_is_reported_in_a_line_with_a_hint(error, words):
    said = hub_error(error, "org/it")
    assert re.search(words, str(said), re.DOTALL) and "and more" not in str(said)


def test_a_log_in_page_in_the_way_is_named(hub, part, monkeypatch):
    from huggingface_hub import constants

    hub.status["/api/"] = 200
    host = hub.url.removeprefix("http://")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://me:secret@{host}")
    with pytest.raises(TutorialError, match=f"^{host} answers, but it is not a hub") as caught:
        from_hub(PHI3, part)
    assert "secret" not in str(caught.value) and "log-in page" in caught.value.hint


@pytest.mark.parametrize("where", ["", WEIGHTS])
def test_a_log_in_page_does_not_replace_what_has_arrived(hub, part, monkeypatch, where):
    """It comes with 200, as the whole file does from a server that knows no ranges."""

    def page(handler, *_):
        handler.start(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>")
        handler.wfile.write(b"<html>")

    (part / WEIGHTS).write_bytes(FILES[WEIGHTS][:MIB])
    handler = hub.server.RequestHandlerClass
    send_file = handler.send_file
    choose = lambda self, name: page(self) if where in name else send_file(self, name)  # noqa: E731
    monkeypatch.setattr(handler, "send_file", choose)
    with pytest.raises(TutorialError, match="web page(?s:.*)log-in page"):
        from_hub(PHI3, part)
    assert (part / WEIGHTS).read_bytes() == FILES[WEIGHTS][:MIB]


def test_a_token_that_no_header_can_carry_is_named_by_its_variable(hub, part, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "ключ")
    with pytest.raises(TutorialError, match="HF_TOKEN"):
        from_hub(PHI3, part)


def test_a_silent_hub_is_not_waited_for_forever(hub, part, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.silent = True
    with pytest.raises(TutorialError, match="timed out"):
        from_hub(PHI3, part)


def test_a_full_disk_is_named_and_what_arrived_is_kept(hub, small_disk):
    with pytest.raises(TutorialError, match="disk filled up"):
        from_hub(PHI3, small_disk)
    assert (small_disk / "config.json").read_bytes() == FILES["config.json"]


# fetch() as a whole: the folder is checked before it is renamed.


@pytest.fixture
def fetched(tmp_path):
    """fetched() fetches into `fetched.checkpoint`; `fetched.said` has what was reported."""

    def run():
        return fetch(replace(PHI3, checkpoint_gib=0), run.checkpoint, run.said.append)

    run.checkpoint, run.said = tmp_path / "checkpoint", []
    return run


def test_the_manifest_agrees_with_the_hub(hub, fetched):
    assert fetched() == fetched.checkpoint and content(fetched.checkpoint) == FILES
    assert fetched.said[-1].endswith("is complete: 3 MB.") and PHI3.origin in fetched.said[0]
    manifest = read_manifest(fetched.checkpoint)
    assert (manifest["source"], manifest["origin"], manifest["revision"]) == ("hub", PHI3.origin, PHI3.revision)
    for name in FILES:
        entry = hub.entry(name, "rfilename")
        assert manifest["files"][name]["bytes"] == entry["size"]
        assert manifest["files"][name]["sha256"] == entry.get("lfs", manifest["files"][name])["sha256"]
    assert {*manifest["files"]} == {*FILES} and find_damaged(fetched.checkpoint, (), hashes=True) == {}


def test_after_a_failure_the_next_fetch_continues(hub, fetched):
    hub.status["tokenizer.json"] = 500
    with pytest.raises(TutorialError):
        fetched()
    assert not fetched.checkpoint.exists()
    hub.status.clear()
    assert content(fetched()) == FILES
    assert hub.asked[f"GET {WEIGHTS}"] == hub.asked["GET config.json"] == 1


def test_a_download_continues_where_the_disk_has_room_for_the_rest(hub, fetched, monkeypatch):
    size = sum(map(len, FILES.values()))
    kept = fetched.checkpoint.with_name("checkpoint.part-kept")
    kept.mkdir()
    (kept / WEIGHTS).write_bytes(FILES[WEIGHTS][: 2 * MIB])
    for free in (size - 3 * MIB, size - MIB):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with nullcontext() if free > MIB else pytest.raises(TutorialError, match="of free disk space"):
            fetch(replace(PHI3, checkpoint_gib=size / GIB), fetched.checkpoint, fetched.said.append)
    assert content(fetched.checkpoint) == FILES


@pytest.fixture
def open_model(hub, tmp_path):
    """open_model() fetches the hub's files as a model that is not in the catalog."""
    hub.origin = "somebody/model"
    (hub.folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    return lambda: fetch(find(hub.origin), tmp_path / "root" / "checkpoint", report=lambda _: None)


@pytest.mark.parametrize("lacks", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("is_ir", [False, True])
def test_a_needed_file_that_the_repository_lacks_is_named_before_the_weights_arrive(
    hub, open_model, tmp_path, lacks, is_ir
):
    (hub.folder / lacks).unlink()
    for name in ("model", "tokenizer") if is_ir else ():
        (hub.folder / f"openvino_{name}.xml").write_text("<net></net>", encoding="utf-8")
    more = ", openvino_detokenizer.xml, openvino_model.bin" if is_ir else ""
    names = ", ".join(sorted([lacks, *more.split(", ")[1:]]))
    with pytest.raises(TutorialError, match=f"somebody/model lacks {names}[.]\nChoose") as caught:
        open_model()
    assert "mirror" not in caught.value.hint, "nothing is wrong with the hub"
    assert not hub.sent[WEIGHTS] and not (tmp_path / "root").exists()


def test_an_adapter_with_a_configuration_is_an_adapter(hub, open_model):
    (hub.folder / WEIGHTS).rename(hub.folder / "adapter_model.safetensors")
    (hub.folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TutorialError, match="is an adapter"):
        open_model()


def test_a_configuration_that_is_no_json_is_the_hubs_to_mend(hub, open_model):
    (hub.folder / "config.json").write_text("<html>", encoding="utf-8")
    with pytest.raises(TutorialError, match="config.json is not a JSON object") as caught:
        open_model()
    assert "Delete that folder" not in caught.value.hint, "there is none"


CHOOSES = b'{"model_type": "llama", "transformers_weights": "other.safetensors.index.json"}'


def test_a_configuration_that_selects_other_weights_is_refused_before_they_arrive(hub, open_model, tmp_path):
    (hub.folder / "config.json").write_bytes(CHOOSES)
    with pytest.raises(TutorialError, match="somebody/model selects its weights .transformers_weights.*a pickle"):
        open_model()
    assert not hub.sent[WEIGHTS] and not (tmp_path / "root").exists()


def test_not_even_a_hub_that_is_trusted_may_select_other_weights(hub, fetched):
    """A mirror of the sample's model, whose configuration is not read before the download."""
    (hub.folder / "config.json").write_bytes(CHOOSES)
    with pytest.raises(TutorialError, match="config.json is unsafe: its transformers_weights"):
        fetched()
    assert not fetched.checkpoint.exists()


def test_files_of_other_programs_may_have_any_content(hub, fetched):
    """Else a correct download would be called damaged each time."""
    others = {
        "trainer_state.json": b'{"loss": NaN}',
        "modules.json": b'[{"idx": 0}]',
        "vocab.json": b" " * 2 + b"null",
        "pytorch_model.bin.index.json": b'{"weight_map": {"a": "pytorch_model.bin"}}',
        "training.safetensors": b"?",
    }
    for name, data in others.items():
        (hub.folder / name).write_bytes(data)
    assert content(fetched()) == FILES | others
    (fetched.checkpoint / MANIFEST).unlink()
    fetched()
    assert read_manifest(fetched.checkpoint)["adopted"] is True


INDEX = "model.safetensors.index.json"
SHARDS = b'{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}'


@pytest.mark.parametrize(
    "name, data, wrong",
    [
        ("config.json", None, "config.json is missing"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer.json", b"{", "tokenizer.json is not a JSON object in plain UTF-8"),
        ("config.json", b"[{}]", "config.json is not a JSON object in plain UTF-8"),
        (INDEX, b'{"weight_map": []}' + b" " * 99, f"{INDEX} is malformed"),
        (WEIGHTS, FILES[WEIGHTS][:9], "model.safetensors is incomplete"),
        (INDEX, SHARDS, "model-2.safetensors is missing"),
    ],
)
def test_an_incomplete_mirror_is_never_called_complete(hub, fetched, name, data, wrong):
    """Its own list of files agrees with what it delivers."""
    (hub.folder / name).write_bytes(data) if data else (hub.folder / name).unlink()
    with pytest.raises(TutorialError, match=f"checkpoint from {PHI3.origin} is damaged: {wrong}[.]\nIs HF_ENDPOINT"):
        fetched()
    assert not fetched.checkpoint.exists()
    complete = FILES | ({INDEX: SHARDS, "model-2.safetensors": FILES[WEIGHTS]} if name == INDEX else {})
    asked = dict(hub.asked)
    for file, content_of_it in complete.items():
        (hub.folder / file).write_bytes(content_of_it)
    _hash.cache_clear()
    assert content(fetched()) == complete
    again = {file for file in complete if hub.asked[f"GET {file}"] > asked.get(f"GET {file}", 0)}
    assert again <= {name, "model-2.safetensors", "LICENSE"}, "what arrived is kept"


# As a reader runs it, with the client's own environment variables.


@pytest.fixture
def command_line(tmp_path):
    def run(**environ):
        environ = {"HF_HUB_OFFLINE": "0", "HF_HUB_DOWNLOAD_TIMEOUT": "2", "PYTHONUTF8": "1"} | environ
        environ |= {"TUTORIAL_MODEL_ROOT": str(tmp_path / "model"), "HF_HOME": str(tmp_path / "hf")}
        argv = [sys.executable, "-m", "helpers", "fetch", "--model", PHI3.name]
        options = {"cwd": ROOT, "env": os.environ | environ, "capture_output": True, "encoding": "utf-8", "timeout": 60}
        return subprocess.run(argv, **options)

    run.checkpoint = tmp_path / "model" / PHI3.name / "checkpoint"
    return run


def test_the_command_line_fetches_once_and_then_needs_no_hub(command_line, tmp_path_factory):
    repository = tiny_phi3(tmp_path_factory.getbasetemp())
    with Hub(repository) as hub:
        ran = command_line(HF_ENDPOINT=hub.url)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert content(command_line.checkpoint) == {
        name: data for name, data in content(repository).items() if not name.endswith(".py")
    }
    assert "MIT" in ran.stdout and PHI3.revision in ran.stdout and "\r" not in ran.stdout
    assert "skipping download" in command_line(HF_ENDPOINT="http://127.0.0.1:9").stdout


@pytest.mark.parametrize("environ", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_hub_the_command_line_names_variables_to_check(command_line, environ):
    ran = command_line(**environ)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr and not command_line.checkpoint.exists()
    assert all(name in ran.stderr for name in (*environ, "HTTPS_PROXY", "HF_ENDPOINT"))


def test_the_hub_of_these_tests_answers_like_the_real_one(tmp_path_factory):
    """What huggingface_hub makes of its answers: list, tree, metadata, errors."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    repository = tiny_phi3(tmp_path_factory.getbasetemp())
    weights = next(file.name for file in repository.glob("*.safetensors"))
    with Hub(repository) as hub:
        api = HfApi(endpoint=hub.url, token=False)
        assert api.model_info(PHI3.origin).sha == PHI3.revision
        tree = {entry.path: entry for entry in api.list_repo_tree(PHI3.origin)}
        assert set(tree) == {file.name for file in repository.iterdir()}
        metadata = get_hf_file_metadata(hf_hub_url(PHI3.origin, weights, endpoint=hub.url), token=False)
        assert (metadata.etag, metadata.commit_hash) == (tree[weights].lfs.sha256, PHI3.revision)
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("microsoft/unknown")
        with pytest.raises(RevisionNotFoundError):
            api.model_info(PHI3.origin, revision="0" * 40)
        with pytest.raises(EntryNotFoundError):
            get_hf_file_metadata(hf_hub_url(PHI3.origin, "nothing.json", endpoint=hub.url), token=False)
    assert json.loads((repository / "config.json").read_text())["random_weights"] is True
