"""An adapter folder as files: adapter_config.json read into a strict value of our own, and held against its weights. No torch.

adapter_config.json -> every key carried out, known to change nothing, or refused -> `AdapterFile`
adapter_model.safetensors -> which layers it changes, and which tensors it replaces, by the names of its tensors, without
reading one

The folder may be anybody's. No expression of it is ever run: the layers are those that the weights name, and what the config says
of them must agree. An expression is compared with the one that cvft would write for these layers; a list of names is matched as
peft matches it. peft itself is given a config made here, of what was understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvft.errors import ModelError, Problem, quote
from cvft.families.parts import (
    WEIGHT,
    Parts,
    Shape,
    linears_of,
    loaded_shapes,
    projector_modules,
    target_regex,
    tensors_under,
)
from cvft.json_files import (
    ANYTHING,
    FLAG,
    NULL,
    TEXT,
    JsonError,
    Need,
    check_object,
    either,
    number,
    one_of,
    read_object,
    show,
    whole_number,
)
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE
from cvft.weights.header import Entry
from cvft.weights.shards import NUM_NAMED, name_some, read_shard

ADAPTER_CONFIG_FILE = "adapter_config.json"

PREFIX = "base_model.model."
"""What peft puts before a layer's name. Source: the files that it writes."""

A, B, MAGNITUDES = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
PARTS_OF_LAYER = (A, B, MAGNITUDES)
"""What peft stores of a layer. Source: the files that it writes."""

MAX_RANK = 16_384
MAX_TARGETS = 10_000
MAX_TARGET_CHARS = 20_000

NEEDS = {
    "peft_type": one_of("LORA"),
    "r": whole_number(1, MAX_RANK),
    "lora_alpha": number(1e-6, 1e9),
    "target_modules": Need(
        "a list of layers, or the expression that cvft writes",
        lambda value: (isinstance(value, str) and 0 < len(value) <= MAX_TARGET_CHARS) or _is_list_of_names(value),
    ),
    "use_dora": FLAG,
    "use_rslora": FLAG,
    "lora_dropout": number(0, 1),
    "bias": one_of("none"),
    "lora_bias": one_of(False),
    "fan_in_fan_out": one_of(False),
    "task_type": one_of("CAUSAL_LM", None),
    "init_lora_weights": one_of(True, False, "gaussian", "orthogonal", "eva"),  # the others change the base's weights
    "inference_mode": FLAG,
    "modules_to_save": Need(
        "null, or the projector's whole name in a list",
        lambda value: value is None or value == [] or _is_list_of_names(value),
    ),
    "base_model_name_or_path": either(TEXT, NULL),  # the recipe and the contract say which base
    "revision": either(TEXT, NULL),
    "peft_version": either(TEXT, NULL),
    "megatron_core": either(TEXT, NULL),  # has an effect with `megatron_config` alone
    "qalora_group_size": ANYTHING,  # has an effect with `use_qalora` alone
    "runtime_config": ANYTHING,  # where adapters of several GPUs wait; never saved by peft
}
"""Keys that may stand there, with the values that they may have."""

OPTIONAL = tuple(key for key in NEEDS if key not in ("peft_type", "r", "lora_alpha", "target_modules"))

HINT = "cvft reads LoRA and DoRA adapters of the layers that `lora.targets` can name"


