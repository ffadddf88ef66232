"""Everything about a machine and an installation that a report of a fault should say, as plain values.

Nothing here may fail as a whole: a section that cannot be found out is one sentence that says why. What could tell whose machine
it is stays out unless it is asked for: of a path, its last name is left, and a host is `HOST`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvft import __version__
from cvft.errors import visible
from cvft.versions import find_commit, find_version

if TYPE_CHECKING:
    from cvft.doctor_env.packages import Package
    from cvft.doctor_env.probe import Imported

UNKNOWN = "unknown"
"""The key of a section that could not be found out; its value says why."""

SHOWN_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "NCCL_DEBUG", "PYTORCH_ALLOC_CONF")
"""Environment variables that change what happens here and say nothing of anybody."""

NAMED_VARIABLES = (
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_TOKEN",
    "HTTPS_PROXY",
    "https_proxy",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
)
"""Those of which the name alone is said."""

_PATH = re.compile(r"(?<![\w.~])/(?:[^\s/'\"():,;]+/)+")
"""The folders of an absolute path, up to its last name."""

_OTHERS_WORDS = (UNKNOWN, "error", "why", "why_not")
"""Keys whose values are the words of a system or a package."""


def find_environment(*, imports: bool = False, shows_paths: bool = False) -> dict[str, Any]:
    """Finds out what there is.

    Args:
        imports: Whether every package is imported, in processes of their own; without, decoders alone are.
        shows_paths: Whether paths and the host's name are left as they are.

    Returns:
        Section -> its values; a section that could not be found out is `{"unknown": why}`.
    """
    packages = _try(_find_packages)
    probed = _try(lambda: _probe(packages, imports=imports))
    imported: dict[str, Imported] = {} if UNKNOWN in probed else probed
    gpus = _try(_find_gpus)
    found = {
        "cvft": _try(_find_cvft),
        "system": _try(_find_system),
        "gpus": gpus,
        "torch": _try(lambda: _find_torch(imported)),
        "decoders": probed if UNKNOWN in probed else _try(lambda: _find_decoders(imported)),
        "packages": packages if UNKNOWN in packages else _try(lambda: _with_errors(packages["found"], imported)),
        "extras": packages if UNKNOWN in packages else _try(lambda: _find_extras(packages["found"])),
        "disk": _try(_find_disk),
        "variables": _try(_find_variables),
        "refused": _try(lambda: _find_refused(gpus)),
    }
    return found if shows_paths else json.loads(json.dumps(found), object_hook=_hide)


def _try(find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A section, or why there is none: a broken installation is what this is asked about."""
    try:
        return find()
    except Exception as error:
        return {UNKNOWN: f"{type(error).__name__}: {visible(str(error))}"}


def _hide(values: dict[str, Any]) -> dict[str, Any]:
    """Shortens paths, and takes the host's name out of what others say."""
    return {key: _hide_in(value, is_said_by_others=key in _OTHERS_WORDS) for key, value in values.items()}


def _hide_in(value: Any, *, is_said_by_others: bool) -> Any:
    if isinstance(value, list):
        return [_hide_in(each, is_said_by_others=is_said_by_others) for each in value]
    if not isinstance(value, str):
        return value
    host = platform.node()
    named = re.sub(rf"\b{re.escape(host)}\b", "HOST", value) if host and is_said_by_others else value
    return _PATH.sub("…/", named)


def _find_cvft() -> dict[str, Any]:
    folder = Path(__file__).resolve().parents[1]
    kind = "a folder on the import path"
    with suppress(importlib.metadata.PackageNotFoundError):
        distribution = importlib.metadata.distribution("cvft")
        direct = json.loads(distribution.read_text("direct_url.json") or "{}")
        if direct.get("dir_info", {}).get("editable"):
            if direct["url"] == folder.parent.as_uri():
                kind = "installed for development"
        elif folder == Path(str(distribution.locate_file("cvft"))).resolve():
            kind = "an installed package"
    return {"version": __version__, "kind": kind, "commit": find_commit(), "folder": str(folder)}


