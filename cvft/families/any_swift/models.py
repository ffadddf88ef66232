"""The models that are trained through ms-swift's templates: what ms-swift and transformers call them and their parts. No torch.

Source of names: ms-swift 4.6's registry and transformers 5.19's classes; `tests/test_any_swift_models.py` compares with both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cvft.families.names import ATTENTION_ALIASES, MLP_ALIASES
from cvft.families.parts import Parts
from cvft.weights.checkpoints import Checkpoint

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
LINEAR = (*QKV, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
"""Linear layers of a decoder block, by transformers' names for Llama, Qwen2, Qwen3 and Mistral."""

DECODERS = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type` of decoders with these layers."""


@dataclass(frozen=True)
class SwiftModel:
    """One kind of model.

    Args:
        name: Name of its family.
        title: Its name in sentences.
        architecture: transformers' class, as config.json names it.
        model_type: `model_type` of config.json.
        swift_type: ms-swift's type of the model.
        template: ms-swift's template.
        processor: transformers' class that holds tokenizer and image processor.
        image_token: Placeholder that stands for a frame in ms-swift's text; its id stands under a frame's tokens.
        image_id: Its id, which ms-swift's template states as a number.
        decoder: Where the decoder lies in the loaded model.
        tower: Where the vision tower lies.
        projector: Where the projector lies.
        projector_linear: Names of the projector's linear layers.
        renamed: How names in published files begin -> how those of the loaded model do; the first that fits.
        frame: What is written for each frame before the first question, with `{number}` from 1.
        tile_tokens: Attribute of the processor that says how many tokens stand for a tile of a frame, where transformers' model
            does not compare their number with what it makes of the pixels; it would leave some out without a word.
        default_system: System prompt of ms-swift's template where a recipe states none.
        checkpoints: Published checkpoints.
    """

    name: str
    title: str
    architecture: str
    model_type: str
    swift_type: str
    template: str
    processor: str
    image_token: str
    image_id: int
    decoder: str
    tower: str
    projector: str
    projector_linear: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    frame: str = "<image>"
    tile_tokens: str = ""
    default_system: str = ""
    checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def parts(self) -> Parts:
        """Names of the parts of the loaded model."""
        block, tower, projector = (name.replace(".", r"\.") for name in (self.decoder, self.tower, self.projector))
        return Parts(
            block=rf"{block}\.layers\.\d+",
            qkv=QKV,
            linear=LINEAR,
            tower_linear=rf"{tower}\.encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.(fc1|fc2))",
            projector_linear=rf"{projector}\.({'|'.join(name.replace('.', chr(92) + '.') for name in self.projector_linear)})",
            embedding=f"{self.decoder}.embed_tokens.weight",
            output_layer="lm_head.weight",
            tower=(f"{self.tower}.",),
            vision=f"{self.tower}.",
            projector=(self.projector,),
            layers=f"{self.decoder}.layers",
            cached=(f"{self.tower}.", f"{self.projector}."),
            aliases={**ATTENTION_ALIASES, **MLP_ALIASES},
        )

    def module_of(self, tensor: str) -> str:
        """Returns the name in the loaded model of a tensor's name in the files."""
        for published, loaded in self.renamed.items():
            if tensor.startswith(published):
                return loaded + tensor.removeprefix(published)
        return tensor

    def is_vision(self, tensor: str) -> bool:
        """Tells whether a tensor, by its name in the files, makes features of pixels: all do but decoder and output layer."""
        return not self.module_of(tensor).startswith((f"{self.decoder}.", "lm_head."))


LLAVA_NAMES = {
    "language_model.lm_head.": "lm_head.",
    "language_model.model.": "model.language_model.",
    "model.vision_tower.vision_model.": "model.vision_tower.",
    "vision_tower.vision_model.": "model.vision_tower.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
    "image_newline": "model.image_newline",
}
"""How files of the LLaVA models begin, of the older form and of today's."""

LLAVA_ONEVISION = SwiftModel(
    name="llava_onevision",
    title="LLaVA-OneVision",
    architecture="LlavaOnevisionForConditionalGeneration",
    model_type="llava_onevision",
    swift_type="llava_onevision_hf",
    template="llava_onevision_hf",
    processor="LlavaOnevisionProcessor",
    image_token="<image>",
    image_id=151646,
    decoder="model.language_model",
    tower="model.vision_tower",
    projector="model.multi_modal_projector",
    projector_linear=("linear_1", "linear_2"),
    renamed=LLAVA_NAMES,
)

IDEFICS3 = SwiftModel(
    name="idefics3",
    title="Idefics3",
    architecture="Idefics3ForConditionalGeneration",
    model_type="idefics3",
    swift_type="idefics3",
    template="idefics3",
    processor="Idefics3Processor",
    image_token="<image>",
    image_id=128257,
    decoder="model.text_model",
    tower="model.vision_model",
    projector="model.connector",
    projector_linear=("modality_projection.proj",),
    # of frames side by side, or before a line break, ms-swift's template leaves tokens out
    frame="Frame{number}: <image>; ",
    tile_tokens="image_seq_len",
)

MODELS = (LLAVA_ONEVISION, IDEFICS3)
"""One row per kind of model."""

_OWN_DECODER = "ms-swift leaves its clips to {package}, which decodes and samples by itself"
_PROCESSOR = "ms-swift leaves its clips to transformers' video processor, which samples by itself and needs torchvision"
_QWEN = _OWN_DECODER.format(package="qwen_vl_utils")

REFUSED: Mapping[str, str] = {
    "DiffusionGemmaForBlockDiffusion": f"{_PROCESSOR}; it does not write from left to right",
    "Ernie4_5_VLMoeForConditionalGeneration": _OWN_DECODER.format(package="its processor and moviepy"),
    "Gemma4ForConditionalGeneration": _PROCESSOR,
    "Gemma4UnifiedForConditionalGeneration": _PROCESSOR,
    "Glm4vMoeForConditionalGeneration": f"{_PROCESSOR}; its dense relative, GLM-4.1V, is trained",
    "Glm5NextForConditionalGeneration": _PROCESSOR,
    "LlavaNextVideoForConditionalGeneration": f"{_PROCESSOR}; of images, ms-swift's template makes too few tokens",
    "MiniCPMV4_6ForConditionalGeneration": _PROCESSOR,
    "MiniCPMV4_7ForConditionalGeneration": _PROCESSOR,
    "MiniMaxM3SparseForConditionalGeneration": _PROCESSOR,
    "Qwen2VLForConditionalGeneration": f"{_QWEN}; its successor, Qwen2.5-VL, is trained",
    "Qwen2_5OmniForConditionalGeneration": _OWN_DECODER.format(package="qwen_omni_utils"),
    "Qwen3OmniMoeForConditionalGeneration": _OWN_DECODER.format(package="qwen_omni_utils"),
    "Qwen4ExpForConditionalGeneration": _QWEN,
}
"""Video models that ms-swift 4.6 registers, transformers 5.19 has, and cvft does not train yet: what stands in the way of each.
Source: their templates; none has been tried. A test holds that no other is left out."""

UNREGISTERED: Mapping[str, str] = {
    "SmolVLMForConditionalGeneration": "ms-swift has no template for it, and cvft no encoder for its makers' form of clips",
}
"""Video models of transformers 5.19 that ms-swift 4.6 does not register, and that people ask for."""


def why_refused(config: Mapping[str, Any]) -> str:
    """Says why a model cannot be trained that no family recognises; nothing where there is nothing to say.

    Args:
        config: Its config.json.
    """
    if "auto_map" in config:
        return "config.json points at code of its folder (`auto_map`), which cvft never runs"
    architectures = config.get("architectures")
    names = [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    reasons = {**REFUSED, **UNREGISTERED}
    return next((reasons[name] for name in names if name in reasons), "")
