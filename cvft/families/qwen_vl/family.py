"""Qwen's video models as families: Qwen2.5-VL, Qwen3-VL, Qwen3.5, one instance per generation. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cvft.data.rows import Row
from cvft.data.video.process import ClipInfo
from cvft.data.video.view import ClipView
from cvft.errors import Problem, RecipeError
from cvft.families.contract import CONTRACT_FILE
from cvft.families.costs import ClipShape, CostModel
from cvft.families.engines import Engine, Handover, Sends
from cvft.families.estimate import estimate_ids
from cvft.families.family import Capabilities, FieldValue, KeptFrames, LayOut, Layout, Preprocessing, make_clip, naming
from cvft.families.generation_file import check_generation
from cvft.families.grid import patch_fields
from cvft.families.parts import Shape
from cvft.families.qwen_vl.checkpoints import PUBLISHED
from cvft.families.qwen_vl.config_file import check_config
from cvft.families.qwen_vl.costs import costs_of, feature_bytes
from cvft.families.qwen_vl.handover import hand_over
from cvft.families.qwen_vl.inputs import Inputs, lay_out_clip
from cvft.families.qwen_vl.layout import Style, build_layout
from cvft.families.qwen_vl.norms import NORMS
from cvft.families.qwen_vl.sizes import QWEN3_5_MOE, QWEN3_VL_MOE, Sizes, text_values
from cvft.families.qwen_vl.tensors import VISION_PREFIXES, loaded_shapes, module_of, published_shapes
from cvft.families.qwen_vl.tokenizer import SpecialTokens, load_encoder
from cvft.families.qwen_vl.variants import (
    FPS,
    GENERATIONS,
    MAX_CLIP_TOKENS,
    MAX_FRAME_TOKENS,
    MAX_FRAMES,
    MIN_FRAME_TOKENS,
    MIN_FRAMES,
    Generation,
)
from cvft.families.stock import (
    check_stock_recipe,
    decode_at_rate,
    find_crossed_bounds,
    find_rate_conflicts,
    most_square,
    with_dtype,
    without_code,
)
from cvft.families.text_encoder import check_settings_files
from cvft.json_files import TEXT, check_object, number, one_of, whole_number
from cvft.recipe import Recipe
from cvft.weights.checkpoints import Checkpoint
from cvft.weights.folder import ModelFolder

TEMPLATE = "chat"
"""The one prompt template: that of the makers' chat."""

MOST_TOKENS = 10_000_000

_UNKNOWN = SpecialTokens(0, 0, 0, 0, 0, 0, 0, 0, 0)
"""Ids where there is no tokenizer: they are counted, never fed."""


