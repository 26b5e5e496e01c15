"""Run the tutorial's steps from a terminal: doctor, models, fetch, export, check, ask, chat, serve, remove."""

import errno
import io
import json
import os
import secrets
import shutil
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Annotated

try:
    import typer
except ModuleNotFoundError:  # not the Python that was set up, or none was set up
    sys.exit(
        f"This Python lacks the tutorial's libraries: {sys.executable}\n"
        "Create its environment: pipx run nox -s lab.  If it exists, use .venv/bin/python (.venv\\Scripts\\python)."
    )

from helpers import catalog, files, settings
from helpers.errors import TutorialError, cause_of, printable, redact
from helpers.files import read_manifest

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
Model = Annotated[str | None, typer.Option(help="A name from `python -m helpers models`, hub repository or folder.")]
Format = Annotated[str | None, typer.Option(help="Weight format: int4, int8 or fp16.")]
Thinking = Annotated[bool | None, typer.Option(help="Whether to think before answering, if the model can do both.")]
Penalty = Annotated[float | None, typer.Option(help="Values above 1 reduce repetition; 1 turns it off.")]
Device = Annotated[str | None, typer.Option(help="CPU, GPU, GPU.0, NPU or AUTO.")]


def chosen(**options: str | None) -> settings.Settings:
    """Return the project's settings with the options of the command line."""
    given = {name: value for name, value in options.items() if value is not None}
    return settings.check(replace(settings.load(), **given))


def chosen_sampling(**options: float | None):
    """Return the default sampling of conversations with the options of the command line."""
    from helpers.generate.sampling import CHAT

    return replace(CHAT, **{name: value for name, value in options.items() if value is not None})


def show_findings(found: list, as_json: bool = False) -> None:
    """Print findings; end with exit code 1 if one is a problem."""
    from helpers.checks.finding import format_findings

    print(json.dumps([asdict(finding) for finding in found], indent=1) if as_json else format_findings(found))
    if any(finding.state == "problem" for finding in found):
        raise typer.Exit(1)


