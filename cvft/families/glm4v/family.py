"""GLM-4.1V as a family. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cvft.data.rows import Row
from cvft.data.video.process import ClipInfo
from cvft.data.video.view import ClipView
from cvft.errors import Problem, RecipeError
from cvft.families.contract import CONTRACT_FILE
from cvft.families.costs import ClipShape, CostModel
from cvft.families.engines import Engine, Handover, Sends
from cvft.families.estimate import estimate_ids
from cvft.families.family import (
    Capabilities,
    FieldValue,
    KeptFrames,
    LayOut,
    Layout,
    Preprocessing,
    make_clip,
    naming,
    only_clip,
)
from cvft.families.generation_file import check_generation
from cvft.families.glm4v.checkpoints import PUBLISHED
from cvft.families.glm4v.config_file import check_config
from cvft.families.glm4v.costs import costs_of
from cvft.families.glm4v.handover import hand_over
from cvft.families.glm4v.inputs import Inputs, lay_out_clip
from cvft.families.glm4v.layout import build_layout
from cvft.families.glm4v.parts import PARTS
from cvft.families.glm4v.sizes import MODEL_TYPE, Sizes
from cvft.families.glm4v.tensors import VISION, tensor_shapes
from cvft.families.glm4v.tokenizer import SpecialTokens, load_encoder
from cvft.families.grid import patch_fields
from cvft.families.parts import Shape
from cvft.families.stock import (
    check_stock_recipe,
    decode_at_rate,
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

FPS, MIN_FRAMES, MAX_FRAMES = 2.0, 2, 600
"""Two frames a second of at most 300 s. Source: `fps` and `max_duration` of the makers' video processor. It steps through a clip
by half a second from its start, where the rule `fps` of cvft spreads as many frames from the first to the last."""

MAX_CLIP_TOKENS = 30_000
"""Source: `longest_edge` of the makers' video processor, 28 * 28 * 2 * 30000 pixels."""

MOST_TOKENS = 10_000_000


