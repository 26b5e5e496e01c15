"""Read a model's parameters, widths and precision from its files, and derive the flags for its export."""

import ast
import re
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from importlib import metadata
from math import prod
from pathlib import Path

from helpers import files
from helpers.catalog import Model
from helpers.errors import TutorialError, printable
from helpers.files import GIB, MALFORMED

# (parameters, ratio): the fewer parameters, the more accuracy a model loses at the same ratio.  The first ratio is
# measured (SmolLM2, 135 M: docs/defaults.md, where AWQ helps at each ratio); the others lie between it and those of
# optimum-intel's recipes, up to 1.0.
RATIOS = ((500e6, "0.3"), (2e9, "0.6"), (float("inf"), "0.8"))
SMALLEST_GROUP, LARGEST_GROUP = 32, 128  # below 32, NNCF keeps a layer in 8 bits
TITLES = {"i4": "int4", "u4": "int4", "i8": "int8", "u8": "int8", "f16": "16 bits", "bf16": "16 bits"}


def complete(model: Model, folder: Path) -> Model:
    """Return `model` with data from its files in `folder`: parameters, sizes, commit, licence, and int4 flags."""
    if model.flags.get("int4", True):  # the catalog has it all
        return model
    with suppress(OSError, TutorialError, *MALFORMED):
        return _complete(model, folder, (folder / "config.json").stat().st_mtime_ns)
    made_by = files.read_manifest(folder.with_name("int4")).get("command")  # the checkpoint may have been deleted
    words = made_by[3:-1] if isinstance(made_by, list) else []  # without the program and the folder
    for at in sorted((words.index(name) for name in ("--model", "-m", "--task") if name in words), reverse=True):
        del words[at : at + 2]
    flags = words or flags_for(model, [])[0]
    return replace(model, flags=model.flags | {"int4": tuple(map(str, flags))})


@lru_cache(maxsize=8)
def _complete(model: Model, folder: Path, _changed: int) -> Model:
    manifest = files.read_manifest(folder)
    noted = {name: manifest[name] for name in ("revision", "licence") if isinstance(manifest.get(name), str)}
    is_ir = files.is_ir(folder)
    shapes = [shape for _, shape, _ in _constants(folder)] if is_ir else checkpoint_shapes(folder)
    flags = {} if is_ir else {"flags": model.flags | {"int4": flags_for(model, shapes)[0]}}
    size = files.size(folder, "*.bin" if is_ir else "*.safetensors") / GIB
    export = 0.0 if is_ir else round(1.2 + 1.3 * size, 1)
    facts = {"parameters": sum(map(prod, shapes)), "checkpoint_gib": round(size, 3), "export_ram_gib": export}
    return replace(model, **(noted if model.source == "hub" else {}), **facts, **flags)