@app.command()
def doctor(
    model: Model = None,
    format: Format = None,
    device: Device = None,
    network: Annotated[bool, typer.Option("--network", help="Also check the proxy, pip's index and the hub.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="Compare hashes of files, not only sizes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check whether this machine is ready, and say what to do if not.  The exit code is 1 if there is a problem."""
    from helpers.checks.doctor import examine

    choice = chosen(model=model, format=format, device=device) if model or format or device else None
    show_findings(examine(choice, network, thorough), as_json)


@app.command()
def models() -> None:
    """List the models of the catalog, with what each needs, and those on this disk."""
    for model in (*catalog.MODELS.values(), *catalog.HUB_MODELS.values()):
        export = f"{model.export_ram_gib} GiB of memory to export, " if model.export_ram_gib else "no export, "
        print(f"{model.name:18} {model.title}{'' if model.tried else ' (not tried here; sizes are estimates)'}")
        print(
            f"{'':18} {model.parameters / 1e6:,.0f} M parameters, download {model.download_mib:,} MiB, {export}"
            f"{model.run_ram_gib} GiB to run in int4, licence: {model.licence}, {model.languages}"
            f"{', can think' if model.thinking else ''}"
        )
    print("Others: a hub repository (owner/name or owner/name@revision), or a folder with a checkpoint or an IR.")
    for name, folders in settings.on_disk():
        sizes = ", ".join(f"{folder.name} {files.size(folder, '**/*') / 1e6:,.0f} MB" for folder in folders)
        noted = next(filter(None, (read_manifest(folder).get("licence") for folder in folders)), "")
        licence = f", licence: {noted}" if isinstance(noted, str) and noted else ""
        print(printable(f"on this disk: {name}, {sizes}{licence}"))


@app.command()
def remove(name: Annotated[str, typer.Argument(help="A name from `python -m helpers models`.")]) -> None:
    """Delete a model's checkpoint and exports from this disk.  Files of your own beside them stay."""
    if name not in dict(settings.on_disk()):
        raise TutorialError(f"No model {name!r:.100} is on this disk.", "To see which are: python -m helpers models")
    home = settings.load().home.parent / name.replace("/", "--")
    if home.is_symlink():
        raise TutorialError(f"{settings.display_path(home)} is a link to {home.resolve()}.", "Delete both by hand.")
    shown, freed = settings.display_path(home), 0
    if not (ours := settings.written_here(home)):
        what = f"Nothing in {shown} has a {files.MANIFEST} of this project, so nothing was deleted."
        raise TutorialError(what, "If you do not need that folder, delete it by hand.")
    for path in ours:
        freed += files.size(path, "**/*") if path.is_dir() else path.stat().st_size
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if left := sorted(path.name for path in home.iterdir()):
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        kept = f"{shown} stays, with what is not ours: {', '.join(left[:5])}{more}."
        return print(printable(f"{freed / 1e6:,.0f} MB freed; {kept}"))
    home.rmdir()
    print(f"{shown} was deleted; {freed / 1e6:,.0f} MB freed.")


@app.command()
def fetch(model: Model = None) -> None:
    """Download the model's checkpoint, unless it exists."""
    from helpers.checkpoint.fetch import fetch

    choice = chosen(model=model)
    fetch(choice.spec, choice.checkpoint_dir)


@app.command(context_settings={"ignore_unknown_options": True})
def export(
    flags: Annotated[list[str] | None, typer.Argument(help="optimum-cli's compression flags, after --")] = None,
    model: Model = None,
    format: Format = None,
    sound: Annotated[bool, typer.Option("--check/--no-check", help="Compare a new export with the checkpoint.")] = True,
) -> None:
    """Export the checkpoint to OpenVINO IR, unless the export exists.  Fetch the checkpoint first if necessary."""
    from helpers import export
    from helpers.checkpoint.fetch import fetch

    choice = chosen(model=model, format=format)
    new = not choice.model_dir.exists()
    if new:
        fetch(choice.spec, choice.checkpoint_dir)
    argv = export.command(choice, tuple(flags) if flags else None)
    if why := "" if flags else export.reason(choice):
        print(f"The flags: {why}")
    print(printable(export.shell_command(argv)), flush=True)
    export.run(argv)
    if new and sound and choice.spec.source != "random":  # whose answers mean nothing
        from helpers.checks.export_check import check
        from helpers.checks.finding import format_findings

        print(format_findings(check(choice)))


@app.command()
def check(model: Model = None, format: Format = None, device: Device = None) -> None:
    """Check an export: tokenizer, probabilities against the checkpoint's, KV cache, and device against the CPU.

    The exit code is 1 if there is a problem.
    """
    from helpers.checks.export_check import check

    show_findings(check(chosen(model=model, format=format, device=device)))


def load_conversation(choice: settings.Settings, sampling, max_new_tokens: int | None, **options):
    """Load the model and return a Conversation with it."""
    from helpers.chat.conversation import Conversation
    from helpers.load import load_fast

    model, tok, device_choice = load_fast(choice)
    if device_choice.device != choice.device:
        print(device_choice.why, file=sys.stderr)
    if max_new_tokens is None:
        max_new_tokens = choice.spec.max_new_tokens
    # A terminal shows no alternatives, and finding them takes time for each token.
    return Conversation(model, tok, sampling=sampling, max_new_tokens=max_new_tokens, alternatives=0, **options)


@app.command()
def ask(
    question: str,
    model: Model = None,
    format: Format = None,
    device: Device = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum number of tokens to generate.")] = None,
    repetition_penalty: Penalty = None,
    thinking: Thinking = None,
) -> None:
    """Answer one question; the answer is streamed to stdout, its statistics to stderr."""
    from helpers.chat.terminal import print_answer

    choice = chosen(model=model, format=format, device=device)
    if not question.strip():
        raise TutorialError("The question is empty.", 'Try: python -m helpers ask "What is photosynthesis?"')
    sampling = chosen_sampling(repetition_penalty=repetition_penalty)
    print_answer(load_conversation(choice, sampling, max_new_tokens, thinking=thinking).say(question))


@app.command()
def chat(
    model: Model = None,
    format: Format = None,
    device: Device = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Maximum number of tokens in an answer.")] = None,
    system: Annotated[str, typer.Option(help="The system message.")] = "",
    temperature: Annotated[float | None, typer.Option(help="0: the most likely token; above 0: sampling.")] = None,
    repetition_penalty: Penalty = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    context_length: Annotated[int | None, typer.Option(help="Context length in tokens; at most the model's.")] = None,
    thinking: Thinking = None,
    server: Annotated[
        str | None, typer.Option(help="URL of a server with OpenAI's API. Key: TUTORIAL_API_KEY.")
    ] = None,
) -> None:
    """Chat with the model.  Ctrl-C stops an answer, /help lists the commands, /bye quits."""
    from helpers.chat import terminal
    from helpers.chat.history import History

    sampling = chosen_sampling(temperature=temperature, repetition_penalty=repetition_penalty, seed=seed)
    if server:
        from helpers.chat.remote import connect

        others = {"--format": format, "--device": device, "--context-length": context_length, "--thinking": thinking}
        if given := [name for name, value in others.items() if value is not None]:
            raise TutorialError(f"{given[0]} cannot be used with --server.", "The server decides it.")

        conversation = connect(server, model, system=system, sampling=sampling, alternatives=None)
        conversation.max_new_tokens = max_new_tokens or conversation.max_new_tokens
    else:
        choice = chosen(model=model, format=format, device=device)
        options = {"system": system, "context_length": context_length, "thinking": thinking}
        conversation = load_conversation(choice, sampling, max_new_tokens, **options)
    conversation.history = History()
    terminal.run(conversation)


@app.command()
def serve(
    model: Model = None,
    format: Format = None,
    device: Device = None,
    host: Annotated[str, typer.Option(help="An address other than loopback also needs --api-key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="TUTORIAL_API_KEY", help="Generated and printed if not given.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Processes with the model, which share the requests.")] = 1,
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster: auto, or host:port.")] = None,
    cache_gb: Annotated[int, typer.Option(min=1, help="KV cache of a replica, in GB.")] = 1,
    print_ovms: Annotated[bool, typer.Option("--print-ovms", help="Print commands for OpenVINO Model Server.")] = False,
) -> None:
    """Serve the model to many people, with the OpenAI API.  Ctrl-C stops it after the answers in progress."""
    choice = chosen(model=model, format=format, device=device)
    if print_ovms:
        from helpers.serve.ovms import commands

        return print(commands(choice, port, cache_gb))
    if api_key is not None and len(api_key) < 16:
        raise TutorialError("The API key is shorter than 16 characters.", "Leave it out to have a key generated.")
    if host not in ("127.0.0.1", "localhost", "::1") and not api_key:
        hint = "Give both --host and --api-key.  There is no TLS: outside a trusted network, put a TLS proxy in front."
        raise TutorialError(f"{host} can be reached from other machines, and no API key was given.", hint)
    from helpers.load.device import choose_device
    from helpers.serve.cluster import serve
    from helpers.serve.engine import Limits

    if not address:  # each machine of a cluster has its own devices
        found = choose_device(choice.device)
        print(found.why, file=sys.stderr)
        choice = replace(choice, device=found.device)
    key = api_key or secrets.token_urlsafe(32)
    if not api_key:
        print(f"API key: {key}")
    place = f"[{host}]" if ":" in host else host  # an address of IPv6
    print(f"Starting.  {choice.model} will be served at http://{place}:{port}/v1", flush=True)
    serve(choice, key, host, port, replicas, address, Limits(cache_gb=cache_gb))


def prepare_streams() -> None:
    """Let stdin, stdout and stderr take any text.  Raises TutorialError if stdout, or chat's stdin, is closed (>&-)."""
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:  # in this order, so that no file of ours becomes, say, the stdout of a child
        setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # line by line, so that a full disk is noticed before the work is done
            stream.reconfigure(errors="replace", line_buffering=True)
    if "stdout" in closed or ("stdin" in closed and "chat" in sys.argv[1:2]):
        raise TutorialError(f"This command needs {closed[0]}, which is closed.", "Run it without closing that stream.")


def run() -> int:
    """Run the command line and return its exit code; errors that the reader can fix are shown without a traceback."""
    try:
        prepare_streams()
        app(prog_name="python -m helpers", standalone_mode=True)
    except SystemExit as end:
        if end.code == 130:  # typer's exit code for Ctrl-C
            warn("Interrupted. Incomplete files are not used; run the command again to continue.")
        return end.code or 0
    except TutorialError as error:
        warn(error)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EBADF):
            warn(f"The output cannot be written: {error.strerror}.")
        elif cause := cause_of(error):
            warn(cause)
        else:
            warn("".join(traceback.format_exception(error)) + "This is a bug in the tutorial; please report it.")
    return 1


def warn(text: object) -> None:
    """Print to stderr, if there is one."""
    with suppress(OSError):
        print(printable(redact(str(text))), file=sys.stderr)


def main() -> int:
    """Run the command line; SIGTERM and SIGHUP end it and its child processes, as Ctrl-C does."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is signal.SIG_DFL:  # under nohup, SIGHUP stays ignored
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    code = run()
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError as error:
            if name == "stdout" and not code:
                warn(f"The output cannot be written: {error.strerror}.")
            setattr(sys, name, None)  # otherwise Python tries again when it exits
            code = code or 1
    return code


if __name__ == "__main__":
    sys.exit(main())