class Glm4v:
    """See `cvft.families.family.Family` for what each answer means."""

    name = MODEL_TYPE
    title = "GLM-4.1V"
    architectures: tuple[str, ...] = ("Glm4vForConditionalGeneration",)
    checkpoints: tuple[Checkpoint, ...] = PUBLISHED
    tags: tuple[str, ...] = (MODEL_TYPE,)
    capabilities = Capabilities(groups=True, features=True, label_logits=True)
    parts = PARTS
    runtime = "cvft.families.glm4v.runtime"
    fields = frozenset(Inputs.__dataclass_fields__)
    settings = frozenset(
        {
            "lora.train_projector",
            "lora.train_vision_tower",
            "model.quantize",
            "model.system",
            "model.template",
            "train.group_by_clip",
            "train.max_rows_per_group",
            "video.fps",
            "video.max_clip_tokens",
            "video.min_frames",
            "video.sampling",
        }
    )

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Looks at the names of architecture and model type."""
        return config.get("architectures") == list(self.architectures) and config.get("model_type") == MODEL_TYPE

    def check_folder(self, folder: ModelFolder) -> list[Problem]:
        """Goes through config.json, generation_config.json and the files beside the tokenizer."""
        problems = check_config(folder)
        if not problems and not folder.is_absent:
            vocab_size = Sizes.from_config(folder.config).vocab_size
            problems = [*check_generation(folder, vocab_size=vocab_size), *check_settings_files(folder.path)]
        return problems

    def context_tokens(self, config: Mapping[str, Any]) -> int:
        """Returns `max_position_embeddings`."""
        return int(config["text_config"]["max_position_embeddings"])

    def preprocessing(self, recipe: Recipe, folder: ModelFolder) -> Preprocessing:
        """Decides sampling, budget and length limit where the recipe says `auto` or nothing: as the makers do."""
        video = recipe.video
        if problems := find_rate_conflicts(recipe, template=TEMPLATE, title=self.title):
            raise RecipeError(f"recipe {recipe.name}", problems)
        decode = decode_at_rate(recipe, fps=FPS, min_frames=MIN_FRAMES, max_frames=MAX_FRAMES)
        inputs = Inputs(
            system=recipe.model.system or "",
            fps=decode.sampling.fps or 0.0,
            min_frames=decode.sampling.min_frames or 0,
            max_clip_tokens=video.max_clip_tokens or MAX_CLIP_TOKENS,
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
            "max_clip_tokens": whole_number(1, MOST_TOKENS),
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
        check_stock_recipe(recipe, folder, self.parts, self.tensors(folder.config))

    def layouts(self, folder: ModelFolder, how: Preprocessing) -> LayOut:
        """Lays out rows with the folder's tokenizer alone; with an estimate of it for a checkpoint that is not here."""
        encode: Callable[[str], list[int]]
        encode, special = (estimate_ids, SpecialTokens()) if folder.is_absent else load_encoder(folder)
        inputs, tower = Inputs.of(how.fields), Sizes.from_config(folder.config).tower

        def lay_out(row: Row, clips: Sequence[ClipInfo]) -> Layout:
            with naming(row):
                clip = only_clip(row, clips)
                return build_layout(
                    encode,
                    special=special,
                    clip=None if clip is None else lay_out_clip(clip.view, inputs=inputs, tower=tower),
                    query=row.query,
                    history=row.history,
                    response=row.response,
                    system=row.system or inputs.system or None,
                )

        return lay_out

    def longest_clip(self, folder: ModelFolder, how: Preprocessing) -> ClipInfo:
        """All frames, of a shape that takes nearly the most tokens."""
        inputs, tower = Inputs.of(how.fields), Sizes.from_config(folder.config).tower
        num_frames = how.decode.sampling.max_frames
        most = max(1, inputs.max_clip_tokens // -(-num_frames // tower.temporal_patch_size))
        num_rows, num_columns = most_square(most)
        sizes = {"height_px": num_rows * tower.token_px, "width_px": num_columns * tower.token_px}
        return make_clip(num_frames, **sizes, decoder=how.decode.decoder)

    def tensors(self, config: Mapping[str, Any]) -> Mapping[str, Shape]:
        """Lists the tensors; files and model use the same names."""
        return tensor_shapes(Sizes.from_config(config))

    def module_of(self, tensor: str) -> str:
        """Returns the same name."""
        return tensor

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
        """Names the tower with its merger."""
        del folder
        return (f"{VISION}.",)

    def feature_fields(self, how: Preprocessing) -> Mapping[str, FieldValue]:
        """Returns the budget of frames."""
        inputs = Inputs.of(how.fields)
        return {
            "family": self.name,
            "fps": inputs.fps,
            "min_frames": inputs.min_frames,
            "max_clip_tokens": inputs.max_clip_tokens,
        }

    def feature_bytes(self, config: Mapping[str, Any], clips: Sequence[ClipShape], *, dtype_bytes: int) -> int:
        """Counts a vector of the decoder's width for each token of a clip."""
        return sum(clip.num_tokens for clip in clips) * Sizes.from_config(config).hidden_size * dtype_bytes

    def kept_frames(self, folder: ModelFolder, how: Preprocessing) -> KeptFrames:
        """At the size at which they become patches."""
        inputs, tower = Inputs.of(how.fields), Sizes.from_config(folder.config).tower

        def size_px(view: ClipView) -> tuple[int, int]:
            return lay_out_clip(view, inputs=inputs, tower=tower).grid.frame_px(tower.patch_size)

        return KeptFrames({**self.feature_fields(how), **patch_fields(tower)}, size_px)

    def environment(self, how: Preprocessing) -> Mapping[str, str]:
        """Nothing is read from the environment."""
        del how
        return {}

    def handover(self, engine: Engine, folder: ModelFolder, how: Preprocessing, *, sends: Sends) -> Handover:
        """Tells vLLM; refuses other engines."""
        return hand_over(engine, folder, how, title=self.title, sends=sends)


GLM4V = Glm4v()
