"""What a family of models answers without torch; `cvft.families.runtime` is its half with torch.

config.json -> `Family` (which settings, which inputs, which tensors) -> `Runtime` (weights, loss, answers) -> `Encoder` (rows)

A family is one row of `cvft.families.table.FAMILIES`. No file outside this room names one: everybody asks these questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from cvft.data.rows import Row
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import file_of, is_image
from cvft.data.video.view import ClipView
from cvft.errors import ClipError, DataError, Problem, quote
from cvft.families.costs import ClipShape, CostModel
from cvft.families.engines import Engine, Handover, Sends
from cvft.families.parts import Parts, Shape
from cvft.recipe import Recipe
from cvft.weights.checkpoints import Checkpoint
from cvft.weights.folder import ModelFolder

IGNORED_LABEL = -100
"""Label of a token that is not trained on. Source: torch's cross-entropy default."""

LABEL_CHUNK_TOKENS = 256
"""Label tokens whose logits are in memory at a time: 131 MB in fp32 for a vocabulary of 128,256."""

PREFIX_SEGMENT = 0
"""Segment of what stands before the first question and does not depend on it: every question of a group sees it."""

FieldValue = str | int | float | bool


@dataclass(frozen=True)
class Capabilities:
    """What a family can do beyond training rows one by one.

    Args:
        groups: Whether rows of one clip can train as one sequence with the same losses; "proven" where that is shown on each
            model before it trains.
        features: Whether the frozen tower's output can be cached; "proven" as for groups.
        label_logits: Whether logits of label tokens can be had, to verify a merge with.
        unpromised: What cannot be promised of the family that others promise, a sentence each, for the plan.
    """

    groups: bool | Literal["proven"]
    features: bool | Literal["proven"]
    label_logits: bool
    unpromised: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preprocessing:
    """How rows reach a model, with every `auto` decided.

    Args:
        template: Prompt template.
        decode: How clips become frames: sampling rule, decoder, its limits.
        max_tokens: Longest row allowed.
        fields: What else of the family's own lies between a row and the model's inputs, by its name in the contract.
    """

    template: str
    decode: DecodeSettings
    max_tokens: int
    fields: Mapping[str, FieldValue] = field(default_factory=dict)

    def __str__(self) -> str:
        sampling = self.decode.sampling.strategy
        return f"template {self.template}, sampling {sampling}, decoder {self.decode.decoder}"


@dataclass(frozen=True)
class KeptFrames:
    """How frames are kept on disk for a model: the bytes that are left of them before they become numbers that a tower takes.

    Args:
        fields: What decides them beside sampling rule and decoder, by names of their own.
        size_px: Height and width in which they are kept, by what is known of their clip.
    """

    fields: Mapping[str, FieldValue]
    size_px: Callable[[ClipView], tuple[int, int]]


AS_DECODED = KeptFrames({"frames": "as decoded"}, lambda view: (view.height_px, view.width_px))
"""For families that make numbers of whole frames at once."""


@dataclass(frozen=True)
class Layout:
    """One row as a model takes it; all three lists have the row's length in tokens.

    Args:
        input_ids: Token ids.
        token_type_ids: 1 under a frame's tokens, 0 elsewhere.
        labels: The answer's ids and its end at their own places, `IGNORED_LABEL` elsewhere.
        num_prefix_tokens: Tokens up to the last clip's last, which do not depend on the question.
        num_clip_tokens: Tokens that stand for each clip, where there are several.
    """

    input_ids: list[int]
    token_type_ids: list[int]
    labels: list[int]
    num_prefix_tokens: int
    num_clip_tokens: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)


T = TypeVar("T")


def only_clip(row: Row, clips: Sequence[T], *, no_images: str = "") -> T | None:
    """Returns what is known of the one clip of a row, or of the one picture, for a family that takes one.

    Args:
        row: The row.
        clips: What is known of its clips; nothing where that is to be laid out without.
        no_images: Why its family takes no picture; empty where it takes one.

    Returns:
        It; None for a row of text only, and where nothing is known.

    Raises:
        DataError: when the row shows a picture and may not, or more than one clip or picture.
    """
    shows_image = bool(row.videos) and is_image(row.videos[0])
    if shows_image and no_images:
        hint = "leave the row out; Qwen2.5-VL, Qwen3-VL, Qwen3.5 and GLM-4.1V take pictures as images"
        problem = Problem("`images`", quote(file_of(row.videos[0]).name), f"a clip or none: {no_images}", hint)
        raise DataError("the row", [problem])
    if len(row.videos) > 1:
        hint = "join them to one file, or leave the row out; Qwen2.5-VL, Qwen3-VL and Qwen3.5 take several a row"
        column, name = ("`images`", "picture") if shows_image else ("`videos`", "clip")
        need = f"at most one: this model takes one {name} a row"
        problem = Problem(column, f"{len(row.videos)} {name}s", need, hint)
        raise DataError("the row", [problem])
    return clips[0] if clips else None


@contextmanager
def naming(row: Row) -> Iterator[None]:
    """Gives an error of a row or its clip the place of the row that it is about."""
    try:
        yield
    except (DataError, ClipError) as error:
        problems = [replace(problem, where=f"{row.location} {problem.where}") for problem in error.problems]
        raise type(error)("the rows", problems) from error


LATE_S = 100_000.0
"""A second later than any that a clip shows: more than a day."""


