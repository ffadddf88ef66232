"""Names of a model's parts, and what follows by counting its tensors: targets of an adapter, parameters, bytes.

`Family.tensors` (name -> shape) + `Parts` + a recipe's `lora` section -> target expression, `Parameters`, `AdapterParameters`

One statement of an architecture: whatever can be counted is counted from the tensors' shapes, and nothing is stated again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cvft.errors import Problem, RecipeError, nearest, quote
from cvft.families.costs import AdapterParameters, Linear, Parameters

Shape = tuple[int, ...]

TrainProjector = bool | Literal["full"]
"""What a recipe's `lora.train_projector` says: no training, adapters, or all of the projector's own weights."""

WEIGHT = ".weight"

NF4_BLOCK_WEIGHTS = 64
"""Weights that share a scale in nf4. Source: the QLoRA paper; bitsandbytes' CPU kernels need rows of whole blocks."""

NUM_NAMED = 5

QUANTIZED_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""Bytes per weight with its scales: nf4 has a scale of 8 bits per 64 weights and one of 32 per 256 of those; int8 has one per
row, which is nothing. Source: the QLoRA and LLM.int8() papers, the defaults of bitsandbytes."""


@dataclass(frozen=True)
class Parts:
    """Where the parts of a loaded model lie. Expressions are matched against whole module names.

    Args:
        block: Expression for a decoder block.
        qkv: Its layers that `lora.targets: qkv` means, by their path inside the block.
        linear: All of its linear layers, those of `qkv` among them, in the block's order.
        tower_linear: Expression for the tower's linear layers.
        projector_linear: Expression for the projector's linear layers.
        embedding: Weight of the input embedding.
        output_layer: Weight of the output layer.
        tower: Prefixes of what frames pass through before the projector.
        vision: Prefix of tower and frame markers, and of the projector where it lies among them.
        projector: The projector's modules; of a list of modules, its own name.
        layers: The list of decoder blocks.
        buffers: Expression for tensors that are no parameters.
        cached: Prefixes of what cached features stand in for, where that is more than the tower.
        aliases: What other models call a linear layer of a decoder block -> its last name here.
    """

    block: str
    qkv: tuple[str, ...]
    linear: tuple[str, ...]
    tower_linear: str
    projector_linear: str
    embedding: str
    output_layer: str
    tower: tuple[str, ...]
    vision: str
    projector: tuple[str, ...]
    layers: str
    buffers: str = r"(?!)"
    cached: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def caches_projector(self) -> bool:
        """Whether cached features have been through the projector, so that it cannot learn from them."""
        return any(f"{name}.".startswith(self.cached) for name in self.projector)


def adapted_names(parts: Parts, targets: str | Sequence[str]) -> tuple[str, ...]:
    """Names the linear layers of a decoder block that get an adapter.

    Args:
        parts: The model's parts.
        targets: `qkv`, `all-linear`, or last names of linear layers of a decoder block.

    Returns:
        Last names, in the block's order.

    Raises:
        RecipeError: when a name is no linear layer of a decoder block.
    """
    known = [_last(path) for path in parts.linear]
    if isinstance(targets, str):
        names = {"qkv": [_last(path) for path in parts.qkv], "all-linear": known}[targets]
    else:
        names = list(targets)
    unknown = [name for name in names if name not in known]
    if unknown:
        need = f"linear layers of a decoder block: {', '.join(quote(name) for name in known)}"
        got = ", ".join(quote(name) for name in unknown[:NUM_NAMED])
        got += f" and {len(unknown) - NUM_NAMED} more" if len(unknown) > NUM_NAMED else ""
        raise RecipeError("recipe", [Problem("lora.targets", got, need, _hint_at_layers(parts, unknown[:NUM_NAMED]))])
    return tuple(name for name in known if name in names)


def _hint_at_layers(parts: Parts, unknown: Sequence[str]) -> str:
    """Says which layers unknown names probably mean: other models' names first, then parts of our own, then near ones."""
    known = [_last(path) for path in parts.linear]
    of_qkv = {_last(path) for path in parts.qkv}
    meant: dict[str, list[str]] = {}
    for name in unknown:
        last = _last(name)
        here = parts.aliases.get(last.lower(), "")
        if not here:
            holding = [each for each in known if len(last) > 2 and last in each]
            here = holding[0] if len(holding) == 1 else next(iter(nearest(last, known, count=1)), "")
        if here:
            meant.setdefault("qkv" if of_qkv == {here} else here, []).append(name)
    said = [
        f"{' and '.join(quote(name) for name in names)} {'is' if len(names) == 1 else 'are'} {quote(here)} here"
        for here, names in meant.items()
    ]
    if "qkv" in meant and len(meant) == 1 and len(meant["qkv"]) == len(unknown):
        said.append("write `lora.targets: qkv`")
    return "; ".join(said)


