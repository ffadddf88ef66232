"""An adapter's weights by the layers that they change, and those layers merged one at a time by peft itself.

adapter folder -> `Adapter`: which weights of the base it changes or replaces -> the merged weight of one layer, bit for bit as
peft merges the whole model, with no more of it in memory than that layer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cvft.errors import ModelError, Problem
from cvft.families.adapter_file import read_adapter
from cvft.families.parts import Parts
from cvft.weights.finite import refuse_nonfinite
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE


class Adapter:
    """A LoRA or DoRA adapter, with the modules that were trained wholly beside it.

    Args:
        folder: The adapter's folder, as peft writes it.
        parts: The base's parts.
        shapes: Shapes of the base's tensors by their names in the files.
        module_of: Their names in the loaded model, which the adapter's layers are called by, or None for those it leaves out.

    Raises:
        ModelError: when the folder is broken, or when its layers are not those of the base that its config names.
    """

    def __init__(
        self,
        folder: Path,
        *,
        parts: Parts,
        shapes: Mapping[str, tuple[int, ...]],
        module_of: Callable[[str], str | None] = str,
    ) -> None:
        from safetensors.torch import load_file

        self.folder = folder
        self.file = read_adapter(folder, parts=parts, shapes=shapes, module_of=module_of)
        self._modules = {name: module for name in shapes if (module := module_of(name)) is not None}
        self._file_names = {module: name for name, module in self._modules.items()}
        tensors = load_file(folder / ADAPTER_WEIGHTS_FILE)
        refuse_nonfinite(folder / ADAPTER_WEIGHTS_FILE, subject=f"adapter {folder}")
        self._layers = {
            layer: {part: tensors[entry.name] for part, entry in held.items()}
            for layer, held in self.file.layers.items()
        }
        self._replaced = {self._file_names[name]: tensors[entry.name] for name, entry in self.file.replaced.items()}

    @property
    def replaced(self) -> Mapping[str, Tensor]:
        """Tensors that stand in place of the base's, by their names in the files, in the precision that they are stored in."""
        return self._replaced

    @property
    def changed(self) -> list[str]:
        """Names in the files of the weights that it adds an update to."""
        return [self._file_names[f"{layer}.weight"] for layer in self._layers]

    @property
    def scale(self) -> float:
        """What each update is multiplied by."""
        return self.file.scale

    def parts_of(self, name: str) -> dict[str, Tensor]:
        """Returns A (rank, in), B (out, rank) and, with DoRA, magnitudes (out) of a changed weight, by their names there."""
        return self._layers[self._modules[name].removesuffix(".weight")]

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
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

        layer = self._modules[name].removesuffix(".weight")
        *path, last = layer.split(".")
        model = parent = nn.Module()
        for step in path:  # under its full name, since the config names layers by it
            parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        parent.add_module(last, linear)
        inject_adapter_in_model(LoraConfig(**self.file.peft_settings(layer=layer)), model)
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
