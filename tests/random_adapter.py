"""Bases of any size as an export takes them, and adapters with random weights for them: the base's weights are not read."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.cogvlm2_video.network.load import load_config
from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
from cvft.families.cogvlm2_video.tensors import PARTS, published_shapes
from cvft.families.contract import CONTRACT_FILE, Contract
from cvft.families.parts import modules_to_save, target_regex
from cvft.plan.job import OpenModel, open_job
from cvft.recipe import load_recipe
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE, ModelFolder, read_config_json, weights_fingerprint
from cvft.weights.hub import Source
from tests.project import make_project


def base_of(folder: Path) -> OpenModel:
    return OpenModel(ModelFolder.of(folder), Source(folder), COGVLM2_VIDEO, None)


def contract_of(base: Path, **changes) -> Contract:
    values = {
        "template": "chat",
        "sampling": "chat",
        "max_frames": 24,
        "decoder": "pyav",
        "decoder_version": "17",
        "base_fingerprint": weights_fingerprint(base),
        "tokenizer_sha256": "0",
        "fields": {"image_size": 224, "num_tokens_per_frame": 66, "rope_precision": "checkpoint"},
    }
    return Contract(**(values | changes))


def write_random_adapter(base: Path, folder: Path, *, targets, tower=False, projector=None, seed=0, **kinds) -> Path:
    """Writes an adapter as peft writes it: A, B and a whole projector are normal, magnitudes lie around 1."""
    projector = tower if projector is None else projector
    regex = target_regex(PARTS, targets, train_vision_tower=tower, train_projector=projector)
    shapes = published_shapes(read_config_json(base))
    whole = modules_to_save(PARTS, shapes, train_projector=projector) or None
    with torch.device("meta"):
        model = get_peft_model(
            CogVLM2VideoForCausalLM(load_config(base)),
            LoraConfig(r=4, lora_alpha=12, target_modules=regex, modules_to_save=whole, **kinds),
            low_cpu_mem_usage=True,
        )
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items():
        noise = torch.randn(tensor.shape, generator=generator)
        weights[name] = 1 + 0.1 * noise if "magnitude" in name else 0.1 * noise
    folder.mkdir(parents=True)
    model.peft_config["default"].save_pretrained(str(folder))
    save_file(weights, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONTRACT_FILE).write_text(contract_of(base).to_json())
    return folder


def write_served_adapter(folder: Path, *, seed: int = 0) -> Path:
    """Writes an adapter of the tiny model that can be asked by its folder: it says other things than its base."""
    recipe = make_project(folder)
    job = open_job(load_recipe(recipe))
    write_random_adapter(job.model.folder.path, job.run.adapter, targets="all-linear", tower=True, seed=seed)
    (job.run.adapter / CONTRACT_FILE).write_text(job.contract.to_json())
    (job.run.adapter / "recipe.yaml").write_text(recipe.read_text())
    return job.run.adapter