def target_regex(
    parts: Parts,
    targets: str | Sequence[str],
    *,
    train_vision_tower: bool = False,
    train_projector: TrainProjector = False,
) -> str:
    """Turns a recipe's targets into the expression that peft matches module names against, whole.

    ms-swift would build its own from an architecture table, in an order that changes from run to run; a stated expression
    makes the plan reproducible and says exactly what is trained.

    Args:
        parts: The model's parts.
        targets: `qkv`, `all-linear`, or last names of linear layers of a decoder block.
        train_vision_tower: Adapters on the tower's blocks too.
        train_projector: Adapters on the projector too; one that is trained wholly has none.

    Returns:
        A regular expression.

    Raises:
        RecipeError: when a name is no linear layer of a decoder block.
    """
    names = adapted_names(parts, targets)
    layers = "|".join(re.escape(path) for path in parts.linear if _last(path) in names)
    expressions = [rf"{parts.block}\.({layers})"]
    expressions += [parts.tower_linear] if train_vision_tower else []
    expressions += [parts.projector_linear] if train_projector is True else []
    return f"^({'|'.join(expressions)})$"


def modules_to_save(parts: Parts, shapes: Mapping[str, Shape], *, train_projector: TrainProjector) -> list[str]:
    """Names the modules that are trained wholly and stored in the adapter, by their whole names.

    peft takes every module whose name ends like one of these; the projector has a layer of its own last name.

    Args:
        parts: The model's parts.
        shapes: Its tensors.
        train_projector: What the recipe says.
    """
    return projector_modules(parts, shapes) if train_projector == "full" else []


def projector_modules(parts: Parts, shapes: Mapping[str, Shape]) -> list[str]:
    """Names the modules of the projector, the members of a list one by one: peft can wrap them and not the list.

    Args:
        parts: The model's parts.
        shapes: Its tensors.
    """
    found: dict[str, None] = {}
    for name in parts.projector:
        for tensor in tensors_under(name, shapes):
            member = tensor.removeprefix(f"{name}.").partition(".")[0]
            found[f"{name}.{member}" if member.isdecimal() else name] = None
    return list(found)


def loaded_shapes(shapes: Mapping[str, Shape], module_of: Callable[[str], str | None]) -> dict[str, Shape]:
    """Returns the tensors of files by their names in the loaded model, without those that the model leaves out.

    Whatever `Parts` is matched against has these names.

    Args:
        shapes: Tensors by their names in the files.
        module_of: Their names in the loaded model, or None; see `Family.module_of`.
    """
    return {module: shape for name, shape in shapes.items() if (module := module_of(name)) is not None}


