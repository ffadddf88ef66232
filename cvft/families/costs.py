"""What counting needs and gives, for any family: a micro-batch, how it is trained, parameters, FLOPs and bytes by part.

tensors + `Parts` -> `Parameters`, `AdapterParameters`; `Batch` + `Training` -> `CostModel` of a family -> `Flops`, `Memory`

Values only, and no device: the formulas are each family's own (`Family.costs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


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
        whole_projector: The projector itself, where it is trained wholly.
    """

    language: int
    tower: int = 0
    projector: int = 0
    whole_projector: int = 0

    @property
    def total(self) -> int:
        """Parameters of the whole adapter."""
        return self.language + self.tower + self.projector + self.whole_projector


FP32_BYTES = 4


MASK_BYTES = 1
"""Bytes of a value of a dropout mask. Source: torch's fused dropout on CUDA keeps booleans."""


@dataclass(frozen=True)
class Precision:
    """In which precisions activations are kept.

    Args:
        dtype_bytes: Bytes of a value in the model's own precision.
        is_autocast: Whether bf16 is computed under autocast beside fp32 adapters.
        has_dropout: Whether adapters drop inputs.
    """

    dtype_bytes: int
    is_autocast: bool = False
    has_dropout: bool = False

    @property
    def norm_value_bytes(self) -> int:
        """Bytes of a value that a layer norm returns, and so of the tower's residual stream: autocast makes them fp32 on CUDA."""
        return FP32_BYTES if self.is_autocast else self.dtype_bytes

    @property
    def copies_inputs(self) -> bool:
        """Whether each adapter keeps its own copy of an input that several read: after dropout."""
        return self.has_dropout

    def adapter_bytes(self, linear: Linear, *, rank: int, shares_input: bool = False) -> int:
        """Returns bytes per token that an adapter keeps.

        Args:
            linear: The layer that it sits on.
            rank: Its rank.
            shares_input: Whether its input is kept by somebody else, unless it is copied.

        Returns:
            Bytes: input, output of A, mask of the dropout.
        """
        kept = 0 if shares_input and not self.copies_inputs else linear.num_in * self.dtype_bytes
        mask = linear.num_in * MASK_BYTES if self.has_dropout else 0
        return kept + rank * self.dtype_bytes + mask


@dataclass(frozen=True)
class ClipShape:
    """What a clip becomes, as far as costs go.

    Args:
        num_frames: Its frames.
        num_tokens: Tokens of the decoder that stand for them.
    """

    num_frames: int
    num_tokens: int