def checkpoint_shapes(folder: Path) -> list[tuple[int, ...]]:
    """Return the shape of each tensor of the *.safetensors in `folder`.  Raises one of MALFORMED."""
    shapes = []
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = files.parse_json(stream.read(min(int.from_bytes(stream.read(8), "little"), files.JSON_LIMIT)))
        shapes += [tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"]
    if not all(type(size) is int and 0 <= size < 2**40 and len(shape) < 9 for shape in shapes for size in shape):
        raise ValueError(f"{folder} has a tensor with an invalid shape")
    return shapes


def int4_flags(shapes: list[tuple[int, ...]], parameters: int) -> tuple[tuple[str, ...], str]:
    """Return optimum-cli's flags for int4 weights of these shapes [rows, columns], and the reason for them."""
    widths = {shape[-1] for shape in shapes if len(shape) == 2 and min(shape) >= SMALLEST_GROUP}
    # The largest power of two that divides a number is its lowest set bit.
    powers = {width: min(width & -width, LARGEST_GROUP) for width in widths}
    group = min((power for power in powers.values() if power >= SMALLEST_GROUP), default=LARGEST_GROUP)
    ratio = next(ratio for limit, ratio in RATIOS if parameters < limit)
    flags = ("--weight-format", "int4", "--group-size", str(group), "--group-size-fallback", "adjust")
    odd = sorted(width for width, power in powers.items() if power < SMALLEST_GROUP)
    why = f"{group} is the largest power of two up to {LARGEST_GROUP} that divides the widths of its matrices"
    if not widths:
        why = "the widths of its matrices are not known yet"
    elif odd:
        why += f", except {', '.join(map(str, odd[:5]))}, where no size of 32 or more fits: int8"
    why += f"; ratio {ratio} for {parameters / 1e9:.1f} billion parameters" if parameters else ""
    return (*flags, "--ratio", ratio, "--sym", "--awq"), f"{why}; AWQ, which needs no data."


def flags_for(model: Model, shapes: list[tuple[int, ...]]) -> tuple[tuple[str, ...], str]:
    """Return the int4 flags for a checkpoint with these shapes, and why; optimum-intel's recipe comes first, if any."""
    recipe = optimum_recipe(model.origin) if model.source == "hub" else {}
    if not isinstance(recipe.get("group_size"), int):
        return int4_flags(shapes, sum(map(prod, shapes)) or model.parameters)
    flags = ["--weight-format", "int4", "--group-size", str(recipe["group_size"]), "--group-size-fallback", "adjust"]
    flags += ["--ratio", str(recipe.get("ratio", 1.0)), *["--sym"] * bool(recipe.get("sym"))]
    flags += ["--awq"] * (recipe.get("quant_method") == "AWQ") + ["--all-layers"] * bool(recipe.get("all_layers"))
    data = f", without its calibration on {recipe['dataset']}, which needs a download" if "dataset" in recipe else ""
    return tuple(flags), f"optimum-intel's own recipe for {model.origin}{data}."


@lru_cache(maxsize=8)
def optimum_recipe(origin: str) -> dict:
    """Return optimum-intel's int4 recipe for a model on the hub, or {} if there is none.

    Reads the table in optimum-intel's source, because importing it takes ten seconds.
    """
    with suppress(OSError, ValueError, SyntaxError, metadata.PackageNotFoundError):
        source = metadata.distribution("optimum-intel").locate_file("optimum/intel/openvino/configuration.py")
        for node in ast.parse(Path(str(source)).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_DEFAULT_4BIT_WQ_CONFIGS":
                return {name: _value(node) for name, node in _items(_items(node.value).get(origin)).items()}
    return {}


def _items(node: ast.expr | None) -> dict:
    """Return the entries of a dictionary literal in source code, by their keys."""
    entries = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ()
    return {_value(key): value for key, value in entries}


def _value(node: ast.expr | None) -> object:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)


def _constants(folder: Path) -> list[tuple[str, tuple[int, ...], int]]:
    """Return (type, shape, bytes) of the graph's weights: matrices, but not the scales and zero points beside them."""
    data = (folder / files.IR_FILES[0]).read_bytes().decode("utf-8", "replace")
    found = re.findall(
        r'element_type="(\w{1,8})" shape="(\d{1,12}(?:, ?\d{1,12}){0,7})" offset="\d+" size="(\d{1,15})"', data
    )
    constants = [(kind, tuple(map(int, shape.split(","))), int(size)) for kind, shape, size in found]
    return [(kind, shape, size) for kind, shape, size in constants if len(shape) > 1 and shape[-1] > 1]


def ir_facts(folder: Path) -> list[str]:
    """Return facts from the graph of an IR: its weights' precisions, and the versions of the tools that made it."""
    constants, facts = _constants(folder), []
    sizes = Counter[str]()
    for kind, _, size in constants:
        sizes[TITLES.get(kind, kind)] += size
    if total := sizes.total():
        facts.append("weights: " + ", ".join(f"{size / total:.0%} {kind}" for kind, size in sizes.most_common(4)))
    if groups := Counter(shape[-1] for kind, shape, _ in constants if TITLES.get(kind) == "int4" and len(shape) == 3):
        facts.append(f"group size {groups.most_common(1)[0][0]}")
    tail = (folder / files.IR_FILES[0]).read_bytes()[-20_000:].decode("utf-8", "replace")
    said = dict(re.findall(r'<(\w+) value="([^"]{0,60})" />', tail[tail.rfind("<rt_info>") :]))
    names = {"Runtime_version": "OpenVINO", "nncf_version": "NNCF", "optimum_intel_version": "optimum-intel"}
    return facts + [printable(f"{label} {said[name]}") for name, label in names.items() if name in said]
