"""cvft: fine-tuning for video language models, from a typed recipe to a verified, evaluated checkpoint.

`cvft.load("runs/x").ask("clip.mp4", "What happens?")` asks a trained model; `cvft.run("recipe.yaml")` does the whole job. After
`import cvft`, plain transformers loads what cvft wrote too: `AutoModelForCausalLM.from_pretrained("runs/x/merged")`.
"""

from __future__ import annotations

import sys

if sys.argv[:1] == ["-m"] and " ".join(sys.orig_argv).partition(" -m")[2].lstrip().startswith("cvft"):
    # `python -m cvft`: the current folder comes first, and a file of any name in it would take the place of a module
    sys.path[:] = sys.path[not sys.flags.safe_path :]

from typing import TYPE_CHECKING, Any

from cvft._autoload import register_with_transformers

if TYPE_CHECKING:
    from cvft.api import Model as Model
    from cvft.api import load as load
    from cvft.api import run as run

__version__ = "0.1.0"

__all__ = ["Model", "__version__", "load", "run"]

register_with_transformers()


def __getattr__(name: str) -> Any:
    """Imports the Python interface when it is first asked for: the command line must answer in a blink."""
    if name in ("Model", "load", "run"):
        from cvft import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