@dataclass(frozen=True)
class GroupShape:
    """One sequence of a micro-batch: a prefix with its clips, and the questions behind it.

    Args:
        num_prefix_tokens: Tokens of the prefix.
        question_tokens: Tokens of each question with its answer.
        clips: The clips; none for a row of text only.
    """

    num_prefix_tokens: int
    question_tokens: tuple[int, ...]
    clips: tuple[ClipShape, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole sequence, without padding."""
        return self.num_prefix_tokens + sum(self.question_tokens)


@dataclass(frozen=True)
class Batch:
    """What one micro-batch of one rank feeds.

    Args:
        num_sequences: Rows of the tensors; several samples may share one.
        num_tokens: Tokens that are computed, with padding.
        num_pairs: (query, key) pairs that see each other; L (L + 1) / 2 for a causal sequence of L tokens.
        num_label_tokens: Tokens that are trained on.
        num_tower_frames: Frames that pass through the tower; 0 when their features are stored.
        num_projected_frames: Frames that pass through the projector.
        num_mask_cells: (query, key) cells of a mask that the attention kernel is given, over all sequences; 0 when the
            kernel masks by itself, as with one sequence and no padding.
        groups: The sequences one by one, for models whose clips differ in size and whose kernels take groups without a mask.
    """

    num_sequences: int
    num_tokens: int
    num_pairs: int
    num_label_tokens: int
    num_tower_frames: int = 0
    num_projected_frames: int = 0
    num_mask_cells: int = 0
    groups: tuple[GroupShape, ...] = ()

    @property
    def clips(self) -> list[ClipShape]:
        """The clips that are fed, one by one."""
        return [clip for group in self.groups for clip in group.clips]


def causal_pairs(num_tokens: int) -> int:
    """Returns the visible pairs of one causal sequence, each token seeing itself and those before."""
    return num_tokens * (num_tokens + 1) // 2


@dataclass(frozen=True)
class Flops:
    """Floating-point operations by part.

    Args:
        tower: Patch embedding, blocks and pooling convolution.
        projector: Its linear layers.
        language: Linear layers of the decoder blocks.
        attention: Scores and sums of the decoder's attention.
        output_layer: Scores over the vocabulary.
        adapter: The adapter's own products, on every part.
    """

    tower: int = 0
    projector: int = 0
    language: int = 0
    attention: int = 0
    output_layer: int = 0
    adapter: int = 0

    @property
    def total(self) -> int:
        """FLOPs of all parts."""
        return self.tower + self.projector + self.language + self.attention + self.output_layer + self.adapter


@dataclass(frozen=True)
class Training:
    """How a model is trained, as far as memory goes.

    Args:
        dtype_bytes: Bytes of a frozen weight and of an activation: 2 for bf16, 4 for fp32.
        adapted: Linear layers of a decoder block with an adapter; see `architecture.adapted_names`.
        rank: Rank of each update.
        adapter: Trainable parameters by part.
        recompute: Whether activations of the blocks are recomputed in the backward pass.
        dropout: Share of adapter inputs zeroed; any but 0 keeps a mask and a copy per adapter.
        strategy: `single`, `ddp`, `zero1`, `zero2`, `zero2_offload` or `zero3`.
        num_ranks: Processes that share the work.
        has_tower: Whether the tower is loaded; without it, only stored features can be fed.
        chunk_tokens: Label rows that are scored at a time, or None for all at once.
        scores_all_tokens: Whether every token is scored, as in stock training; then nothing is cut into chunks.
        quantize: `nf4` or `int8` where the decoder blocks' weights are quantized, else `none`.
        embeddings_on_cpu: Whether the input embedding lies on the host.
    """

    dtype_bytes: int
    adapted: Sequence[str]
    rank: int
    adapter: AdapterParameters
    recompute: bool
    dropout: float = 0.0
    strategy: str = "single"
    num_ranks: int = 1
    has_tower: bool = True
    chunk_tokens: int | None = None
    scores_all_tokens: bool = False
    quantize: str = "none"
    embeddings_on_cpu: bool = False

    @property
    def is_deepspeed(self) -> bool:
        """Whether DeepSpeed holds adapter and optimizer."""
        return self.strategy.startswith("zero")

    @property
    def precision(self) -> Precision:
        """What lies beside the activations of the model's own precision.

        peft makes the adapter of a bf16 model fp32 and casts its inputs, under autocast; DeepSpeed makes all bf16 and uses
        no autocast.
        """
        return Precision(
            self.dtype_bytes,
            is_autocast=self.dtype_bytes < FP32_BYTES and not self.is_deepspeed,
            has_dropout=self.dropout > 0,
        )


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank's GPU by part, and what lies on the host instead.

    The last three come one after the other; the peak holds the largest of them, and the tower's turn comes before
    activations are saved.

    Args:
        weights: Frozen weights, with what ZeRO-3 gathers of them; a projector that is trained wholly stays among them.
        adapter: Trainable weights in the precision they are computed in.
        gradient: Their gradients.
        optimizer: AdamW's moments, and fp32 weights where the trainable ones are bf16.
        communication: Buffers in which gradients travel between ranks.
        context: What CUDA itself takes.
        saved: Activations that wait for the backward pass.
        vision: The frozen tower while it runs.
        logits: The loss, at the head of the backward pass.
        layer: A block in its backward pass: its gradients, and with recomputation its activations.
        host: Optimizer that is kept in the host's memory; not part of the peak.
    """

    weights: int
    adapter: int
    gradient: int
    optimizer: int
    communication: int
    context: int
    saved: int
    vision: int
    logits: int
    layer: int
    host: int = 0

    @property
    def peak(self) -> int:
        """Most bytes at any moment of a step."""
        fixed = self.weights + self.adapter + self.gradient + self.optimizer + self.communication + self.context
        return fixed + max(self.vision, self.saved + max(self.logits, self.layer))


class CostModel(Protocol):
    """What a family's formulas count. A model, not a measurement."""

    def peak_memory(self, batch: Batch, training: Training) -> Memory:
        """Counts the memory of one rank for its largest micro-batch."""

    def training_flops(self, batch: Batch, training: Training) -> Flops:
        """Counts forward and backward pass of one micro-batch."""

    def build_flops(self, clips: Sequence[ClipShape]) -> Flops:
        """Counts what it costs to encode clips once, for cached features."""
