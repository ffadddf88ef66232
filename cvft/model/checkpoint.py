"""Model folders: read their configuration and weights by name, never run their code.

Official folders have no `model_type` and carry `auto_map`, so transformers would ask to run the code that lies in them.
Here config.json is read as plain JSON and weights come from safetensors; `make_clean_view` gives other tools a folder
that holds links to the weights and a configuration without `auto_map`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvft.errors import ModelError, Problem, quote
from cvft.model.configuration import CogVLM2VideoConfig

if TYPE_CHECKING:
    import torch

    from cvft.model.modeling import CogVLM2VideoForCausalLM

ARCHITECTURE = "CogVLM2VideoForCausalLM"
OFFICIAL_ARCHITECTURE = "CogVLMVideoForCausalLM"
"""`architectures` entry of the four published checkpoints. Source: their config.json."""

CODE_SUFFIXES = (".py", ".pyc", ".so")
NON_CONFIG_KEYS = ("architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version")


def read_config_json(folder: Path) -> dict[str, Any]:
    """Reads a folder's config.json as plain JSON and checks that it describes this model.

    Raises:
        ModelError: when it is missing, broken or of another architecture.
    """
    path = folder / "config.json"
    subject = f"model {folder}"
    if not path.is_file():
        hint = "is the path right, and the download complete?"
        raise ModelError(subject, [Problem("config.json", "no such file", "a CogVLM2-Video model folder", hint)])
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(subject, [Problem("config.json", f"broken JSON ({error})", "the published config.json")]) from error
    names = values.get("architectures") if isinstance(values, dict) else None
    if names not in ([ARCHITECTURE], [OFFICIAL_ARCHITECTURE]):
        need = f"{quote(OFFICIAL_ARCHITECTURE)} or {quote(ARCHITECTURE)}"
        hint = "cvft trains CogVLM2-Video checkpoints (chat, base, caption, VisionReward-Video)"
        raise ModelError(subject, [Problem("config.json: architectures", quote(names), need, hint)])
    return values


def load_config(folder: Path) -> CogVLM2VideoConfig:
    """Builds the configuration of an official, merged or tiny model folder.

    Args:
        folder: Model folder.

    Returns:
        The configuration, without `auto_map`.

    Raises:
        ModelError: when config.json cannot be used.
    """
    values = read_config_json(folder)
    kept = {key: value for key, value in values.items() if key not in NON_CONFIG_KEYS}
    try:
        config = CogVLM2VideoConfig(**kept)
    except (ValueError, TypeError) as error:
        raise ModelError(f"model {folder}", [Problem("config.json", str(error), "the published keys and types")]) from error
    config.architectures = [ARCHITECTURE]
    return config


def load_model(
    folder: str | Path,
    *,
    dtype: torch.dtype,
    attention: str | None = None,
    rope_precision: str = "checkpoint",
) -> CogVLM2VideoForCausalLM:
    """Loads a model folder's weights by name.

    Args:
        folder: Official, merged or tiny model folder.
        dtype: Precision of the weights in memory.
        attention: transformers' name of the attention implementation; None lets it choose.
        rope_precision: "checkpoint" or "fp32"; see `CogVLM2VideoConfig`.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelError: when a tensor is missing, unexpected or of another shape.
    """
    from cvft.model.modeling import CogVLM2VideoForCausalLM

    folder = Path(folder)
    config = load_config(folder)
    config.rope_precision = rope_precision
    model, info = CogVLM2VideoForCausalLM.from_pretrained(
        str(folder),
        config=config,
        dtype=dtype,
        attn_implementation=attention,
        output_loading_info=True,
        use_safetensors=True,
        local_files_only=True,
    )
    problems = [
        Problem(f"weights: {kind.replace('_', ' ')}", _name_some(info[kind]), "exactly the published tensors")
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info[kind]
    ]
    if problems:
        raise ModelError(f"model {folder}", problems)
    return model.eval()


def _name_some(keys: Any, *, count: int = 3) -> str:
    names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(quote(name) for name in names[:count]) + more


def make_clean_view(folder: Path, destination: Path) -> Path:
    """Makes a folder that other libraries can open without meeting the model's own code.

    Weights and tokenizer files are linked, code files are left out, and config.json says `cogvlm2_video` and has no
    `auto_map`.

    Args:
        folder: Official, merged or tiny model folder.
        destination: Folder to make; replaced when it exists.

    Returns:
        `destination`.

    Raises:
        ModelError: when config.json cannot be used.
    """
    values = load_config(folder).to_dict()
    values["architectures"] = [ARCHITECTURE]
    aside = destination.with_name(f"{destination.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for entry in sorted(folder.iterdir()):
        if entry.is_file() and entry.suffix not in CODE_SUFFIXES and entry.name != "config.json":
            (aside / entry.name).symlink_to(os.path.relpath(entry.resolve(), aside.resolve()))
    (aside / "config.json").write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")
    shutil.rmtree(destination, ignore_errors=True)
    aside.rename(destination)
    return destination
