"""The options of python -m helpers serve, the commands for OpenVINO Model Server, and the document of the load test."""

import shlex
import socket
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from helpers import __main__, settings
from helpers.errors import TutorialError
from helpers.serve import cluster, ovms


@pytest.fixture
def served(monkeypatch):
    """Record the arguments instead of starting Ray."""
    calls = []
    monkeypatch.setattr(cluster, "serve", lambda *arguments: calls.append(arguments))
    monkeypatch.delenv("TUTORIAL_API_KEY", raising=False)
    return calls


def invoke(*argv: str, **environ: str):
    return CliRunner().invoke(__main__.app, ["serve", "--model", "smollm2-instruct", *argv], env=environ)


def test_a_key_is_made_and_printed_and_loopback_is_the_default(served):
    said = [invoke().output for _ in range(2)]
    keys = [call[1] for call in served]
    assert keys[0] != keys[1] and min(map(len, keys)) >= 32
    assert all(f"API key: {key}\n" in text for key, text in zip(keys, said, strict=True))
    assert served[0][2:6] == ("127.0.0.1", 8000, 1, None)


def test_a_given_key_is_not_printed(served):
    for said in (invoke("--api-key", "secret-secret-secret"), invoke(TUTORIAL_API_KEY="secret-secret-secret")):
        assert said.exit_code == 0 and "secret" not in said.output
    assert [call[1] for call in served] == ["secret-secret-secret"] * 2


@pytest.mark.parametrize("host, url", [("localhost", "http://localhost:9000/v1"), ("::1", "http://[::1]:9000/v1")])
def test_the_address_that_is_printed_can_be_opened(served, host, url):
    assert f" {url}\n" in invoke("--host", host, "--port", "9000").output


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "class.example"])
def test_another_address_needs_a_key_too(served, host):
    assert isinstance(invoke("--host", host).exception, TutorialError) and not served
    assert invoke("--host", host, "--api-key", "secret-secret-secret").exit_code == 0
    assert served[0][2] == host


def test_a_short_key_is_refused(served):
    assert isinstance(invoke("--api-key", "short").exception, TutorialError) and not served


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TutorialError, match=r"--editable \.\[serve\]"):
        cluster.serve(settings.Settings(), "k" * 32, "127.0.0.1", 8000, 1, None, None)


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(TutorialError, match=f"127.0.0.1:{port} cannot be used"):
            cluster.serve(settings.Settings(), "k" * 32, "127.0.0.1", port, 1, None, None)


@pytest.mark.parametrize("address", [None, "auto"])
def test_the_end_of_the_server_is_not_that_of_others_in_the_cluster(monkeypatch, address):
    """serve.shutdown deletes every application of the cluster."""
    done, ray = [], Mock()
    ray.init.side_effect = lambda **options: done.append(("init", options.get("address")))
    ray.serve.delete.side_effect = lambda name: done.append(("delete", name))
    ray.serve.shutdown.side_effect = lambda: done.append("everything")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(cluster, "application", Mock())
    monkeypatch.setattr(cluster.signal, "signal", lambda _, handler: handler())
    monkeypatch.setattr(cluster, "ENVIRONMENT", {})
    cluster.serve(settings.Settings(), "k" * 32, "127.0.0.1", 0, 1, address, None)
    assert done[:2] == [("init", address), ("delete", cluster.NAME)] and (address is None or done[2:] == [])


def test_the_commands_for_model_server_take_any_path_and_name(monkeypatch):
    monkeypatch.setattr(settings.Settings, "model_dir", Path("/my models/int4; rm -rf ~"))
    text = ovms.commands(replace(settings.Settings(), model="/my models/a b"), 8000, 1)
    for start in ("docker run", "ovms "):
        (line,) = [line for line in text.splitlines() if line.startswith(start)]
        words = shlex.split(line)
        assert words[words.index("--model_name") + 1] == "a b" and ";" not in words
    assert "/my models/int4; rm -rf ~:/model:ro" in shlex.split(text[text.index("docker run") :])


def test_the_commands_for_model_server_have_key_port_and_model(served):
    text = invoke("--print-ovms", "--port", "9123", "--cache-gb", "3").output
    assert not served, "it only prints"
    for start in ("docker run", "ovms "):
        (line,) = [line for line in text.splitlines() if line.startswith(start)]
        words = shlex.split(line)
        assert words[words.index("--rest_port") + 1] == "9123" and "--api_key_file" in words
        assert words[words.index("--model_name") + 1] == "smollm2-instruct" and "--model_path" in words
    assert "-p 127.0.0.1:9123:9123" in text and "--rest_bind_address 127.0.0.1" in text
    assert 'models_path: "/model"' in text and "cache_size: 3" in text and "http://127.0.0.1:9123/v3" in text
    assert text.count("{") == text.count("}")


def test_a_gpu_is_made_available_to_the_container():
    text = ovms.commands(replace(settings.Settings(), device="GPU.0"), 8000, 1)
    assert "--device /dev/dri --group-add $(stat -c %g /dev/dri/render* | head -n 1)" in text
    assert "model_server:latest-gpu " in text and "/dev/dri" not in ovms.commands(settings.Settings(), 8000, 1)


def test_a_model_of_the_hub_is_fetched_by_model_server_itself():
    choice = replace(settings.Settings(), model="OpenVINO/Phi-3-mini-4k-instruct-int4-ov")
    text = ovms.commands(choice, 8000, 1)
    assert text.count("--source_model OpenVINO/Phi-3-mini-4k-instruct-int4-ov --task text_generation") == 2
    assert "graph.pbtxt" not in text and "--model_repository_path ovms/models" in text
    assert "--user $(id -u):$(id -g)" in text, "that of the image cannot write into a folder of this user"
