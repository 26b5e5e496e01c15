"""python -m helpers doctor | models | fetch | export | check | ask "…" | chat: the tutorial's road from a terminal."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from typing import Annotated

try:
    import typer
except ModuleNotFoundError:  # another Python than the one that was set up, or none was
    sys.exit(
        f"The tutorial's libraries are not in this Python, {sys.executable}.\n"
        "Set its own up: pipx run nox -s lab.  If that is done, use .venv/bin/python (Windows: .venv\\Scripts\\python)."
    )

from helpers import catalog, settings
from helpers.errors import TutorialError

INTERRUPTED = 130
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
Model = Annotated[str | None, typer.Option("--model", help="A name from `python -m helpers models`.")]
Format = Annotated[str | None, typer.Option("--format", help="Weight format: int4, int8 or fp16.")]
Penalty = Annotated[float, typer.Option("--repetition-penalty", help="Above 1: against circles; 1.1 is enough.")]
Device = Annotated[str | None, typer.Option("--device", help="CPU, GPU, GPU.0, NPU or AUTO.")]


def chosen(**options: str | None) -> settings.Settings:
    """The settings of this project, with the options that were given on the command line."""
    given = {name: value for name, value in options.items() if value is not None}
    return settings.check(replace(settings.load(), **given))


@app.command()
def doctor(
    model: Model = None,
    format: Format = None,
    device: Device = None,
    network: Annotated[bool, typer.Option("--network", help="Ask the network too: proxy, pip's index, hub.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="Compare the export's hashes, not only sizes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say whether this machine is ready, and what to do where not; exit code 1 if there is a problem."""
    from helpers.checks.doctor import examine
    from helpers.checks.finding import format_findings

    given = model or format or device
    found = examine(chosen(model=model, format=format, device=device) if given else None, network, thorough)
    print(json.dumps([asdict(finding) for finding in found], indent=1) if as_json else format_findings(found))
    if any(finding.state == "problem" for finding in found):
        raise typer.Exit(1)


@app.command()
def models() -> None:
    """List the models, with what each needs."""
    for model in catalog.MODELS.values():
        print(f"{model.name:18} {model.title}")
        print(
            f"{'':18} {model.parameters / 1e6:,.0f} M parameters, {model.download_mib:,} MiB to download, "
            f"{model.checkpoint_gib} GiB checkpoint, export needs {model.export_ram_gib} GiB of memory, {model.licence}"
        )


@app.command()
def fetch(model: Model = None) -> None:
    """Put the model's checkpoint on this disk, unless it is there."""
    from helpers.checkpoint.fetch import fetch

    choice = chosen(model=model)
    fetch(choice.spec, choice.checkpoint_dir)


@app.command(context_settings={"ignore_unknown_options": True})
def export(
    flags: Annotated[list[str] | None, typer.Argument(help="optimum-cli's compression flags, after --")] = None,
    model: Model = None,
    format: Format = None,
    sound: Annotated[bool, typer.Option("--check/--no-check", help="Compare a new export with its checkpoint.")] = True,
) -> None:
    """Make the OpenVINO model of a checkpoint (fetched first if need be), unless it is there."""
    from helpers import export
    from helpers.checkpoint.fetch import fetch

    choice = chosen(model=model, format=format)
    if not choice.model_dir.exists():
        fetch(choice.spec, choice.checkpoint_dir)
    argv, new = export.command(choice, tuple(flags) if flags else None), not choice.model_dir.exists()
    print(export.shell_command(argv), flush=True)
    export.run(argv)
    if new and sound and choice.spec.source != "made up":  # the words of random weights need no check
        from helpers.checks.export_check import check
        from helpers.checks.finding import format_findings

        print(format_findings(check(choice)))


@app.command()
def check(model: Model = None, format: Format = None, device: Device = None) -> None:
    """Say whether the export still speaks as its checkpoint does; exit code 1 if it does not."""
    from helpers.checks.export_check import check
    from helpers.checks.finding import format_findings

    found = check(chosen(model=model, format=format, device=device))
    print(format_findings(found))
    if any(finding.state == "problem" for finding in found):
        raise typer.Exit(1)


@app.command()
def ask(
    question: str,
    model: Model = None,
    format: Format = None,
    device: Device = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Budget of the answer.")] = None,
    repetition_penalty: Penalty = 1,
) -> None:
    """Answer one question in the terminal, word by word."""
    from helpers.generate.sampling import Sampling
    from helpers.load import load_fast

    choice = chosen(model=model, format=format, device=device)
    if not question.strip():
        raise TutorialError("The question is empty.", 'Try: python -m helpers ask "What is the capital of France?"')
    sampling = Sampling(repetition_penalty=repetition_penalty)
    start = time.perf_counter()
    ov_model, tok, device_choice = load_fast(choice)
    from helpers.chat.degenerate import describe_degeneration
    from helpers.decode import stream_decode
    from helpers.generate import generate
    from helpers.tokenize import prompt_ids

    if device_choice.device != choice.device:
        print(device_choice.why, file=sys.stderr)
    loaded = time.perf_counter()
    ids = prompt_ids(tok, [{"role": "user", "content": question}])
    steps = []

    def new_ids():
        for step in generate(ov_model, ids, max_new_tokens or choice.spec.max_new_tokens, sampling):
            steps.append(step)
            yield step.id

    for piece in stream_decode(tok, new_ids()):
        print(piece, end="", flush=True)
    print()
    done = time.perf_counter()
    first = steps[0].milliseconds / 1000
    rate = f", then {(len(steps) - 1) / (done - loaded - first):.0f} tokens/s" if len(steps) > 1 else ""
    print(f"[load {loaded - start:.1f} s, first token {first:.1f} s{rate}]", file=sys.stderr)
    said = [step.id for step in steps]
    if warning := describe_degeneration(tok.decode(said, skip_special_tokens=True), said):
        print(f"[{warning}]", file=sys.stderr)


@app.command()
def chat(
    model: Model = None,
    format: Format = None,
    device: Device = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", help="Budget of each answer.")] = None,
    system: Annotated[str, typer.Option("--system", help="The system message.")] = "",
    temperature: Annotated[float, typer.Option("--temperature", help="0: the likeliest token; above, a draw.")] = 0,
    repetition_penalty: Penalty = 1,
    seed: Annotated[int | None, typer.Option("--seed", help="Makes the draws repeatable.")] = None,
    context_length: Annotated[int | None, typer.Option("--context-length", help="Less than the model's.")] = None,
) -> None:
    """Talk with the model.  Ctrl-C stops an answer, /help lists the commands, /bye ends."""
    from helpers.chat import terminal
    from helpers.chat.conversation import Conversation
    from helpers.generate.sampling import Sampling
    from helpers.load import load_fast

    choice = chosen(model=model, format=format, device=device)
    sampling = Sampling(temperature, repetition_penalty=repetition_penalty, seed=seed)
    ov_model, tok, device_choice = load_fast(choice)
    if device_choice.device != choice.device:
        print(device_choice.why, file=sys.stderr)
    budget = choice.spec.max_new_tokens if max_new_tokens is None else max_new_tokens
    # A terminal shows no alternatives, and finding them takes time for each token.
    terminal.run(Conversation(ov_model, tok, system, sampling, budget, context_length, alternatives=0))


def main() -> int:
    """Run the command line; a problem that the reader can mend is a sentence and exit code 1."""
    try:
        app(prog_name="python -m helpers", standalone_mode=True)
    except TutorialError as error:
        print(error, file=sys.stderr)
        return 1
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer makes this of Ctrl-C
            print("Interrupted. Nothing half-made is in use; run it again to go on.", file=sys.stderr)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
