"""Weights by name: a model folder becomes a model in memory, and nothing that lies in the folder runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from cvft.errors import ModelError
from cvft.families.cogvlm2_video.config_file import CARRIED_OUT, VISION_CARRIED_OUT, check_config
from cvft.families.cogvlm2_video.family import ARCHITECTURE, COGVLM2_VIDEO
from cvft.families.cogvlm2_video.generation_file import check_generation, stop_tokens
from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
from cvft.families.cogvlm2_video.rotary import check_tables
from cvft.families.cogvlm2_video.tensors import PARTS, TOWER_PREFIX, published_shapes
from cvft.families.cogvlm2_video.tokenizer import load_encoder
from cvft.families.network.loading import LOADING_KINDS, quiet_transformers
from cvft.families.parts import find_unfit_widths
from cvft.families.text_encoder import check_settings_files
from cvft.families.unknown import refuse_unknown
from cvft.weights.folder import ModelFolder
from cvft.weights.shards import read_shards

if TYPE_CHECKING:
    from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
    from cvft.families.cogvlm2_video.network.vision import VisionTower

KEPT_MODULES = ("lm_head", "model.vision")
"""What keeps its precision where the decoder blocks are quantized."""

FLOATS = ("rms_norm_eps", "rope_theta", "initializer_range", "layer_norm_eps", "dropout_prob")

CONFIG_KEYS = (*CARRIED_OUT, "initializer_range", "use_cache")
"""Keys of a config.json that the configuration takes; the others change nothing, or were refused."""


def load_config(folder: ModelFolder | Path | str) -> CogVLM2VideoConfig:
    """Builds the configuration of an official, merged or tiny model folder.

    Args:
        folder: Model folder.

    Returns:
        The configuration, without `auto_map`.

    Raises:
        ModelError: when config.json cannot be used.
    """
    folder = ModelFolder.of(folder)
    if not COGVLM2_VIDEO.recognises(folder.config):
        raise refuse_unknown(folder, [COGVLM2_VIDEO])
    if problems := check_config(folder.config):
        raise ModelError(f"model {folder.path}", problems)
    vision = {key: _as_typed(key, folder.config["vision_config"].get(key)) for key in VISION_CARRIED_OUT}
    kept = {key: _as_typed(key, folder.config[key]) for key in CONFIG_KEYS if key in folder.config}
    kept["vision_config"] = {key: value for key, value in vision.items() if value is not None}
    config = CogVLM2VideoConfig(**kept)
    config.architectures = [ARCHITECTURE]
    return config


def _as_typed(key: str, value: Any) -> Any:
    """JSON writes a float without decimals as a whole number where it is one."""
    return float(value) if key in FLOATS and value is not None else value


def load_tokenizer(model: ModelFolder | Path) -> PreTrainedTokenizerFast:
    """Loads the fast tokenizer of a folder without looking at the folder's config or code.

    transformers 5 takes a local folder whose config has no `model_type` for a Mistral one and offers a "fix" that splits
    every digit, so the class is named here and the fix is off.

    Args:
        model: Folder with `tokenizer.json`.

    Returns:
        The tokenizer.

    Raises:
        ModelError: as `load_encoder`.
    """
    load_encoder(model)
    folder = model.path if isinstance(model, ModelFolder) else model
    if problems := check_settings_files(folder):
        raise ModelError(f"model {folder}", problems)
    return PreTrainedTokenizerFast.from_pretrained(str(folder), fix_mistral_regex=False)


def load_model(
    folder: ModelFolder | Path | str,
    *,
    dtype: torch.dtype,
    attention: str | None = None,
    rope_precision: str = "checkpoint",
    device_map: Any = None,
    with_tower: bool = True,
    quantize: str = "none",
    embeddings_on_cpu: bool = False,
) -> CogVLM2VideoForCausalLM:
    """Loads a model folder's weights by name.

    Args:
        folder: Official, merged or tiny model folder.
        dtype: Precision of the weights in memory.
        attention: transformers' name of the attention implementation; None lets it choose.
        rope_precision: "checkpoint" or "fp32"; see `CogVLM2VideoConfig`.
        device_map: transformers' placement of the weights; None leaves them on the CPU.
        with_tower: Whether to load the vision tower; without it the model takes vision features in place of pixel values.
        quantize: `nf4` or `int8` for quantized weights of the decoder blocks, `none` for weights as they are. Quantized ones
            have to be placed by `device_map`: they cannot be moved.
        embeddings_on_cpu: Whether the input embedding stays in the host's memory, wherever the model is moved to.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelError: when weight files are missing or damaged, do not hold exactly the model's tensors, or cannot be quantized.
    """
    from cvft.families.cogvlm2_video.network.cpu_embedding import CpuEmbedding
    from cvft.families.cogvlm2_video.network.layers import RotaryEmbedding, compute_inv_freq
    from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM

    folder = ModelFolder.of(folder)
    config = load_config(folder)
    config.rope_precision = rope_precision
    config.encodes_frames = with_tower
    if problems := check_generation(folder):
        raise ModelError(f"model {folder.path}", problems)
    shards = read_shards(folder.path, published_shapes(folder.config))
    own_tables = check_tables(folder.config, lambda: shards, rope_precision=rope_precision)
    if unfit_widths := find_unfit_widths(quantize, PARTS, published_shapes(folder.config)):
        raise ModelError(f"model {folder.path}", unfit_widths)
    quantization = None
    if quantize != "none":
        from cvft.families.network.quantization import quantization_config

        device_map = device_map or "cpu"
        on_cpu = device_map in ("cpu", {"": "cpu"})
        quantization = quantization_config(quantize, dtype=dtype, on_cpu=on_cpu, kept_modules=KEPT_MODULES)
    with quiet_transformers():
        model, info = CogVLM2VideoForCausalLM.from_pretrained(
            str(folder.path),
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            device_map=device_map,
            quantization_config=quantization,
            generation_config=generation_config_of(folder),
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
        )
    unfit = {kind: keys for kind, keys in info.items() if kind in LOADING_KINDS and keys}
    assert not unfit, unfit  # the headers said that all of them fit
    if embeddings_on_cpu:
        model.set_input_embeddings(CpuEmbedding.of(model.get_input_embeddings()))
    for name, module in model.named_modules():
        if isinstance(module, RotaryEmbedding):
            module.to(dtype)  # transformers casts parameters only
            own = own_tables.get(f"{name}.inv_freq")
            module.exact_table = compute_inv_freq(module.head_dim, module.theta) if own is None else torch.tensor(own)
    return model.eval()


def generation_config_of(folder: ModelFolder) -> GenerationConfig:
    """Makes the settings of answers that a folder's files carry: the tokens that begin, end and pad one.

    Args:
        folder: The folder, checked.
    """
    stops = stop_tokens(folder)
    return GenerationConfig(
        bos_token_id=folder.config["bos_token_id"],
        eos_token_id=stops if len(stops) > 1 else stops[0],
        pad_token_id=folder.config["pad_token_id"],
    )


def load_tower(folder: ModelFolder | Path | str, *, dtype: torch.dtype, device: str = "cpu") -> VisionTower:
    """Loads a model folder's vision tower and projector, and nothing else.

    Args:
        folder: Official, merged or tiny model folder.
        dtype: Precision of the weights in memory.
        device: Where to put them.

    Returns:
        The tower, frozen and in evaluation mode.

    Raises:
        ModelError: as `load_model`.
    """
    from safetensors import safe_open

    from cvft.families.cogvlm2_video.network.vision import VisionTower

    folder = ModelFolder.of(folder)
    with torch.device("meta"):
        tower = VisionTower(load_config(folder))
    weights = {}
    for shard in read_shards(folder.path, published_shapes(folder.config)):
        with safe_open(shard.path, framework="pt", device=device) as file:
            for entry in shard.entries:
                if entry.name.startswith(TOWER_PREFIX):
                    weights[entry.name.removeprefix(TOWER_PREFIX)] = file.get_tensor(entry.name).to(dtype)
    tower.load_state_dict(weights, assign=True)
    return tower.requires_grad_(False).eval()
