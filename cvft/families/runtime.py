"""What a family answers with torch: weights, rows as tensors, loss and answers. Protocols: no torch is imported here.

folder + `Preprocessing` -> `Runtime` -> model, `Encoder` (rows and frames -> tensors), `Tower` (frames -> features)

`load_runtime` imports a family's `runtime` module, whose `RUNTIME` answers. `cvft.families.family.Family` is the other half.
"""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from cvft.data.rows import Row
from cvft.data.video.view import ClipView
from cvft.families.answering import Answer, Answering, OnText
from cvft.families.family import Family, Preprocessing
from cvft.weights.folder import ModelFolder

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cvft.data.video.decode import Clip


@dataclass(frozen=True)
class Loading:
    """How weights are loaded.

    Args:
        dtype: `bf16` or `fp32`.
        attention: transformers' name of the attention implementation, or None for its choice.
        device_map: transformers' placement of the weights; None leaves them on the CPU.
        quantize: `nf4` or `int8` for quantized decoder blocks, else `none`.
        embeddings_on_cpu: Whether the input embedding stays in the host's memory.
        with_tower: Whether to load the vision tower; without it, clips come as cached features.
        runs_tower_always: Whether rows without a clip pass through the tower too, so that all ranks do.
    """

    dtype: str
    attention: str | None = None
    device_map: Any = None
    quantize: str = "none"
    embeddings_on_cpu: bool = False
    with_tower: bool = True
    runs_tower_always: bool = False


class LabelLoss(NamedTuple):
    """What the label tokens of a batch say.

    Args:
        loss: Sum over the label tokens of the negative log-likelihood, divided as asked.
        num_right: Number of label tokens that are the likeliest ones.
    """

    loss: Tensor
    num_right: Tensor


class ClipTensors(Protocol):
    """One clip as an encoder takes it: `cvft.clips.source.ClipInputs`."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Pixel values or cached features, by the model's names."""

    @property
    def view(self) -> ClipView:
        """Which frames are shown, and when."""


class ShownFrames(Protocol):
    """Frames of one clip, and what is known of it: a decoded `Clip`, or `cvft.clips.source.KeptClip`."""

    @property
    def frames(self) -> np.ndarray:
        """(T, h, w, 3) uint8 RGB: as decoded, or as they are kept."""

    @property
    def view(self) -> ClipView:
        """Which frames they are, and how large they were when they were decoded."""


class Encoder(Protocol):
    """Everything between decoded frames and a model's inputs, for one checkpoint and one way of preprocessing."""

    tokenizer: Any
    max_tokens: int
    """Most tokens of a prompt and its answer together."""
    takes_images: bool
    """Whether a row may show a picture in place of a clip."""

    def frames_to_keep(self, clip: Clip) -> np.ndarray:
        """Returns what of decoded frames decides their pixel values, (T, h, w, 3) uint8: of it, `clip` makes the same bits."""

    def clip(self, clip: ShownFrames) -> dict[str, Tensor]:
        """Turns frames, decoded or kept, into pixel values, by the model's names."""

    def encode(self, row: Row, clips: Sequence[ClipTensors], *, with_response: bool) -> dict[str, Tensor]:
        """Encodes one row: sequences (L,), and the tensors of its clips, which are those of `row.videos`."""

    def join(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Joins rows of one clip to one sequence; a single row stays as it is."""

    def collate(
        self, sequences: Sequence[Mapping[str, Tensor]], *, padding_side: Literal["left", "right"] = "right"
    ) -> dict[str, Tensor]:
        """Pads sequences to one batch (B, L)."""


class Tower(Protocol):
    """A frozen tower: a clip in, what is cached of it out."""

    def __call__(self, clip: Mapping[str, Tensor]) -> Tensor:
        """Turns one clip, as `Encoder.clip` returns it, into its features on the CPU."""


class Runtime(Protocol):
    """The half with torch: imported by worker, clips and predict, never before a GPU is meant."""

    def config(self, folder: ModelFolder) -> Any:
        """Builds transformers' configuration of a folder."""

    def tokenizer(self, folder: ModelFolder) -> Any:
        """Loads a folder's tokenizer, its padding token set."""

    def load(self, folder: ModelFolder, how: Preprocessing, loading: Loading) -> Any:
        """Loads weights, in evaluation mode.

        Raises:
            ModelError: when the files do not hold exactly the model's tensors, or cannot be quantized.
        """

    def encoder(self, folder: ModelFolder, how: Preprocessing) -> Encoder:
        """Builds what turns rows into inputs."""

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], *, num_items: Any = None, label_logits_only: bool = True
    ) -> LabelLoss:
        """Runs a training batch; the sum over its labels is divided by `num_items`, or by their number."""

    def label_logits(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the logits (N, V) that predict the label tokens of a batch of one sequence."""

    def generate(
        self,
        model: Any,
        encoder: Encoder,
        prompts: Sequence[Mapping[str, Tensor]],
        *,
        max_new_tokens: int | Sequence[int],
        clips: Sequence[Hashable] | None = None,
        on_text: OnText | None = None,
    ) -> list[Answer]:
        """Answers prompts greedily; rows with equal `clips` share one clip, which is computed once.

        Args:
            model: The model, or a peft model around it.
            encoder: What encoded the prompts.
            prompts: Rows encoded without a response.
            max_new_tokens: Longest answer in tokens, of all prompts or of each.
            clips: What tells the rows' clips apart, or None for rows that share none.
            on_text: Called once for each token of each answer, its end included, with the number of the prompt and the text
                that it made certain, which may be empty; all together are the answer. False ends that answer.
        """

    def start_answering(self, model: Any, encoder: Encoder, *, kept: Any = None) -> Answering:
        """Starts a batch that prompts may join and leave at any step; nothing runs in it yet.

        Args:
            model: The model, or a peft model around it.
            encoder: What encodes the prompts.
            kept: What `keep_prefixes` returned: a clip that stands there is not computed again.
        """

    def keep_prefixes(self, num_bytes: int) -> Any:
        """Returns room for what the model has made of clips, for questions about them that come later.

        Args:
            num_bytes: Most bytes kept; the clips that were not asked about for longest make room.
        """

    def tower(self, folder: ModelFolder, *, dtype: str, device: str) -> Tower:
        """Loads the vision tower alone, with capability `features`."""


def load_runtime(family: Family) -> Runtime:
    """Imports the torch half of a family."""
    runtime: Runtime = importlib.import_module(family.runtime).RUNTIME
    return runtime