@dataclass(frozen=True)
class AdapterFile:
    """An adapter whose config and weights agree with each other and with its base.

    Args:
        folder: Its folder.
        rank: Rank of each update.
        alpha: Numerator of the scale.
        dora: Whether each update has magnitudes.
        rslora: Whether the scale is alpha/sqrt(rank) in place of alpha/rank.
        layers: The layers that it changes, by their names in the loaded model, with the places of their parts.
        modules_to_save: Modules whose tensors it replaces, by their whole names in the loaded model.
        replaced: Those tensors, by their names in the loaded model.
    """

    folder: Path
    rank: int
    alpha: float
    dora: bool
    rslora: bool
    layers: Mapping[str, Mapping[str, Entry]]
    modules_to_save: Sequence[str] = ()
    replaced: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """What each update is multiplied by. Source: the LoRA and rsLoRA papers."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def peft_settings(self, *, layer: str | None = None) -> dict[str, Any]:
        """Returns what a `peft.LoraConfig` is made of.

        Args:
            layer: The one layer that is meant; None for all.
        """
        names = sorted(self.layers) if layer is None else [layer]
        alpha = int(self.alpha) if self.alpha == int(self.alpha) else self.alpha
        return {
            "r": self.rank,
            "lora_alpha": alpha,
            "use_dora": self.dora,
            "use_rslora": self.rslora,
            "target_modules": "|".join(map(re.escape, names)),
            "modules_to_save": list(self.modules_to_save) if layer is None and self.modules_to_save else None,
            "task_type": "CAUSAL_LM",
            "inference_mode": True,
        }


def read_adapter(
    folder: Path, *, parts: Parts, shapes: Mapping[str, Shape], module_of: Callable[[str], str | None] = str
) -> AdapterFile:
    """Reads an adapter folder without its tensors.

    Args:
        folder: The folder, as peft writes it.
        parts: The base's parts.
        shapes: The base's tensors by their names in the files.
        module_of: Their names in the loaded model, or None for those that it leaves out.

    Raises:
        ModelError: when config or weights are broken, ask for what is not carried out, or do not fit each other or the base.
    """
    subject = f"adapter {folder}"
    try:
        config = read_object(folder / ADAPTER_CONFIG_FILE)
    except JsonError as error:
        problem = Problem(ADAPTER_CONFIG_FILE, str(error), "the file that peft writes beside an adapter's weights")
        raise ModelError(subject, [problem]) from error
    problems = check_object(config, NEEDS, where=ADAPTER_CONFIG_FILE, optional=OPTIONAL, others=_judge)
    if problems:
        raise ModelError(subject, problems)
    in_model = loaded_shapes(shapes, module_of)
    modules = config.get("modules_to_save") or []
    projector = projector_modules(parts, in_model)
    if modules not in ([], projector):
        need = f"{show(projector)}: no other module is trained wholly"
        raise ModelError(subject, [Problem(f"{ADAPTER_CONFIG_FILE}: modules_to_save", show(modules), need)])
    wanted = {name: shape for module in modules for name, shape in tensors_under(module, in_model).items()}
    layers, replaced, problems = _read_layers(folder, wanted)
    if not problems:
        problems = _find_other_targets(config["target_modules"], layers, parts=parts, shapes=in_model)
    if not problems:
        problems = _find_misfits(config, layers, in_model)
    if problems:
        raise ModelError(subject, problems)
    return AdapterFile(
        folder,
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        dora=config.get("use_dora", False),
        rslora=config.get("use_rslora", False),
        layers=layers,
        modules_to_save=tuple(modules),
        replaced=replaced,
    )


def _judge(key: str, value: Any) -> Problem | None:
    """Says what is wrong with a key that is not known: those of peft ask for nothing when they are empty."""
    if value is None or value is False or value in ({}, []):
        return None
    return Problem(f"{ADAPTER_CONFIG_FILE}: {key}", show(value), "no such key: nothing here would obey it", HINT)


def _is_list_of_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= MAX_TARGETS
        and all(isinstance(name, str) and 0 < len(name) <= 1000 for name in value)
    )


def _read_layers(
    folder: Path, wanted: Mapping[str, Shape]
) -> tuple[dict[str, dict[str, Entry]], dict[str, Entry], list[Problem]]:
    """Reads the weights' header.

    Args:
        folder: The adapter's folder.
        wanted: Tensors that are replaced: all have to be there, each in its shape.

    Returns:
        Layers with their parts, replaced tensors, and what is wrong.
    """
    path = folder / ADAPTER_WEIGHTS_FILE
    if not path.is_file():
        got = "no such file" if not path.exists() else "something that is no file"
        hint = "only safetensors are read, never pickles (adapter_model.bin)"
        return {}, {}, [Problem(ADAPTER_WEIGHTS_FILE, got, "the adapter's weights", hint)]
    try:
        shard = read_shard(path)
    except ModelError as error:
        return {}, {}, list(error.problems)
    layers: dict[str, dict[str, Entry]] = {}
    replaced: dict[str, Entry] = {}
    unknown = []
    for entry in shard.entries:
        if entry.name.startswith(PREFIX) and (name := entry.name.removeprefix(PREFIX)) in wanted:
            replaced[name] = entry
            continue
        part = next((part for part in PARTS_OF_LAYER if entry.name.endswith(f".{part}")), None)
        if part is None or not entry.name.startswith(PREFIX):
            unknown.append(entry.name)
        else:
            layers.setdefault(entry.name.removeprefix(PREFIX).removesuffix(f".{part}"), {})[part] = entry
    if unknown:
        got = f"{name_some(unknown)} unknown"
        return {}, {}, [Problem("weights", got, "LoRA weights of layers", HINT)]
    if not layers:
        return {}, {}, [Problem(ADAPTER_WEIGHTS_FILE, "no tensors", "LoRA weights of layers")]
    problems = [
        Problem(
            f"{ADAPTER_WEIGHTS_FILE}: {name}",
            quote(replaced[name].shape) if name in replaced else "no such tensor",
            f"{shape}, by the base and modules_to_save of {ADAPTER_CONFIG_FILE}",
        )
        for name, shape in wanted.items()
        if name not in replaced or replaced[name].shape != shape
    ]
    return layers, replaced, problems


def _find_other_targets(
    targets: str | list[str], layers: Mapping[str, Any], *, parts: Parts, shapes: Mapping[str, Shape]
) -> list[Problem]:
    """Compares the layers that the config names with those that have weights."""
    where = f"{ADAPTER_CONFIG_FILE}: target_modules"
    if isinstance(targets, str):
        expression = _expression_for(layers, parts)
        if targets != expression:
            need = "a list of layers, or the expression that cvft writes for these weights"
            hint = "expressions of others are not run: list the layers by their names"
            return [Problem(where, show(targets), need, hint)]
        targeted = set(linears_of(shapes, expression))
    else:
        names = set(targets)
        linears = (
            name.removesuffix(WEIGHT) for name, shape in shapes.items() if name.endswith(WEIGHT) and len(shape) == 2
        )
        targeted = {name for name in linears if not names.isdisjoint(_endings(name))}
    need = f"weights for each layer that target_modules of {ADAPTER_CONFIG_FILE} names"
    return [
        Problem(ADAPTER_WEIGHTS_FILE, f"{name_some(names)} {got}", need)
        for names, got in ((targeted - layers.keys(), "missing"), (layers.keys() - targeted, "unknown"))
        if names
    ]


def _expression_for(layers: Mapping[str, Any], parts: Parts) -> str:
    """Writes the expression that an adapter of cvft has when it changes these layers, or an empty text for none of its own."""
    expressions = {path: rf"{parts.block}\.{re.escape(path)}" for path in parts.linear}
    in_blocks = [path for path, each in expressions.items() if any(re.fullmatch(each, name) for name in layers)]
    if not in_blocks:
        return ""
    return target_regex(
        parts,
        [path.rpartition(".")[2] for path in in_blocks],
        train_vision_tower=any(re.fullmatch(parts.tower_linear, each) for each in layers),
        train_projector=any(re.fullmatch(parts.projector_linear, each) for each in layers),
    )


def _endings(name: str) -> list[str]:
    """Returns what of a layer's name a list may say: `a.b.c`, `b.c` and `c`. Source: peft's rule for lists."""
    steps = name.split(".")
    return [".".join(steps[start:]) for start in range(len(steps))]


def _find_misfits(
    config: Mapping[str, Any], layers: Mapping[str, Mapping[str, Entry]], shapes: Mapping[str, Shape]
) -> list[Problem]:
    problems = []
    rank = config["r"]
    for layer in sorted(layers):
        num_out, num_in = shapes[f"{layer}{WEIGHT}"]
        wanted: dict[str, Shape] = {A: (rank, num_in), B: (num_out, rank)}
        wanted |= {MAGNITUDES: (num_out,)} if config.get("use_dora", False) else {}
        got = {part: entry.shape for part, entry in layers[layer].items()}
        if got != wanted:
            need = f"{wanted}, by the base, r {rank} and use_dora {show(config.get('use_dora', False))}"
            problems.append(Problem(f"{ADAPTER_WEIGHTS_FILE}: {layer}", quote(got), need))
    if len(problems) > NUM_NAMED:
        more = f"{len(problems) - NUM_NAMED} more layers like these"
        problems = [*problems[:NUM_NAMED], Problem(ADAPTER_WEIGHTS_FILE, more, "shapes that fit the base")]
    return problems
