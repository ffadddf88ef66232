"""Registers the model with transformers' auto classes as soon as transformers is there, without importing it.

The command line must answer in a blink, so `import cvft` imports neither torch nor transformers. When transformers is
imported already, the model is registered at once; otherwise right after it was imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

AWAITED = "transformers"
DEFINING_MODULES = {
    "cvft.families.cogvlm2_video.network.configuration": "CogVLM2VideoConfig",
    "cvft.families.cogvlm2_video.network.modeling": "CogVLM2VideoForCausalLM",
}
"""Modules that define what is registered, with the class that each defines last."""


def register_with_transformers() -> None:
    """Registers configuration and model now, or once transformers is imported; more calls change nothing."""
    if AWAITED in sys.modules:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register() -> None:
    for name, last_class in DEFINING_MODULES.items():
        module = sys.modules.get(name)
        if module is not None and not hasattr(module, last_class):
            return  # it is being imported right now, and its own last line comes back here
    from transformers import AutoConfig, AutoModelForCausalLM

    from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
    from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM

    AutoConfig.register(CogVLM2VideoConfig.model_type, CogVLM2VideoConfig, exist_ok=True)
    AutoModelForCausalLM.register(CogVLM2VideoConfig, CogVLM2VideoForCausalLM, exist_ok=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Stands aside for everything but the first import of transformers, which it lets through and then registers."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != AWAITED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _register()