class QwenVL:
    """A generation as a family; see `cvft.families.family.Family` for what each answer means.

    Args:
        generation: Which one.
    """

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.name = generation.name
        self.title = generation.title
        self.architectures: tuple[str, ...] = (generation.architecture,)
        self.checkpoints: tuple[Checkpoint, ...] = PUBLISHED[generation.name]
        self.tags: tuple[str, ...] = (generation.name,)
        self.capabilities = Capabilities(groups=True, features=True, label_logits=True)
        self.parts = generation.parts
        self.runtime = "cvft.families.qwen_vl.runtime"
        self.fields = frozenset(Inputs.__dataclass_fields__)
        own = {"model.clip_tags"} if generation.style.has_seconds else {"model.text_positions", "model.grid_seconds"}
        quantized = (
            () if generation.name in (QWEN3_VL_MOE, QWEN3_5_MOE) else ("model.quantize",)
        )  # experts are no linear layers
        self.settings = frozenset(
            {
                *own,
                *quantized,
                "lora.train_projector",
                "lora.train_vision_tower",
                "model.system",
                "model.template",
                "train.group_by_clip",
                "train.max_rows_per_group",
                "video.fps",
                "video.max_clip_tokens",
                "video.max_frame_tokens",
                "video.min_frame_tokens",
                "video.min_frames",
                "video.sampling",
            }
        )

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Looks at the names of architecture and model type."""
        return config.get("architectures") == list(self.architectures) and config.get("model_type") == self.name

    def check_folder(self, folder: ModelFolder) -> list[Problem]:
        """Goes through config.json, generation_config.json and the files beside the tokenizer."""
        problems = check_config(folder)
        if not problems and not folder.is_absent:
            vocab_size = text_values(folder.config)["vocab_size"]
            problems = [*check_generation(folder, vocab_size=vocab_size), *check_settings_files(folder.path)]
        return problems

    def context_tokens(self, config: Mapping[str, Any]) -> int:
        """Returns `max_position_embeddings`."""
        return int(text_values(config)["max_position_embeddings"])

    def preprocessing(self, recipe: Recipe, folder: ModelFolder) -> Preprocessing:
        """Decides sampling, budgets and length limit where the recipe says `auto` or nothing: as the makers do."""
        video, model = recipe.video, recipe.model
        problems = find_rate_conflicts(recipe, template=TEMPLATE, title=self.title)
        if problems := [*problems, *find_crossed_bounds(recipe, "min_frame_tokens", "max_frame_tokens")]:
            raise RecipeError(f"recipe {recipe.name}", problems)
        decode = decode_at_rate(recipe, fps=FPS, min_frames=MIN_FRAMES, max_frames=MAX_FRAMES)
        max_frame_tokens = video.max_frame_tokens or max(MAX_FRAME_TOKENS, video.min_frame_tokens or 0)
        inputs = Inputs(
            system=(self.generation.style.system or "") if model.system is None else model.system,
            fps=decode.sampling.fps or 0.0,
            min_frames=decode.sampling.min_frames or 0,
            min_frame_tokens=video.min_frame_tokens or min(MIN_FRAME_TOKENS, max_frame_tokens),
            max_frame_tokens=max_frame_tokens,
            max_clip_tokens=video.max_clip_tokens or MAX_CLIP_TOKENS,
            text_positions=model.text_positions,
            grid_seconds=model.grid_seconds,
            clip_tags=model.clip_tags,
        )
        max_tokens = recipe.data.max_tokens or self.context_tokens(folder.config)
        return Preprocessing(TEMPLATE, decode, max_tokens, inputs.to_fields())

    def check_preprocessing(self, how: Preprocessing, folder: ModelFolder) -> list[Problem]:
        """Compares with the templates, rules and numbers that there are."""
        del folder
        sampling = how.decode.sampling
        by_rate = sampling.strategy == "fps"
        needs = {
            "template": one_of(TEMPLATE),
            "sampling": one_of("fps", "uniform"),
            "max_frames": whole_number(1, 100_000),
            "decoder": one_of("pyav", "decord"),
            "system": TEXT,
            "fps": number(1e-9, 1000) if by_rate else one_of(0, 0.0),
            "min_frames": whole_number(1, sampling.max_frames) if by_rate else one_of(0),
            "min_frame_tokens": whole_number(1, MOST_TOKENS),
            "max_frame_tokens": whole_number(1, MOST_TOKENS),
            "max_clip_tokens": whole_number(1, MOST_TOKENS),
            "text_positions": one_of("released", "transformers5"),
            "grid_seconds": one_of("exact", "truncated"),
            "clip_tags": one_of("released", "transformers5"),
        }
        values = {
            **how.fields,
            "template": how.template,
            "sampling": sampling.strategy,
            "max_frames": sampling.max_frames,
            "decoder": how.decode.decoder,
        }
        return check_object(values, needs, where=CONTRACT_FILE, hint="was it edited by hand?")

    def check_recipe(self, recipe: Recipe, folder: ModelFolder) -> None:
        """Refuses names of layers that do not exist, and features that would change in training."""
        check_stock_recipe(recipe, folder, self.parts, loaded_shapes(Sizes.from_config(folder.config)))

    def style(self, inputs: Inputs) -> Style:
        """Returns how rows are written, with the system prompt that was chosen."""
        return replace(self.generation.style, system=inputs.system or None)

    def tokens_per_second(self, config: Mapping[str, Any]) -> float:
        """Returns positions per second: `tokens_per_second` of config.json, 4 by transformers where it is absent."""
        return float(config["vision_config"].get("tokens_per_second", 4))

    def layouts(self, folder: ModelFolder, how: Preprocessing) -> LayOut:
        """Lays out rows with the folder's tokenizer alone; with an estimate of it for a checkpoint that is not here."""
        encode: Callable[[str], list[int]]
        encode, special = (estimate_ids, _UNKNOWN) if folder.is_absent else load_encoder(folder)
        inputs, tower = Inputs.of(how.fields), Sizes.from_config(folder.config).tower
        style, tokens_per_second = self.style(inputs), self.tokens_per_second(folder.config)

        def lay_out(row: Row, clips: Sequence[ClipInfo]) -> Layout:
            with naming(row):
                shown = [
                    lay_out_clip(
                        clip.view, inputs=inputs, tower=tower, style=style, tokens_per_second=tokens_per_second
                    )
                    for clip in clips
                ]
                return build_layout(
                    encode,
                    style=style,
                    special=special,
                    clips=shown,
                    clip_tags=inputs.clip_tags,
                    query=row.query,
                    history=row.history,
                    system=row.system,
                    response=row.response,
                )

        return lay_out

    def longest_clip(self, folder: ModelFolder, how: Preprocessing) -> ClipInfo:
        """All frames, of a shape that takes the most tokens."""
        inputs, tower = Inputs.of(how.fields), Sizes.from_config(folder.config).tower
        num_frames = how.decode.sampling.max_frames
        num_grids = -(-num_frames // tower.temporal_patch_size)
        most = max(min(inputs.max_frame_tokens, inputs.max_clip_tokens // num_grids), inputs.min_frame_tokens)
        num_rows, num_columns = most_square(most)
        side = tower.patch_size * tower.spatial_merge_size
        sizes = {"height_px": num_rows * side, "width_px": num_columns * side}
        return make_clip(num_frames, **sizes, decoder=how.decode.decoder)

    def tensors(self, config: Mapping[str, Any]) -> Mapping[str, Shape]:
        """Lists the published tensors."""
        return published_shapes(config)

    def module_of(self, tensor: str) -> str | None:
        """Returns transformers' name of a published tensor."""
        return module_of(tensor)

    def clean_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Leaves out what points at code."""
        return without_code(config)

    def merged_config(
        self,
        config: Mapping[str, Any],
        *,
        template: str,
        fields: Mapping[str, FieldValue],
        dtype: str,
        keeps_code: bool,
    ) -> dict[str, Any]:
        """States the precision wherever config.json states one."""
        del template, fields, keeps_code
        return with_dtype(without_code(config), dtype)

    def costs(self, config: Mapping[str, Any]) -> CostModel:
        """Returns the formulas for these sizes."""
        return costs_of(config)

    def tower_tensors(self, folder: ModelFolder) -> tuple[str, ...]:
        """Names the tower with its mergers."""
        del folder
        return VISION_PREFIXES

    def feature_fields(self, how: Preprocessing) -> Mapping[str, FieldValue]:
        """Returns the budgets of frames."""
        inputs = Inputs.of(how.fields)
        return {
            "family": self.name,
            "fps": inputs.fps,
            "min_frames": inputs.min_frames,
            "min_frame_tokens": inputs.min_frame_tokens,
            "max_frame_tokens": inputs.max_frame_tokens,
            "max_clip_tokens": inputs.max_clip_tokens,
        }

    def feature_bytes(self, config: Mapping[str, Any], clips: Sequence[ClipShape], *, dtype_bytes: int) -> int:
        """Counts what is taken behind the mergers."""
        return feature_bytes(Sizes.from_config(config), clips, dtype_bytes=dtype_bytes)

    def kept_frames(self, folder: ModelFolder, how: Preprocessing) -> KeptFrames:
        """At the size at which they become patches."""
        inputs, tower = Inputs.of(how.fields), Sizes.from_config(folder.config).tower
        style, tokens_per_second = self.style(inputs), self.tokens_per_second(folder.config)

        def size_px(view: ClipView) -> tuple[int, int]:
            shown = lay_out_clip(view, inputs=inputs, tower=tower, style=style, tokens_per_second=tokens_per_second)
            return shown.grid.frame_px(tower.patch_size)

        return KeptFrames({**self.feature_fields(how), **patch_fields(tower)}, size_px)

    def environment(self, how: Preprocessing) -> Mapping[str, str]:
        """Nothing is read from the environment."""
        del how
        return {}

    def handover(self, engine: Engine, folder: ModelFolder, how: Preprocessing, *, sends: Sends) -> Handover:
        """Tells vLLM; refuses other engines."""
        style, tower = self.style(Inputs.of(how.fields)), Sizes.from_config(folder.config).tower
        norm = NORMS[self.generation.look]
        return hand_over(engine, folder, how, style=style, tower=tower, norm=norm, title=self.title, sends=sends)


FAMILIES = tuple(QwenVL(generation) for generation in GENERATIONS)
"""One per generation."""

BY_NAME_OF_FAMILY = {family.name: family for family in FAMILIES}


def family_of(config: Mapping[str, Any]) -> QwenVL:
    """Returns the generation of a checked config.json."""
    return BY_NAME_OF_FAMILY[config["model_type"]]
