"""InternVL3 and 3.5 as a family, in the form that transformers' own classes open. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cvft.data.rows import Row
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.process import ClipInfo
from cvft.errors import Problem, RecipeError, quote
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
from cvft.families.internvl.checkpoints import PUBLISHED
from cvft.families.internvl.config_file import check_config
from cvft.families.internvl.costs import costs_of
from cvft.families.internvl.handover import hand_over
from cvft.families.internvl.inputs import Inputs, read_channels, write_channels
from cvft.families.internvl.layout import NO_IMAGES, build_layout
from cvft.families.internvl.parts import PARTS
from cvft.families.internvl.preprocessor_file import check_preprocessor, read_channel_norm
from cvft.families.internvl.sizes import MODEL_TYPE, Sizes, ties_embeddings
from cvft.families.internvl.tensors import VISION_PREFIXES, loaded_shapes, module_of, published_shapes
from cvft.families.internvl.tokenizer import SpecialTokens, load_encoder
from cvft.families.parts import Shape
from cvft.families.stock import check_stock_recipe, with_dtype, without_code
from cvft.families.text_encoder import check_settings_files
from cvft.json_files import TEXT, Need, check_object, one_of, whole_number
from cvft.recipe import Recipe
from cvft.weights.checkpoints import Checkpoint
from cvft.weights.folder import ModelFolder

TEMPLATE = "chat"
"""The one prompt template: that of the makers' chat."""

MAX_FRAMES = 8
"""Frames of a clip. Source: the makers' model cards (`num_segments=8`) and transformers' page on the models (`num_frames=8`)."""

SAMPLINGS = ("segments", "uniform")

_UNKNOWN = SpecialTokens(0, 0, 0, 0, 0, 0)
"""Ids where there is no tokenizer: they are counted, never fed."""