def make_clip(num_frames: int, *, height_px: int, width_px: int, decoder: str) -> ClipInfo:
    """Makes up facts of a clip, one frame per second, late enough for seconds of many digits.

    Args:
        num_frames: Its frames, all of them shown.
        height_px: Height of each.
        width_px: Width of each.
        decoder: Name of the decoder.
    """
    return ClipInfo(
        num_frames=num_frames,
        height_px=height_px,
        width_px=width_px,
        timestamps_s=tuple(LATE_S + number for number in range(num_frames)),
        num_frames_total=num_frames,
        avg_fps=1.0,
        duration_s=LATE_S + num_frames,
        decoder=decoder,
        sha256="",
        notes=(),
        frame_indices=tuple(int(LATE_S) + number for number in range(num_frames)),
    )


LayOut = Callable[[Row, Sequence[ClipInfo]], Layout]
"""Lays out a row with its answer, exactly as training does, from facts of its clips and without a frame; with no facts at all, as
if it had no clip."""


class Family(Protocol):
    """The half without torch: asked by recipe checks, plan, export and report."""

    name: str
    """Its name in plans and messages."""
    title: str
    """Its name in sentences."""
    checkpoints: tuple[Checkpoint, ...]
    """Published checkpoints, for `cvft models` and for what their names decide."""
    tags: tuple[str, ...]
    """Tags of a model card."""
    capabilities: Capabilities
    settings: frozenset[str]
    """Recipe keys that have an effect here beyond the common ones; see `cvft.families.settings`."""
    fields: frozenset[str]
    """Names of its own fields in a contract."""
    architectures: tuple[str, ...]
    """`architectures` entries of config.json that are this family's; the published one first."""
    parts: Parts
    runtime: str
    """Module with the torch half, which has a `RUNTIME`."""

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Tells whether a config.json is one of this family's."""

    def check_folder(self, folder: ModelFolder) -> list[Problem]:
        """Returns a problem for every key of the folder's JSON files that is absent, of another kind, or without effect."""

    def context_tokens(self, config: Mapping[str, Any]) -> int:
        """Returns the longest sequence that the model was made for."""

    def preprocessing(self, recipe: Recipe, folder: ModelFolder) -> Preprocessing:
        """Decides every `auto` between a row and the model's inputs.

        Raises:
            CvftError: with what cannot be.
        """

    def check_preprocessing(self, how: Preprocessing, folder: ModelFolder) -> list[Problem]:
        """Returns a problem for every part of a stored preprocessing that this folder cannot be fed with."""

    def check_recipe(self, recipe: Recipe, folder: ModelFolder) -> None:
        """Refuses settings that this folder cannot serve, beyond the rules of a recipe alone.

        Raises:
            CvftError: with every such setting.
        """

    def layouts(self, folder: ModelFolder, how: Preprocessing) -> LayOut:
        """Returns what lays out rows.

        Raises:
            ModelError: when the folder's tokenizer cannot be used.
        """

    def tensors(self, config: Mapping[str, Any]) -> Mapping[str, Shape] | None:
        """Says what the weight files must hold of the loaded model, or None where their index is believed."""

    def module_of(self, tensor: str) -> str | None:
        """Returns the name in the loaded model of a tensor's name in the files, or None where the model leaves it out."""

    def clean_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a config.json that transformers opens without running code of the folder."""

    def merged_config(
        self,
        config: Mapping[str, Any],
        *,
        template: str,
        fields: Mapping[str, FieldValue],
        dtype: str,
        keeps_code: bool,
    ) -> dict[str, Any]:
        """Returns the config.json of a merged folder.

        Args:
            config: The base's.
            template: Prompt template of the contract.
            fields: The family's own fields of the contract.
            dtype: torch's name of the merged weights' precision.
            keeps_code: Whether the folder's own code comes along.
        """

    def costs(self, config: Mapping[str, Any]) -> CostModel | None:
        """Returns formulas for memory and FLOPs, or None where nothing is modelled."""

    def tower_tensors(self, folder: ModelFolder) -> tuple[str, ...]:
        """Returns how names of the tensors begin that make features of pixels; asked with capability `features` only."""

    def feature_fields(self, how: Preprocessing) -> Mapping[str, FieldValue]:
        """Returns what decides features beside frames and weights, by own names; asked with capability `features` only."""

    def feature_bytes(self, config: Mapping[str, Any], clips: Sequence[ClipShape], *, dtype_bytes: int) -> int:
        """Returns the bytes of the cached features of clips, without their files' headers; asked with capability `features` only.

        Args:
            config: A checked config.json.
            clips: The clips.
            dtype_bytes: Bytes of a value.
        """

    def kept_frames(self, folder: ModelFolder, how: Preprocessing) -> KeptFrames:
        """Says how frames are kept in place of features."""

    def longest_clip(self, folder: ModelFolder, how: Preprocessing) -> ClipInfo:
        """Returns facts of a clip that takes as many tokens as any can."""

    def environment(self, how: Preprocessing) -> Mapping[str, str]:
        """Returns variables that the worker needs for this preprocessing; they are part of the plan."""

    def handover(self, engine: Engine, folder: ModelFolder, how: Preprocessing, *, sends: Sends) -> Handover:
        """Says what a serving engine has to be told to feed a merged model as its contract says.

        Args:
            engine: The engine.
            folder: The merged folder.
            how: How rows reach the model.
            sends: What requests carry.

        Raises:
            ModelError: with everything that the engine cannot reproduce.
        """