def tensors_under(module: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Returns the tensors of a module, in their order."""
    return {name: shape for name, shape in shapes.items() if name.startswith(f"{module}.")}


def linears_of(shapes: Mapping[str, Shape], expression: str) -> dict[str, Linear]:
    """Returns the linear layers whose module name matches an expression, in the order of the tensors."""
    return {
        name.removesuffix(WEIGHT): Linear(num_in=shape[1], num_out=shape[0])
        for name, shape in shapes.items()
        if name.endswith(WEIGHT) and len(shape) == 2 and re.fullmatch(expression, name.removesuffix(WEIGHT))
    }


def block_linears(shapes: Mapping[str, Shape], module: str) -> dict[str, Linear]:
    """Returns the linear layers of one block by their last names.

    Args:
        shapes: Tensors of the loaded model.
        module: Name of the block.
    """
    found = linears_of(tensors_under(module, shapes), r".*")
    return {_last(name): linear for name, linear in found.items()}


def count_parameters(parts: Parts, shapes: Mapping[str, Shape]) -> Parameters:
    """Counts the parameters of a whole model, exactly.

    Args:
        parts: The model's parts.
        shapes: Its tensors.
    """
    counts = dict.fromkeys(("embedding", "language_layers", "output_layer", "tower", "projector"), 0)
    for name, shape in shapes.items():
        if not re.fullmatch(parts.buffers, name):
            counts[_part_of(parts, name)] += math.prod(shape)
    return Parameters(**counts)


def count_buffers(parts: Parts, shapes: Mapping[str, Shape]) -> int:
    """Counts the values of tensors that are no parameters; they lie in the checkpoint beside them."""
    return sum(math.prod(shape) for name, shape in shapes.items() if re.fullmatch(parts.buffers, name))


def count_adapter(
    parts: Parts,
    shapes: Mapping[str, Shape],
    *,
    targets: str | Sequence[str],
    rank: int,
    dora: bool = False,
    train_vision_tower: bool = False,
    train_projector: TrainProjector = False,
) -> AdapterParameters:
    """Counts the trainable parameters that a recipe's `lora` section makes, exactly as peft does.

    Args:
        parts: The model's parts.
        shapes: Its tensors.
        targets: `qkv`, `all-linear`, or last names of linear layers of a decoder block.
        rank: Rank of each update.
        dora: Whether each update has a magnitude per output.
        train_vision_tower: Adapters on the tower's blocks too.
        train_projector: Adapters on the projector too, or `full` for all of its own weights.
    """

    def count(expression: str) -> int:
        linears = linears_of(shapes, expression).values()
        return sum(linear.adapter_parameters(rank=rank, dora=dora) for linear in linears)

    return AdapterParameters(
        language=count(target_regex(parts, targets)),
        tower=count(parts.tower_linear) if train_vision_tower else 0,
        projector=count(parts.projector_linear) if train_projector is True else 0,
        whole_projector=sum(
            math.prod(shape)
            for module in modules_to_save(parts, shapes, train_projector=train_projector)
            for shape in tensors_under(module, shapes).values()
        ),
    )


def weight_bytes(
    parts: Parts, shapes: Mapping[str, Shape], *, value_bytes: int, quantize: str = "none", with_tower: bool = True
) -> int:
    """Returns what a model's tensors take in memory.

    Args:
        parts: The model's parts.
        shapes: Its tensors.
        value_bytes: Bytes of a value that is not quantized.
        quantize: `nf4` or `int8` for quantized linear layers of the decoder blocks, else `none`.
        with_tower: Whether the tower is loaded.
    """
    quantized = linears_of(shapes, target_regex(parts, "all-linear")) if quantize != "none" else {}
    left_out = () if with_tower else parts.cached or parts.tower
    total = 0.0
    for name, shape in shapes.items():
        if not name.startswith(left_out):
            is_quantized = name.removesuffix(WEIGHT) in quantized
            total += math.prod(shape) * (QUANTIZED_BYTES[quantize] if is_quantized else value_bytes)
    return round(total)


def find_unfit_widths(quantize: str, parts: Parts, shapes: Mapping[str, Shape]) -> list[Problem]:
    """Returns a problem when rows of the decoder blocks' weights cannot be cut into whole blocks of nf4.

    Args:
        quantize: `none`, `nf4` or `int8`.
        parts: The model's parts.
        shapes: Its tensors by their names in the loaded model.
    """
    if quantize != "nf4":
        return []
    blocks = linears_of(shapes, target_regex(parts, "all-linear"))
    unfit = sorted({linear.num_in for linear in blocks.values() if linear.num_in % NF4_BLOCK_WEIGHTS})
    if not unfit:
        return []
    got = f"`nf4` for layers {' and '.join(map(str, unfit))} wide"
    return [Problem("model.quantize", got, f"multiples of {NF4_BLOCK_WEIGHTS}", "set model.quantize: int8")]


def _part_of(parts: Parts, name: str) -> str:
    if name.startswith(parts.tower):
        return "tower"
    if name.startswith((parts.vision, *(f"{module}." for module in parts.projector))):
        return "projector"
    return {parts.embedding: "embedding", parts.output_layer: "output_layer"}.get(name, "language_layers")


def _last(path: str) -> str:
    return path.rpartition(".")[2]
