"""An adapter's weights by the layers that they change, and those layers merged one at a time by peft itself.

adapter folder -> `Adapter`: which weights of the base it changes -> the merged weight of one layer, bit for bit as peft
merges the whole model, with no more of it in memory than that layer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cvft.errors import ModelError, Problem, quote
from cvft.weights.finite import refuse_nonfinite
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE as WEIGHTS_FILE
from cvft.weights.shards import name_some

PREFIX = "base_model.model."
PARTS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
"""What peft stores of a layer. Source: the files that it writes."""


class Adapter:
    """A LoRA or DoRA adapter.

    Args:
        folder: The adapter's folder, as peft writes it.
        shapes: Shapes of the base's tensors by their names in the files.
        module_of: Their names in the loaded model, which the adapter's layers are called by.

    Raises:
        ModelError: when the folder is broken, or when its layers are not those of the base that its config names.
    """

    def __init__(
        self, folder: Path, *, shapes: Mapping[str, tuple[int, ...]], module_of: Callable[[str], str] = str
    ) -> None:
        from peft import PeftConfig
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.folder = folder
        self._module_of = module_of
        self._file_names = {module_of(name): name for name in shapes}
        shapes = {module_of(name): shape for name, shape in shapes.items()}
        try:
            self.config: Any = PeftConfig.from_pretrained(str(folder))
            tensors = load_file(folder / WEIGHTS_FILE)
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            problem = Problem("adapter", f"{type(error).__name__}: {error}", "a folder that cvft or peft wrote")
            raise ModelError(f"adapter {folder}", [problem]) from error
        refuse_nonfinite(folder / WEIGHTS_FILE, subject=f"adapter {folder}")
        self._layers: dict[str, dict[str, Tensor]] = {}
        unknown = []
        for key, tensor in tensors.items():
            part = next((part for part in PARTS if key.startswith(PREFIX) and key.endswith(f".{part}")), None)
            if part is None:
                unknown.append(key)
            else:
                self._layers.setdefault(key.removeprefix(PREFIX).removesuffix(f".{part}"), {})[part] = tensor
        problems = [Problem("weights", f"{name_some(unknown)} unknown", "LoRA weights of layers")] if unknown else []
        if problems := problems or self._find_misfits(shapes):
            raise ModelError(f"adapter {folder}", problems)

    @property
    def changed(self) -> list[str]:
        """Names in the files of the weights that it changes."""
        return [self._file_names[f"{layer}.weight"] for layer in self._layers]

    @property
    def scale(self) -> float:
        """What each update is multiplied by: alpha/rank, or alpha/sqrt(rank). Source: the LoRA and rsLoRA papers."""
        rank = self.config.r
        return float(self.config.lora_alpha / (rank**0.5 if self.config.use_rslora else rank))

    def parts_of(self, name: str) -> dict[str, Tensor]:
        """Returns A (rank, in), B (out, rank) and, with DoRA, magnitudes (out) of a changed weight, by `PARTS`."""
        return self._layers[self._module_of(name).removesuffix(".weight")]

    def _find_misfits(self, shapes: Mapping[str, tuple[int, ...]]) -> list[Problem]:
        from peft.tuners.tuners_utils import check_target_module_exists

        targeted = {
            name.removesuffix(".weight")
            for name, shape in shapes.items()
            if name.endswith(".weight") and len(shape) == 2 and check_target_module_exists(self.config, name[:-7])
        }
        need = "weights for each layer that adapter_config.json names"
        problems = [
            Problem(WEIGHTS_FILE, f"{name_some(names)} {got}", need)
            for names, got in ((targeted - self._layers.keys(), "missing"), (self._layers.keys() - targeted, "unknown"))
            if names
        ]
        rank, wants_dora = self.config.r, self.config.use_dora
        for layer in sorted(targeted & self._layers.keys()):
            num_out, num_in = shapes[f"{layer}.weight"]
            wanted: dict[str, tuple[int, ...]] = {"lora_A.weight": (rank, num_in), "lora_B.weight": (num_out, rank)}
            wanted |= {"lora_magnitude_vector": (num_out,)} if wants_dora else {}
            got_shapes = {part: tuple(tensor.shape) for part, tensor in self._layers[layer].items()}
            if got_shapes != wanted:
                problems.append(Problem(layer, quote(got_shapes), f"{wanted}, by base and adapter_config.json"))
        return problems

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """Merges its update into one weight, with peft's own layer.

        Args:
            name: Name of the weight in the files.
            weight: (out, in) the base's weight, in the precision to merge in.

        Returns:
            (out, in) the merged weight.

        Raises:
            ModelError: when the merged weight is not finite.
        """
        from peft import inject_adapter_in_model, set_peft_model_state_dict

        layer = self._module_of(name).removesuffix(".weight")
        *path, last = layer.split(".")
        model = parent = nn.Module()
        for step in path:  # under its full name, since the config names layers by it
            parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        parent.add_module(last, linear)
        inject_adapter_in_model(self.config, model)
        adapted: Any = parent.get_submodule(last)
        for key, parameter in adapted.named_parameters():
            if not key.startswith("base_layer."):
                parameter.data = parameter.data.float()  # as peft does when it loads an adapter
        loaded = set_peft_model_state_dict(
            model, {f"{layer}.{part}": tensor for part, tensor in self.parts_of(name).items()}
        )
        assert not loaded.unexpected_keys, loaded.unexpected_keys
        try:
            with torch.no_grad():
                adapted.merge(safe_merge=True)
        except ValueError as error:
            problem = Problem(name, "values that are not finite after merging", "finite ones", "did training diverge?")
            raise ModelError(f"adapter {self.folder}", [problem]) from error
        merged: Tensor = adapted.get_base_layer().weight.data
        return merged