def _find_system() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    return {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "cpu": _cpu_name(),
        "num_cores": psutil.cpu_count(),
        "num_cores_usable": len(os.sched_getaffinity(0)),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "memory_limit_bytes": _memory_limit(),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _memory_limit() -> int | None:
    """What a container may use: less than the machine has. Source: memory.max of Linux's cgroup v2."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _find_gpus() -> dict[str, Any]:
    from cvft.plan.machine import ask_driver, read_gpus

    drivers = sorted(set(ask_driver("driver_version")))
    return {
        "driver": ", ".join(drivers) or None,
        "found": [{"name": gpu.name, "usable_bytes": gpu.memory_bytes} for gpu in read_gpus()],
    }


def _find_torch(imported: dict[str, Imported]) -> dict[str, Any]:
    """What torch was built for, read from its files; what it sees, where it was imported."""
    spec = importlib.util.find_spec("torch")
    facts: dict[str, Any] = {"version": find_version("torch"), "built_for_cuda": None}
    if spec is not None and spec.origin is not None:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
        built = re.search(r"^cuda\b[^=]*= '([^']+)'", text, re.MULTILINE)
        facts["built_for_cuda"] = built[1] if built else None
    return {**facts, **(imported["torch"].facts if "torch" in imported else {})}


def _find_packages() -> dict[str, Any]:
    from cvft.doctor_env.packages import find_packages

    return {"found": find_packages()}


def _probe(packages: dict[str, Any], *, imports: bool) -> dict[str, Imported]:
    from cvft.doctor_env.probe import import_modules

    present = [name for name in ("av", "decord") if importlib.util.find_spec(name) is not None]
    if imports and UNKNOWN not in packages:
        needed = {each.name: None for each in packages["found"] if each.extra != "test" and each.state != "missing"}
        present = list(dict.fromkeys([*present, *(_modules_of(list(needed)).values())]))
    return import_modules(present)


def _modules_of(names: Sequence[str]) -> dict[str, str]:
    """Name of an installed package -> the module that it is imported as."""
    from packaging.utils import canonicalize_name

    modules: dict[str, list[str]] = {}
    for module, of in importlib.metadata.packages_distributions().items():
        for name in of:
            modules.setdefault(canonicalize_name(name), []).append(module)
    found = {}
    for name in names:
        of_name = [module for module in modules.get(canonicalize_name(name), []) if not module.startswith("_")]
        same = [module for module in of_name if canonicalize_name(module) == canonicalize_name(name)]
        if of_name:
            found[name] = (same or sorted(of_name))[0]
    return found


def _with_errors(packages: list[Package], imported: dict[str, Imported]) -> dict[str, Any]:
    from cvft.doctor_env.packages import with_import_errors

    modules = _modules_of([each.name for each in packages]) if imported else {}
    errors = {
        name: imported[module].error
        for name, module in modules.items()
        if module in imported and imported[module].error
    }
    return {"found": [asdict(each) for each in with_import_errors(packages, errors)], "imported": sorted(imported)}


def _find_extras(packages: list[Package]) -> dict[str, Any]:
    from cvft.doctor_env.packages import find_extras

    return {"found": [asdict(each) for each in find_extras(packages)]}


def _find_decoders(imported: dict[str, Imported]) -> dict[str, Any]:
    found = {}
    for decoder, module in (("pyav", "av"), ("decord", "decord")):
        outcome = imported.get(module)
        if outcome is None:
            found[decoder] = {"version": None, "error": "not installed"}
        else:
            found[decoder] = {"version": find_version(module), "error": outcome.error, **outcome.facts}
    return found


def _find_disk() -> dict[str, Any]:
    cache = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    places = {
        "current folder": os.curdir,
        "temporary files": tempfile.gettempdir(),
        "downloaded models": os.path.expanduser(cache),
        "shared memory": "/dev/shm",
    }
    found: dict[str, Any] = {}
    for name, place in places.items():
        path = Path(place).absolute()
        there = next(each for each in (path, *path.parents) if each.exists())
        usage = shutil.disk_usage(there)
        found[name] = {"folder": str(path), "free_bytes": usage.free, "total_bytes": usage.total}
    return found


def _find_variables() -> dict[str, Any]:
    shown = {name: os.environ[name] for name in SHOWN_VARIABLES if name in os.environ}
    return {**shown, **{name: "(set)" for name in NAMED_VARIABLES if name in os.environ}}


def _find_refused(gpus: dict[str, Any]) -> dict[str, Any]:
    from cvft.doctor_env.refused import find_refused

    num_gpus = 0 if UNKNOWN in gpus else len(gpus["found"])
    return {"found": [asdict(each) for each in find_refused(num_gpus=num_gpus, shell=os.environ)]}
