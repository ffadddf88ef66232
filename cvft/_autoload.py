"""Registers the model with transformers' auto classes as soon as transformers is there, without importing it.

The command line must answer in a blink, so `import cvft` imports neither torch nor transformers. A finder watches for
transformers and for the modules of the model; when one of them has been imported and none is still being imported, the model
is registered. So it does not matter which of them comes first, and no module of the model knows of this.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

NETWORK = "cvft.families.cogvlm2_video.network"

_loading: set[str] = set()
"""Watched modules whose import has begun and not ended."""


def register_with_transformers() -> None:
    """Registers configuration and model now, or once transformers is imported; more calls change nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _register()


def _register() -> None:
    if _loading or "transformers" not in sys.modules:
        return
    from transformers import AutoConfig, AutoModelForCausalLM

    from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
    from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM

    AutoConfig.register(CogVLM2VideoConfig.model_type, CogVLM2VideoConfig, exist_ok=True)
    AutoModelForCausalLM.register(CogVLM2VideoConfig, CogVLM2VideoForCausalLM, exist_ok=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Stands aside for everything but the watched modules, which it lets through and whose end it notes."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not (fullname == "transformers" or fullname.startswith(f"{NETWORK}.")) or fullname in _loading:
            return None
        _loading.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            _loading.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, name=fullname)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, *, name: str) -> None:
        self.loader = loader
        self.name = name

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        _loading.add(self.name)
        try:
            self.loader.exec_module(module)
        finally:
            _loading.discard(self.name)
        _register()