class InternVL:
    """See `cvft.families.family.Family` for what each answer means."""

    name = "internvl3_5"
    title = "InternVL3.5"
    architectures: tuple[str, ...] = ("InternVLForConditionalGeneration",)
    checkpoints: tuple[Checkpoint, ...] = PUBLISHED
    tags: tuple[str, ...] = (MODEL_TYPE,)
    capabilities = Capabilities(groups=True, features=True, label_logits=True)
    parts = PARTS
    runtime = "cvft.families.internvl.runtime"
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
            "video.sampling",
        }
    )

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Looks at the names of architecture and model type."""
        return config.get("architectures") == list(self.architectures) and config.get("model_type") == MODEL_TYPE

    def check_folder(self, folder: ModelFolder) -> list[Problem]:
        """Goes through config.json, generation_config.json, the video processor's file and those beside the tokenizer."""
        problems = check_config(folder)
        if not problems and not folder.is_absent:
            sizes = Sizes.from_config(folder.config)
            problems = [
                *check_generation(folder, vocab_size=sizes.vocab_size),
                *check_preprocessor(folder, frame_px=sizes.tower.image_size),
                *check_settings_files(folder.path),
            ]
        return problems

    def context_tokens(self, config: Mapping[str, Any]) -> int:
        """Returns `max_position_embeddings`."""
        return int(config["text_config"]["max_position_embeddings"])

    def preprocessing(self, recipe: Recipe, folder: ModelFolder) -> Preprocessing:
        """Decides sampling and length limit where the recipe says `auto` or nothing: as the makers do."""
        video = recipe.video
        if problems := self._find_conflicts(recipe):
            raise RecipeError(f"recipe {recipe.name}", problems)
        decode = DecodeSettings.of(
            "segments" if video.sampling == "auto" else video.sampling,
            max_frames=video.max_frames or MAX_FRAMES,
            decoder=video.decoder,
            timeout_s=video.timeout_s,
            memory_gib=video.memory_gib,
        )
        norm = read_channel_norm(folder)
        inputs = Inputs(
            system=recipe.model.system or "",
            frame_px=Sizes.from_config(folder.config).tower.image_size,
            pixel_mean=write_channels(norm.mean),
            pixel_std=write_channels(norm.std),
        )
        max_tokens = recipe.data.max_tokens or self.context_tokens(folder.config)
        return Preprocessing(TEMPLATE, decode, max_tokens, inputs.to_fields())

    def _find_conflicts(self, recipe: Recipe) -> list[Problem]:
        video, model, problems = recipe.video, recipe.model, []
        if model.template not in ("auto", TEMPLATE):
            problems.append(Problem("model.template", quote(model.template), f"`auto` or `chat`: {self.title} has one"))
        if video.sampling not in ("auto", *SAMPLINGS):
            need = f"`auto`, `segments` or `uniform`: {self.title} was not made for that rule"
            problems.append(Problem("video.sampling", quote(video.sampling), need))
        return problems

    def check_preprocessing(self, how: Preprocessing, folder: ModelFolder) -> list[Problem]:
        """Compares with the templates and rules that there are, and with the folder's frames."""
        sampling, channels = how.decode.sampling, Need("three numbers", _are_channels)
        needs = {
            "template": one_of(TEMPLATE),
            "sampling": one_of(*SAMPLINGS),
            "max_frames": whole_number(1, 100_000),
            "decoder": one_of("pyav", "decord"),
            "system": TEXT,
            "frame_px": one_of(Sizes.from_config(folder.config).tower.image_size),
            "pixel_mean": channels,
            "pixel_std": channels,
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

    def layouts(self, folder: ModelFolder, how: Preprocessing) -> LayOut:
        """Lays out rows with the folder's tokenizer alone; with an estimate of it for a checkpoint that is not here."""
        encode: Callable[[str], list[int]]
        encode, special = (estimate_ids, _UNKNOWN) if folder.is_absent else load_encoder(folder)
        system = Inputs.of(how.fields).system or None
        tokens_per_frame = Sizes.from_config(folder.config).tower.tokens_per_frame

        def lay_out(row: Row, clips: Sequence[ClipInfo]) -> Layout:
            with naming(row):
                clip = only_clip(row, clips, no_images=NO_IMAGES)
                return build_layout(
                    encode,
                    special=special,
                    num_frames=0 if clip is None else len(clip.view.frame_indices),
                    tokens_per_frame=tokens_per_frame,
                    query=row.query,
                    history=row.history,
                    response=row.response,
                    system=row.system or system,
                )

        return lay_out

    def longest_clip(self, folder: ModelFolder, how: Preprocessing) -> ClipInfo:
        """All frames; their shape does not matter."""
        del folder
        side = Inputs.of(how.fields).frame_px
        return make_clip(how.decode.sampling.max_frames, height_px=side, width_px=side, decoder=how.decode.decoder)

    def tensors(self, config: Mapping[str, Any]) -> Mapping[str, Shape]:
        """Lists the published tensors."""
        return published_shapes(config)

    def module_of(self, tensor: str) -> str:
        """Returns transformers' name of a published tensor."""
        return module_of(tensor)

    def clean_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Leaves out what points at code, and states whether the output layer is the embedding: the default has changed."""
        return {**without_code(config), "tie_word_embeddings": ties_embeddings(config)}

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
        return with_dtype(self.clean_config(config), dtype)

    def costs(self, config: Mapping[str, Any]) -> CostModel:
        """Returns the formulas for these sizes."""
        return costs_of(config)

    def tower_tensors(self, folder: ModelFolder) -> tuple[str, ...]:
        """Names the tower with its projector."""
        del folder
        return VISION_PREFIXES

    def feature_fields(self, how: Preprocessing) -> Mapping[str, FieldValue]:
        """Returns what pixels are."""
        inputs = Inputs.of(how.fields)
        return {
            "family": self.name,
            "frame_px": inputs.frame_px,
            "pixel_mean": inputs.pixel_mean,
            "pixel_std": inputs.pixel_std,
        }

    def feature_bytes(self, config: Mapping[str, Any], clips: Sequence[ClipShape], *, dtype_bytes: int) -> int:
        """Counts a vector of the decoder's width for each token of a clip."""
        return sum(clip.num_tokens for clip in clips) * Sizes.from_config(config).hidden_size * dtype_bytes

    def kept_frames(self, folder: ModelFolder, how: Preprocessing) -> KeptFrames:
        """At the size that the tower takes."""
        del folder
        side = Inputs.of(how.fields).frame_px
        return KeptFrames({"family": self.name, "frame_px": side}, lambda view: (side, side))

    def environment(self, how: Preprocessing) -> Mapping[str, str]:
        """Nothing is read from the environment."""
        del how
        return {}

    def handover(self, engine: Engine, folder: ModelFolder, how: Preprocessing, *, sends: Sends) -> Handover:
        """Tells vLLM; refuses other engines."""
        return hand_over(engine, folder, how, title=self.title, sends=sends)


def _are_channels(value: Any) -> bool:
    try:
        return isinstance(value, str) and write_channels(read_channels(value)) == value
    except ValueError:
        return False


INTERNVL = InternVL()
