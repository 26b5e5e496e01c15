"""TutorialError as a reader sees it, and the checks of arguments that raise it."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from payloads import TERMINAL

from helpers.errors import TutorialError, cause_of, check_addresses, check_int, check_token_ids, printable, redact
from helpers.settings import ROOT

CANARY = "Canary" + "4711"


def test_an_error_is_its_message_and_its_hint():
    assert str(TutorialError("What happened.", "What to do.")) == "What happened.\nWhat to do."
    assert str(TutorialError("What happened.")) == "What happened."


@pytest.mark.parametrize("text", TERMINAL)
def test_no_error_sends_a_terminal_commands(text):
    error = TutorialError(f"one {text} two", f"three {text} four")
    assert printable(str(error)) == str(error) == f"one {printable(text)} two\nthree {printable(text)} four"
    assert not any(character in "\r\x1b\x9b\x07\u202e\u2066" for character in str(error))


def test_newlines_tabs_and_letters_of_all_scripts_are_printable():
    text = "a\n\tb \N{RIGHT-TO-LEFT MARK}שלום 日本 👩\u200d🚀"
    assert printable(text) == text


def test_a_notebook_shows_the_message_instead_of_a_traceback(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("from helpers.errors import TutorialError; raise TutorialError('What happened.', 'What to do.')")
    assert capsys.readouterr().out.strip() == "TutorialError: What happened.\nWhat to do."


@pytest.mark.parametrize("number", [0, 1, 2, True, np.int64(7), 10**30])
@pytest.mark.parametrize("least", [0, 1, 2])
def test_check_int_returns_integers_from_the_least_on(number, least):
    if number >= least:
        found = check_int(number, "seed", least)
        assert found == number and isinstance(found, int)
    else:
        with pytest.raises(TutorialError, match=f"seed cannot be {number}(?s:.*){least} or more"):
            check_int(number, "seed", least)


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", None, [1]])
def test_check_int_refuses_anything_else(value):
    with pytest.raises(TutorialError, match="seed cannot be"):
        check_int(value, "seed")


@pytest.mark.parametrize("ids", [[], [0], (3, 2), np.array([5, 0]), range(3)])
def test_check_token_ids_returns_a_list_of_ints(ids):
    for given in (ids, iter(ids)):
        found = check_token_ids(given)
        assert found == list(ids) and all(type(each) is int for each in found)


@pytest.mark.parametrize("ids", [[-1], [3, -1], [1.0], ["1"], "12", [[1]], None, 7])
def test_check_token_ids_refuses_anything_else(ids):
    with pytest.raises(TutorialError, match="not token ids"):
        check_token_ids(ids)


# Each form of an address, with its password or token as {0}.  web stands for http, so that no file has such an address.
ADDRESSES = [
    "web://me:{0}@127.0.0.1:9",
    "me:{0}@127.0.0.1:9",
    "web://{0}@127.0.0.1:9/simple",
    "web://me:se@{0}@127.0.0.1:9",
    "web://me:{0}%23%40@127.0.0.1:9",
    "web://127.0.0.1:9/simple?token={0}",
    "web://127.0.0.1:9/simple?a=b&{0}#c",
    "web://127.0.0.1:9/simple#{0}",
    "web://one.example/simple web://me:{0}@127.0.0.1:9/simple",
    "socks5h://me:{0}@[::1]:9",
]
MALFORMED = ["web://me:a/{0}@127.0.0.1:9", "web://me:{0}#b@127.0.0.1:9", "me:{0}?b@127.0.0.1:9", "web://me:{0}\\@h"]
ADDRESSES, MALFORMED = ([form.replace("web:", "http:") for form in forms] for forms in (ADDRESSES, MALFORMED))
VARIABLES = [
    "HTTPS_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "PIP_PROXY",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "HF_ENDPOINT",
]
VARIABLES += ["PIP_FIND_LINKS", "UV_INDEX"]


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("address", ADDRESSES + MALFORMED)
def test_no_error_has_a_part_of_a_secret(monkeypatch, name, address):
    value = address.format(CANARY)
    monkeypatch.setenv(name, value)
    parts = [value, value.partition("://")[2], value.replace("%23%40", "#@"), f"port: {CANARY!r}", f"({CANARY}, 9)"]
    error = TutorialError(" and ".join(parts), value)
    assert CANARY not in str(error) and CANARY not in repr(error) and " and " in str(error)


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PIP_PASSWORD", "MY_API_KEY", "APIKEY"])
def test_no_error_has_a_token(monkeypatch, name):
    monkeypatch.setenv(name, CANARY)
    assert CANARY not in str(TutorialError(f"Illegal header b'Bearer {CANARY}'"))


def test_an_address_that_no_variable_has_is_shown_without_its_secrets():
    text = "See http://me:secret@a.example/x, https://cdn.example/file?Signature=abc&x=1, and me@home."
    assert redact(text, {}) == "See http://…@a.example/x, https://cdn.example/file?… and me@home."


@pytest.mark.parametrize("name, value", [("TOKENIZERS_PARALLELISM", "false"), ("X_URL", "words"), ("HF_TOKEN", "yes")])
def test_a_variable_without_a_secret_changes_no_text(name, value):
    text = "The words false and yes, 4 tokens, http://a.example/list, ./model/int4."
    assert redact(text, {name: value}) == text


@pytest.mark.parametrize("address", MALFORMED)
def test_a_password_that_libraries_would_cut_is_refused_with_its_cure(address):
    with pytest.raises(TutorialError, match="password in HTTPS_PROXY has a character(?s:.*)%2F") as caught:
        check_addresses({"HTTPS_PROXY": address.format("x")})
    assert "x@" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [*(address.format("x") for address in ADDRESSES), "https://a.example/@me/x", "http://a.example:80/@me/", "./a@b/c"],
)
def test_other_addresses_are_not_refused(value):
    check_addresses({"PIP_INDEX_URL": value, "PIP_FIND_LINKS": value, "PS1": "a:b/c@d"})


def chained(error: Exception) -> Exception:
    """Return `error` as the cause of a library's own one."""
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("It cannot be loaded.") from cause
    except RuntimeError as last:
        return last


