"""Where our processes take Python modules from, and how soon: never from the folder in which a command happens to be typed.

`python -m` puts that folder first on the import path, so that a file `swift.py` or `av.py` in it would be imported and run.
`cvft/__init__.py` takes it off for `python -m cvft`; what is here does so for every process that we start.
"""

from __future__ import annotations

import gc
import os
import site
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

PACKAGE = __name__.partition(".")[0]

ALSO_NEEDED = ("torch", "swift", "transformers", "peft", "pydantic", "av", "deepspeed", "bitsandbytes", "decord")
"""Modules by which `needs_user_site` knows where our packages are installed."""


def python_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a Python process of ours, which imports what this one would, and nothing by accident.

    Args:
        variables: Its other variables.

    Returns:
        These, with the current folder kept off the import path, also where an empty entry of PYTHONPATH means it; with the
        user's own site packages only when ours are among them; with the folder of this package where it is not installed.
    """
    stated = [entry for entry in variables.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if not _finds_this_package(stated):
        stated.insert(0, str(Path(__file__).resolve().parents[1]))
    changed = {**variables, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(stated)}
    if not stated:
        del changed["PYTHONPATH"]
    if not needs_user_site():
        changed["PYTHONNOUSERSITE"] = "1"
    return changed


def leave_user_site() -> None:
    """Takes the user's own site packages off the import path of this process, unless ours are among them."""
    if site.ENABLE_USER_SITE and not needs_user_site():
        sys.path[:] = [entry for entry in sys.path if entry != site.getusersitepackages()]


def needs_user_site() -> bool:
    """Tells whether a package of ours is installed among the user's own (`pip install --user`) and nowhere else.

    Otherwise what lies there is left over from other work, and would take the place of what cvft was installed with.
    """
    if not site.ENABLE_USER_SITE:
        return False
    from importlib.metadata import (
        PackageNotFoundError,
        distribution,
    )  # it takes as long as the rest of the command line

    own = site.getusersitepackages()
    others = [entry for entry in sys.path if entry and entry != own]
    if any(_find(name, [own]) and not _find(name, others) for name in ALSO_NEEDED):
        return True
    try:
        return Path(str(distribution(PACKAGE).locate_file(""))).is_relative_to(own)
    except PackageNotFoundError:
        return False


def collect_less_often() -> None:
    """Lets Python look for unreachable cycles after 20,000 new objects instead of 700 (2,000 since Python 3.12), in this process.

    An import of torch, transformers and ms-swift makes a million objects that all stay, and a fifth of its time went into
    looking at them again and again. A training step makes about as many, so what a cycle holds is still freed about once a step.
    """
    gc.set_threshold(20_000, *gc.get_threshold()[1:])


@contextmanager
def importing_for_good() -> Iterator[None]:
    """Imports heavy libraries in its block without any look for unreachable cycles, then or later, at what the imports made.

    Nothing of it is ever freed, so the looks only cost: a twelfth of the imports of a training, and in training each look at all
    objects would take a quarter of a second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _finds_this_package(stated: Sequence[str]) -> bool:
    """Tells whether a new interpreter finds this very package without being told where it is."""
    own = [site.getusersitepackages()] if needs_user_site() else []
    found = _find(PACKAGE, [*stated, *own, *site.getsitepackages()])
    if found is None:  # an installation for development may have a finder of its own
        others = (finder for finder in sys.meta_path if finder is not PathFinder)
        specs = (finder.find_spec(PACKAGE, None) for finder in others)
        found = next((spec for spec in specs if spec is not None), None)
    here = Path(__file__).with_name("__init__.py").resolve()
    return found is not None and found.origin is not None and Path(found.origin).resolve() == here


def _find(name: str, paths: Sequence[str]) -> ModuleSpec | None:
    return PathFinder.find_spec(name, list(paths))
