"""Models that are trained through ms-swift's templates, as families. No torch.

row + decoded frames -> ms-swift's template -> ids, labels, pixels        lengths: asked of the same template, in a process beside
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from cvft.data.video.loader import DecodeSettings
from cvft.data.video.process import ClipInfo
from cvft.errors import Problem, RecipeError, quote
from cvft.families.any_swift.config_file import check_config
from cvft.families.any_swift.inputs import PACKAGES, Inputs, hash_processor, installed_versions
from cvft.families.any_swift.layouts import lay_out_beside
from cvft.families.any_swift.models import MODELS, SwiftModel
from cvft.families.contract import CONTRACT_FILE
from cvft.families.costs import ClipShape, CostModel
from cvft.families.engines import Engine, Sends, refuse_family
from cvft.families.family import AS_DECODED, Capabilities, FieldValue, KeptFrames, LayOut, Preprocessing, make_clip
from cvft.families.parts import Shape
from cvft.families.stock import check_stock_recipe, with_dtype, without_code
from cvft.json_files import TEXT, check_object, one_of, whole_number
from cvft.recipe import Recipe
from cvft.weights.folder import ModelFolder
from cvft.weights.shards import read_shards

MAX_FRAMES = 8
"""Frames of a clip where the recipe does not say: each is an image of its own, of hundreds of tokens or thousands."""

SAMPLINGS = ("uniform", "segments")

SIDE_PX = 1024
"""Side of the frames of the longest clip that is reckoned with before a clip is looked at; its own size counts afterwards."""


class AnySwift:
    """See `cvft.families.family.Family` for what each answer means.

    Args:
        model: What ms-swift and transformers call it.
    """

    tags: tuple[str, ...] = ("ms-swift",)
    runtime = "cvft.families.any_swift.runtime"
    fields = frozenset(Inputs.__dataclass_fields__)
    settings = frozenset(
        {
            "lora.train_projector",
            "lora.train_vision_tower",
            "model.system",
            "model.template",
            "train.group_by_clip",
            "train.max_rows_per_group",
            "video.sampling",
        }
    )

    def __init__(self, model: SwiftModel) -> None:
        self.model = model
        self.name = model.name
        self.title = model.title
        self.architectures: tuple[str, ...] = (model.architecture,)
        self.checkpoints = model.checkpoints
        self.parts = model.parts
        self.capabilities = Capabilities(
            groups="proven", features="proven", label_logits=True, unpromised=unpromised(model)
        )

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Looks at the names of architecture and model type."""
        return (
            config.get("architectures") == [self.model.architecture]
            and config.get("model_type") == self.model.model_type
        )

    def check_folder(self, folder: ModelFolder) -> list[Problem]:
        """Goes through config.json, generation_config.json and the files of processor and tokenizer."""
        return check_config(folder)

    def context_tokens(self, config: Mapping[str, Any]) -> int:
        """Returns `max_position_embeddings`."""
        return int(config["text_config"]["max_position_embeddings"])

    def preprocessing(self, recipe: Recipe, folder: ModelFolder) -> Preprocessing:
        """Decides sampling, system prompt and length limit where the recipe says `auto` or nothing."""
        video, model, problems = recipe.video, recipe.model, []
        if model.template not in ("auto", self.model.template):
            need = f"`auto` or {quote(self.model.template)}, ms-swift's template of {self.title}"
            problems.append(Problem("model.template", quote(model.template), need))
        if video.sampling not in ("auto", *SAMPLINGS):
            need = "`auto`, `uniform` or `segments`: frames become images, which have no seconds"
            problems.append(Problem("video.sampling", quote(video.sampling), need))
        if problems:
            raise RecipeError(f"recipe {recipe.name}", problems)
        decode = DecodeSettings.of(
            "uniform" if video.sampling == "auto" else video.sampling,
            max_frames=video.max_frames or MAX_FRAMES,
            decoder=video.decoder,
            timeout_s=video.timeout_s,
            memory_gib=video.memory_gib,
        )
        inputs = Inputs(
            system=self.model.default_system if model.system is None else model.system,
            frames=self.model.frame,
            processor_sha256=hash_processor(folder),
            **installed_versions(),
        )
        max_tokens = recipe.data.max_tokens or self.context_tokens(folder.config)
        return Preprocessing(self.model.template, decode, max_tokens, inputs.to_fields())

    def check_preprocessing(self, how: Preprocessing, folder: ModelFolder) -> list[Problem]:
        """Compares with the template, with the folder's processor, and with the packages that are installed."""
        sampling = how.decode.sampling
        needs = {
            "template": one_of(self.model.template),
            "sampling": one_of(*SAMPLINGS),
            "max_frames": whole_number(1, 100_000),
            "decoder": one_of("pyav", "decord"),
            "system": TEXT,
            "frames": one_of(self.model.frame),
            "processor_sha256": one_of(hash_processor(folder)),
            **{name: one_of(here) for name, here in installed_versions().items()},
        }
        values = {
            **how.fields,
            "template": how.template,
            "sampling": sampling.strategy,
            "max_frames": sampling.max_frames,
            "decoder": how.decode.decoder,
        }
        packages = " and ".join(PACKAGES.values())
        hint = f"use the model's own files, and install the versions of {packages} that it was trained with"
        return check_object(values, needs, where=CONTRACT_FILE, hint=hint)

    def check_recipe(self, recipe: Recipe, folder: ModelFolder) -> None:
        """Refuses names of layers that do not exist, and features that would change in training."""
        check_stock_recipe(recipe, folder, self.parts, {})

    def layouts(self, folder: ModelFolder, how: Preprocessing) -> LayOut:
        """Asks ms-swift's template, in a process beside that loads it once."""
        return lay_out_beside(self.name, folder, how)

    def longest_clip(self, folder: ModelFolder, how: Preprocessing) -> ClipInfo:
        """All frames, of a size that takes about as many tokens as any."""
        del folder
        most = how.decode.sampling.max_frames
        return make_clip(most, height_px=SIDE_PX, width_px=SIDE_PX, decoder=how.decode.decoder)

    def tensors(self, config: Mapping[str, Any]) -> Mapping[str, Shape] | None:
        """The files' headers are believed; transformers proves them when it loads."""
        del config
        return None

    def module_of(self, tensor: str) -> str:
        """Returns transformers' name of a published tensor."""
        return self.model.module_of(tensor)

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
        return with_dtype(self.clean_config(config), dtype)

    def costs(self, config: Mapping[str, Any]) -> CostModel | None:
        """Nothing is modelled."""
        del config
        return None

    def tower_tensors(self, folder: ModelFolder) -> tuple[str, ...]:
        """Returns the names of all tensors but the decoder's."""
        names = (entry.name for shard in read_shards(folder.path, None) for entry in shard.entries)
        return tuple(filter(self.model.is_vision, names))

    def feature_fields(self, how: Preprocessing) -> Mapping[str, FieldValue]:
        """Returns what makes pixels of frames."""
        inputs = Inputs.of(how.fields)
        return {
            "family": self.name,
            "processor_sha256": inputs.processor_sha256,
            "swift_version": inputs.swift_version,
            "transformers_version": inputs.transformers_version,
        }

    def feature_bytes(self, config: Mapping[str, Any], clips: Sequence[ClipShape], *, dtype_bytes: int) -> int:
        """Counts a vector of the decoder's width for each token of a clip."""
        width: int = config["text_config"]["hidden_size"]
        return sum(clip.num_tokens for clip in clips) * width * dtype_bytes

    def kept_frames(self, folder: ModelFolder, how: Preprocessing) -> KeptFrames:
        """As decoded: what becomes of them is the template's."""
        del folder, how
        return AS_DECODED

    def environment(self, how: Preprocessing) -> Mapping[str, str]:
        """No variable decides what the template makes of images; a test goes through its code."""
        del how
        return {}

    def handover(self, engine: Engine, folder: ModelFolder, how: Preprocessing, *, sends: Sends) -> NoReturn:
        """Refuses every engine."""
        del folder, how, sends
        refuse_family(
            engine, self.title, "a model whose frames are images without seconds", "one of a family of cvft's own"
        )


def unpromised(model: SwiftModel) -> tuple[str, ...]:
    """Says what cannot be promised of a model that is trained through ms-swift, a sentence each."""
    return (
        f"ms-swift's template {quote(model.template)} makes the inputs of {model.title}, and transformers' processor the pixels: "
        "cvft shows no golden of its makers",
        f"each frame is handed over as an image of its own, in order, as {quote(model.frame)}: the model is not told its second",
        "weight files are taken as their index says; transformers proves them when it loads",
        "another version of ms-swift or transformers may make other inputs: the contract holds both, and others are refused",
    )


FAMILIES = tuple(AnySwift(model) for model in MODELS)
"""One family per kind of model."""
