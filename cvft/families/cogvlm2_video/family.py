"""CogVLM2-Video as a family: EVA2-CLIP-E tower, Llama-3 decoder, up to 24 time-stamped frames. No torch.

The sampling rules `chat` and `base` are those of its video demo. Source: THUDM/CogVLM2, video_demo, frame loading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from cvft.data.rows import Row
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.process import ClipInfo
from cvft.data.video.view import ClipView
from cvft.errors import CvftError, ModelError, Problem, RecipeError, quote
from cvft.families.cogvlm2_video.architecture import Architecture
from cvft.families.cogvlm2_video.checkpoints import OFFICIAL_ARCHITECTURE, PUBLISHED
from cvft.families.cogvlm2_video.config_file import check_config
from cvft.families.cogvlm2_video.costs import costs_of, feature_bytes
from cvft.families.cogvlm2_video.frames import seen_pixels
from cvft.families.cogvlm2_video.generation_file import check_generation
from cvft.families.cogvlm2_video.layout import (
    NO_IMAGES,
    TEMPLATES,
    build_layout,
    check_place,
    special_tokens,
    time_indices,
)
from cvft.families.cogvlm2_video.rotary import check_tables
from cvft.families.cogvlm2_video.tensors import PARTS, POOLED_SIDE, published_shapes
from cvft.families.cogvlm2_video.tokenizer import load_encoder
from cvft.families.contract import CONTRACT_FILE
from cvft.families.costs import ClipShape, CostModel
from cvft.families.engines import Engine, Sends, refuse_family
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
from cvft.families.parts import Shape, adapted_names, find_unfit_widths
from cvft.families.text_encoder import check_settings_files
from cvft.json_files import check_object, one_of, whole_number
from cvft.recipe import Recipe
from cvft.weights.checkpoints import Checkpoint, find_checkpoint
from cvft.weights.folder import ModelFolder
from cvft.weights.shards import read_shards

MODEL_TYPE = "cogvlm2_video"
ARCHITECTURE = "CogVLM2VideoForCausalLM"
FRAME_MARKERS = 2
"""boi and eoi around the tokens of a frame. Source: the published state-dict keys."""

MAX_FRAMES = 24
"""Most frames of a clip. Source: the published demo."""


class CogVLM2Video:
    """The family; see `cvft.families.family.Family` for what each answer means."""

    name = "cogvlm2_video"
    title = "CogVLM2-Video"
    checkpoints: tuple[Checkpoint, ...] = PUBLISHED
    tags: tuple[str, ...] = ("cogvlm2-video",)
    capabilities = Capabilities(groups=True, features=True, label_logits=True)
    settings = frozenset(
        {
            "export.keep_remote_code",
            "lora.train_projector",
            "lora.train_vision_tower",
            "model.embeddings_on_cpu",
            "model.quantize",
            "model.rope_precision",
            "model.template",
            "train.group_by_clip",
            "train.max_rows_per_group",
            "video.sampling",
        }
    )
    fields = frozenset({"image_size", "num_tokens_per_frame", "rope_precision"})
    architectures: tuple[str, ...] = (OFFICIAL_ARCHITECTURE, ARCHITECTURE)
    parts = PARTS
    runtime = "cvft.families.cogvlm2_video.runtime"

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Looks at the name of the architecture alone."""
        return config.get("architectures") in ([ARCHITECTURE], [OFFICIAL_ARCHITECTURE])

    def check_folder(self, folder: ModelFolder) -> list[Problem]:
        """Goes through config.json and generation_config.json key by key, and opens the files beside the tokenizer."""
        return check_config(folder.config) or [*check_generation(folder), *check_settings_files(folder.path)]

    def context_tokens(self, config: Mapping[str, Any]) -> int:
        """Returns `max_position_embeddings`."""
        return int(config["max_position_embeddings"])

    def preprocessing(self, recipe: Recipe, folder: ModelFolder) -> Preprocessing:
        """Decides template, sampling and length limit where the recipe says `auto` or nothing.

        Published checkpoints all state template "base", so their name decides, as in the published demo: "base" for the base
        checkpoint, "chat" for the others. A folder that is not a published one is believed.
        """
        config = folder.config
        template: str = recipe.model.template
        if template == "auto":
            is_published = config["architectures"] == [OFFICIAL_ARCHITECTURE]
            published = find_checkpoint(recipe.model.path, PUBLISHED)
            by_name = published.template if published is not None else "chat"
            is_ours = (folder.path / CONTRACT_FILE).is_file()
            template = by_name if is_published and not is_ours else config.get("template_version", "base")
        sampling: str = recipe.video.sampling
        if sampling == "auto":
            sampling = "base" if template in ("base", "swift") else "chat"
        return Preprocessing(
            template=template,
            decode=DecodeSettings.of(
                sampling,
                max_frames=_most_frames(recipe),
                decoder=recipe.video.decoder,
                timeout_s=recipe.video.timeout_s,
                memory_gib=recipe.video.memory_gib,
            ),
            max_tokens=recipe.data.max_tokens or self.context_tokens(config),
            fields={**frame_fields(config), "rope_precision": recipe.model.rope_precision},
        )

    def check_preprocessing(self, how: Preprocessing, folder: ModelFolder) -> list[Problem]:
        """Compares with the templates and rules there are, and with the folder's frames."""
        needs = {
            "template": one_of(*TEMPLATES),
            "sampling": one_of("chat", "base", "uniform"),
            "max_frames": whole_number(1, MAX_FRAMES),
            "decoder": one_of("pyav", "decord"),
            "rope_precision": one_of("checkpoint", "fp32"),
            **{name: one_of(value) for name, value in frame_fields(folder.config).items()},
        }
        sampling = how.decode.sampling
        values = {
            **how.fields,
            "template": how.template,
            "sampling": sampling.strategy,
            "max_frames": sampling.max_frames,
            "decoder": how.decode.decoder,
        }
        return check_object(values, needs, where=CONTRACT_FILE, hint="was it edited by hand?")

    def check_recipe(self, recipe: Recipe, folder: ModelFolder) -> None:
        """Refuses code that is not there, widths that cannot be quantized, names of layers that do not exist, another rotary
        table than the folder's, and an embedding on the host that the output layer shares.
        """
        problems: list[Problem] = []
        subject: type[CvftError] = ModelError
        if recipe.export.keep_remote_code and not folder.is_absent and not any(folder.path.glob("*.py")):
            hint = "remove `export.keep_remote_code`, or give a folder with the whole published repository"
            got = f"no *.py file in {folder.path}"
            problems.append(Problem("export.keep_remote_code", got, "the code to keep", hint))
        problems += find_unfit_widths(recipe.model.quantize, PARTS, published_shapes(folder.config))
        stated = folder.config.get("rope_precision", recipe.model.rope_precision)
        if stated != recipe.model.rope_precision:
            need = f"{quote(stated)}, which config.json says that the weights were trained with"
            problems.append(Problem("model.rope_precision", quote(recipe.model.rope_precision), need))
        if recipe.model.embeddings_on_cpu and folder.config.get("tie_word_embeddings"):
            need = "`false`: the output layer is the embedding here, and computes on the GPU"
            problems.append(Problem("model.embeddings_on_cpu", "`true` with tie_word_embeddings", need))
        if any(folder.path.glob("*.safetensors")):
            problems += self._find_other_tables(recipe, folder)
        try:
            adapted_names(PARTS, recipe.lora.targets)
        except RecipeError as error:
            if not problems:
                raise
            problems += error.problems
        if problems:
            raise subject(f"model {folder.path}", problems)

    def _find_other_tables(self, recipe: Recipe, folder: ModelFolder) -> tuple[Problem, ...]:
        try:
            check_tables(
                folder.config,
                lambda: read_shards(folder.path, self.tensors(folder.config)),
                rope_precision=recipe.model.rope_precision,
            )
        except ModelError as error:
            return error.problems
        return ()

    def layouts(self, folder: ModelFolder, how: Preprocessing) -> LayOut:
        """Lays out rows with the folder's tokenizer alone; with an estimate of it for a checkpoint that is not here."""
        encode: Callable[[str], list[int]] = estimate_ids if folder.is_absent else load_encoder(folder)
        special = special_tokens(folder.config)
        sampling = how.decode.sampling.strategy
        num_tokens_per_frame = int(how.fields["num_tokens_per_frame"])

        def lay_out(row: Row, clips: Sequence[ClipInfo]) -> Layout:
            with naming(row):
                clip = only_clip(row, clips, no_images=NO_IMAGES)
                check_place(TEMPLATES[how.template], history=row.history, system=row.system)
                return build_layout(
                    encode,
                    template=TEMPLATES[how.template],
                    special=special,
                    num_tokens_per_frame=num_tokens_per_frame,
                    time_indices=() if clip is None else time_indices(clip.timestamps_s, sampling=sampling),
                    query=row.query,
                    history=row.history,
                    response=row.response,
                )

        return lay_out

    def tensors(self, config: Mapping[str, Any]) -> Mapping[str, Shape]:
        """Lists the published tensors."""
        return published_shapes(config)

    def module_of(self, tensor: str) -> str:
        """Files and modules have the same names."""
        return tensor

    def clean_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Names our own classes in place of the folder's code."""
        kept = {key: value for key, value in config.items() if key != "auto_map"}
        return {**kept, "architectures": [ARCHITECTURE], "model_type": MODEL_TYPE}

    def merged_config(
        self,
        config: Mapping[str, Any],
        *,
        template: str,
        fields: Mapping[str, FieldValue],
        dtype: str,
        keeps_code: bool,
    ) -> dict[str, Any]:
        """States template and precision: the published files all say "base", whatever they were trained on."""
        merged = dict(config) if keeps_code else self.clean_config(config)
        if not keeps_code and fields["rope_precision"] != "checkpoint":
            merged["rope_precision"] = fields["rope_precision"]
        merged.update(template_version=template, torch_dtype=dtype)
        merged.pop("dtype", None)
        return merged

    def costs(self, config: Mapping[str, Any]) -> CostModel:
        """Returns the formulas for these sizes."""
        return costs_of(Architecture.from_config(config))

    def tower_tensors(self, folder: ModelFolder) -> tuple[str, ...]:
        """Names the tower."""
        del folder
        return PARTS.tower

    def feature_fields(self, how: Preprocessing) -> Mapping[str, FieldValue]:
        """Returns the size of a frame."""
        return {"image_size_px": how.fields["image_size"]}

    def kept_frames(self, folder: ModelFolder, how: Preprocessing) -> KeptFrames:
        """The rows and columns of decoded frames that are seen: they are resized as fractions, not as bytes."""
        del folder
        image_size = int(how.fields["image_size"])

        def size_px(view: ClipView) -> tuple[int, int]:
            rows, columns = seen_pixels(view.height_px, view.width_px, image_size=image_size)
            return len(rows), len(columns)

        return KeptFrames({"family": self.name, "image_size_px": image_size}, size_px)

    def longest_clip(self, folder: ModelFolder, how: Preprocessing) -> ClipInfo:
        """All frames, and seconds of many digits; their size changes nothing."""
        del folder
        return make_clip(how.decode.sampling.max_frames, height_px=1, width_px=1, decoder=how.decode.decoder)

    def feature_bytes(self, config: Mapping[str, Any], clips: Sequence[ClipShape], *, dtype_bytes: int) -> int:
        """Counts what is taken between pooling convolution and projector."""
        return feature_bytes(Architecture.from_config(config), clips, dtype_bytes=dtype_bytes)

    def environment(self, how: Preprocessing) -> Mapping[str, str]:
        """Nothing is read from the environment."""
        del how
        return {}

    def handover(self, engine: Engine, folder: ModelFolder, how: Preprocessing, *, sends: Sends) -> NoReturn:
        """Refuses every engine."""
        del folder, how, sends
        refuse_family(engine, self.title, "a model that it does not carry", "one that it has code for")


def _most_frames(recipe: Recipe) -> int:
    """Returns the most frames of a clip: those that the model was made for, where the recipe says nothing."""
    asked = recipe.video.max_frames
    if asked is not None and asked > MAX_FRAMES:
        need = f"at most {MAX_FRAMES}: {COGVLM2_VIDEO.title} was made for so many"
        raise RecipeError(f"recipe {recipe.name}", [Problem("video.max_frames", quote(asked), need)])
    return asked or MAX_FRAMES


def frame_fields(config: Mapping[str, Any]) -> dict[str, int]:
    """Returns the side of a frame and its tokens, by their names in a contract.

    Args:
        config: Values of a checked config.json.
    """
    vision = config["vision_config"]
    patches_per_side = vision["image_size"] // vision["patch_size"]
    num_tokens = (patches_per_side // POOLED_SIDE) ** 2 + FRAME_MARKERS
    return {"image_size": vision["image_size"], "num_tokens_per_frame": num_tokens}


COGVLM2_VIDEO = CogVLM2Video()