SHORT = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("Exception from src/x.cpp:1:\n[CPU] bad allocation"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("can't start new thread"),
    ImportError("libtorch.so: failed to map segment from shared object"),
]
KEPT_FROM = [OSError(code, os.strerror(code), "int4/x.bin") for code in (errno.EACCES, errno.EIO, errno.EMFILE)]


@pytest.mark.parametrize("how", [lambda error: error, chained], ids=["itself", "as a cause"])
@pytest.mark.parametrize(
    "error, words",
    [*((error, "too little free memory") for error in SHORT), *((e, "x.bin cannot be") for e in KEPT_FROM)],
)
def test_what_is_no_damage_is_named_and_nothing_is_to_be_deleted(how, error, words):
    found = cause_of(how(error))
    assert words in found.message and "elete" not in str(found) and "damaged:" not in str(found)


@pytest.mark.parametrize(
    "error", [ValueError("bad header"), FileNotFoundError(errno.ENOENT, "none", "x"), KeyError("a")]
)
def test_damage_has_no_cause_outside_of_the_files(error, tmp_path):
    assert cause_of(error) is cause_of(chained(error), tmp_path) is None


def test_a_current_folder_that_was_deleted_is_named(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "current folder no longer exists" in cause_of(FileNotFoundError(errno.ENOENT, "none")).message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid(), reason="only root can read as a different user")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    """OpenVINO says that it cannot read the model, and no more."""
    code = f"""
import os
from pathlib import Path
from helpers.errors import cause_of
folder = Path({str(tmp_path)!r})
(folder / "x.bin").touch(mode=0o600)
for path in (folder, *folder.parents[:-2]):
    path.chmod(0o755)
os.setresuid(65534, 65534, 65534)
print(cause_of(RuntimeError("Unable to read the model"), folder))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "x.bin cannot be read: Permission denied." in ran.stdout, ran.stderr
