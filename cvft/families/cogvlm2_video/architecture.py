"""Sizes of a model as its config.json states them, and what follows by counting: its parameters and an adapter's.

values of config.json -> `Architecture` -> `Parameters` (by part), `AdapterParameters`

Pure: no torch and no weights, so that a plan can be made for a model that is not on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from cvft.families.cogvlm2_video.targets import LANGUAGE_MODULES, QKV

POOLED_SIDE = 2
"""Patches that the pooling convolution joins along each side. Source: the published `visual.py`, a 2x2 convolution."""

FRAME_MARKERS = 2
"""Learned tokens around each frame, boi and eoi. Source: the published state-dict keys."""


@dataclass(frozen=True)
class VisionArchitecture:
    """Sizes of the vision tower, under the published key names and with the published values.

    Args:
        hidden_size: Width of the tower.
        intermediate_size: Width of its MLP.
        num_hidden_layers: Number of blocks.
        num_heads: Number of attention heads.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of a frame.
        num_positions: Patches of a frame plus one class token.
    """

    hidden_size: int = 1792
    intermediate_size: int = 15360
    num_hidden_layers: int = 63
    num_heads: int = 16
    patch_size: int = 14
    in_channels: int = 3
    num_positions: int = 257

    @property
    def num_patches(self) -> int:
        """Patches of a frame."""
        return self.num_positions - 1

    @property
    def num_pooled_patches(self) -> int:
        """Patches of a frame after the pooling convolution."""
        return self.num_patches // POOLED_SIDE**2

    @property
    def patch_weights(self) -> int:
        """Weights of the convolution that embeds patches."""
        return self.in_channels * self.patch_size**2 * self.hidden_size

    @property
    def pooling_weights(self) -> int:
        """Weights of the pooling convolution."""
        return POOLED_SIDE**2 * self.hidden_size**2


@dataclass(frozen=True)
class Linear:
    """A linear layer.

    Args:
        num_in: Width of its input.
        num_out: Width of its output.
    """

    num_in: int
    num_out: int

    @property
    def weights(self) -> int:
        """Number of its weights, without bias."""
        return self.num_in * self.num_out

    def adapter_parameters(self, *, rank: int, dora: bool) -> int:
        """Counts what LoRA adds: A (rank, in), B (out, rank), and DoRA's magnitudes (out)."""
        return rank * (self.num_in + self.num_out) + (self.num_out if dora else 0)


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of a model by part. The rotary tables are buffers and not among them.

    Args:
        embedding: Rows of the vocabulary on the way in.
        language_layers: Decoder blocks and the norm after them.
        output_layer: Rows of the vocabulary on the way out.
        tower: Patch embedding, blocks and pooling convolution.
        projector: From the tower's width to the decoder's, with boi and eoi.
    """

    embedding: int
    language_layers: int
    output_layer: int
    tower: int
    projector: int

    @property
    def total(self) -> int:
        """Parameters of the whole model."""
        return self.embedding + self.language_layers + self.output_layer + self.tower + self.projector


@dataclass(frozen=True)
class AdapterParameters:
    """Numbers of trainable parameters of an adapter by the part of the model that it sits on.

    Args:
        language: On the decoder blocks.
        tower: On the tower's blocks.
        projector: On the projector.
    """

    language: int
    tower: int = 0
    projector: int = 0

    @property
    def total(self) -> int:
        """Parameters of the whole adapter."""
        return self.language + self.tower + self.projector


@dataclass(frozen=True)
class Architecture:
    """Sizes of the whole model, under the published key names and with the published values.

    Args:
        vocab_size: Rows of the embedding and of the output layer.
        hidden_size: Width of the decoder.
        intermediate_size: Width of its MLP, and of the projector's.
        num_hidden_layers: Number of decoder blocks.
        num_attention_heads: Number of query heads.
        num_multi_query_heads: Number of key/value heads.
        vision: The tower.
    """

    vocab_size: int = 128256
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_multi_query_heads: int = 8
    vision: VisionArchitecture = field(default_factory=VisionArchitecture)

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Self:
        """Takes the sizes out of a config.json; what it does not state has the published value.

        Args:
            values: Keys and values as `cvft.weights.folder.read_config_json` returns them.

        Returns:
            The sizes.
        """
        vision = VisionArchitecture(**_known(VisionArchitecture, values.get("vision_config") or {}))
        return cls(**_known(cls, values), vision=vision)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def key_value_width(self) -> int:
        """Width of all keys, and of all values, of a token."""
        return self.num_multi_query_heads * self.head_dim

    @property
    def num_tokens_per_frame(self) -> int:
        """Tokens that a frame takes in the language model, without its time token."""
        return self.vision.num_pooled_patches + FRAME_MARKERS

    @property
    def num_buffer_values(self) -> int:
        """Values of the rotary tables, one table per decoder block; they lie in the checkpoint beside the parameters."""
        return self.num_hidden_layers * self.head_dim // 2

    @property
    def language_linears(self) -> dict[str, Linear]:
        """Linear layers of one decoder block, by name."""
        width, inner = self.hidden_size, self.intermediate_size
        return {
            QKV: Linear(width, width + 2 * self.key_value_width),
            "language_expert_dense": Linear(width, width),
            "gate_proj": Linear(width, inner),
            "up_proj": Linear(width, inner),
            "down_proj": Linear(inner, width),
        }

    @property
    def tower_linears(self) -> dict[str, Linear]:
        """Linear layers of one block of the tower, by name; each has a bias."""
        width, inner = self.vision.hidden_size, self.vision.intermediate_size
        return {
            "query_key_value": Linear(width, 3 * width),
            "dense": Linear(width, width),
            "fc1": Linear(width, inner),
            "fc2": Linear(inner, width),
        }

    @property
    def projector_linears(self) -> dict[str, Linear]:
        """Linear layers of the projector, by name."""
        width, inner = self.hidden_size, self.intermediate_size
        return {
            "linear_proj": Linear(self.vision.hidden_size, width),
            "gate_proj": Linear(width, inner),
            "dense_h_to_4h": Linear(width, inner),
            "dense_4h_to_h": Linear(inner, width),
        }

    @property
    def language_layer_weights(self) -> int:
        """Weights of the linear layers of one decoder block."""
        return sum(linear.weights for linear in self.language_linears.values())

    @property
    def tower_layer_weights(self) -> int:
        """Weights of the linear layers of one block of the tower, without biases."""
        return sum(linear.weights for linear in self.tower_linears.values())

    @property
    def projector_weights(self) -> int:
        """Weights of the linear layers of the projector."""
        return sum(linear.weights for linear in self.projector_linears.values())

    def count_parameters(self) -> Parameters:
        """Counts the parameters of the whole model.

        Returns:
            The numbers by part; exact.
        """
        width, vision = self.hidden_size, self.vision
        norms_per_layer = 2
        biases = sum(linear.num_out for linear in self.tower_linears.values())
        tower_layer = self.tower_layer_weights + biases + norms_per_layer * 2 * vision.hidden_size
        # bias of the patch convolution, class token, position of each token, bias of the pooling convolution
        tower_rest = vision.patch_weights + vision.pooling_weights + (3 + vision.num_positions) * vision.hidden_size
        return Parameters(
            embedding=self.vocab_size * width,
            language_layers=self.num_hidden_layers * (self.language_layer_weights + norms_per_layer * width) + width,
            output_layer=self.vocab_size * width,
            tower=vision.num_hidden_layers * tower_layer + tower_rest,
            projector=self.projector_weights + 2 * width + FRAME_MARKERS * width,
        )


def _known(cls: type[Any], values: Mapping[str, Any]) -> dict[str, int]:
    names = {each.name for each in fields(cls)} - {"vision"}
    return {name: value for name, value in values.items() if name in names}


def adapted_names(targets: str | Sequence[str]) -> tuple[str, ...]:
    """Names the linear layers of a decoder block that get an adapter, as `targets.target_regex` chooses them.

    Args:
        targets: `qkv`, `all-linear`, or names; already checked by `target_regex`.

    Returns:
        Names in the block's order.
    """
    names = {"qkv": [QKV], "all-linear": list(LANGUAGE_MODULES)}.get(targets) if isinstance(targets, str) else targets
    assert names is not None, targets
    assert set(names) <= set(LANGUAGE_MODULES), names
    return tuple(name for name in LANGUAGE_MODULES if name in names)


def count_adapter_parameters(
    architecture: Architecture,
    *,
    targets: str | Sequence[str],
    rank: int,
    dora: bool = False,
    train_vision_tower: bool = False,
    train_projector: bool = False,
) -> AdapterParameters:
    """Counts the trainable parameters that a recipe's `lora` section makes.

    Args:
        architecture: The model's sizes.
        targets: `qkv`, `all-linear`, or names of linear layers of a decoder block.
        rank: Rank of each update.
        dora: Whether each update has a magnitude per output.
        train_vision_tower: Adapters on the tower's blocks too.
        train_projector: Adapters on the projector too.

    Returns:
        The numbers by part; exactly what peft makes.
    """

    def count(linears: Sequence[Linear]) -> int:
        return sum(linear.adapter_parameters(rank=rank, dora=dora) for linear in linears)

    language = [architecture.language_linears[name] for name in adapted_names(targets)]
    tower = list(architecture.tower_linears.values()) if train_vision_tower else []
    projector = list(architecture.projector_linears.values()) if train_projector else []
    return AdapterParameters(
        language=architecture.num_hidden_layers * count(language),
        tower=architecture.vision.num_hidden_layers * count(tower),
        projector=count(projector),
    )
