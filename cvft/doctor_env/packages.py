"""Packages beside what cvft was tested with, from what the installation says of itself; nothing is imported."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

State = Literal["ok", "missing", "outside", "broken"]

EXTRAS = {
    "decord": "video.decoder: decord",
    "deepspeed": "parallel.strategy: zero1, zero2, zero2_offload, zero3",
    "quantized": "model.quantize: nf4, int8",
    "test": "the tests",
}
"""Extra of pyproject.toml -> what it is for."""

_EXTRA = re.compile(r"""extra == ['"]([\w-]+)['"]""")


@dataclass(frozen=True)
class Package:
    """A package that cvft needs, or an extra does.

    Args:
        name: Its name.
        need: Versions that the tests ran with, as pip writes them; empty where any will do.
        extra: The extra that brings it; None for what cvft cannot do without.
        version: The installed one; None where there is none.
        state: `ok`; `missing`; `outside` what was tested; `broken`: it is there, and cannot be used.
        why: What is wrong with a broken one.
    """

    name: str
    need: str
    extra: str | None
    version: str | None
    state: State
    why: str = ""


@dataclass(frozen=True)
class Extra:
    """An extra of the package.

    Args:
        name: What stands in `pip install 'cvft[NAME]'`.
        purpose: What it is for.
        missing: Packages of it that are not there, with their bounds: what an installation would add.
    """

    name: str
    purpose: str
    missing: tuple[str, ...]


def find_packages() -> list[Package]:
    """Compares what is installed with what cvft's own metadata asks for.

    Raises:
        PackageNotFoundError: when cvft runs from a folder and is not installed.
    """
    return [_look_at(Requirement(line)) for line in importlib.metadata.requires("cvft") or []]


def find_extras(packages: Iterable[Package]) -> list[Extra]:
    """Says what each extra would add."""
    packages = list(packages)
    return [
        Extra(name, purpose, tuple(f"{each.name}{each.need}" for each in packages if _lacks(each, name)))
        for name, purpose in EXTRAS.items()
    ]


def with_import_errors(packages: Iterable[Package], errors: dict[str, str]) -> list[Package]:
    """Marks packages as broken that could not be imported.

    Args:
        packages: What was found.
        errors: Name of a package -> how its import ended.
    """
    return [
        replace(each, state="broken", why=errors[each.name])
        if each.name in errors and each.state != "missing"
        else each
        for each in packages
    ]


def _lacks(package: Package, extra: str) -> bool:
    return package.extra == extra and package.state == "missing"


def _look_at(requirement: Requirement) -> Package:
    extra = _EXTRA.search(str(requirement.marker or ""))
    name, need = requirement.name, str(requirement.specifier)

    def found(version: str | None, state: State, why: str = "") -> Package:
        return Package(name, need, extra[1] if extra else None, version, state, why)

    try:
        said = importlib.metadata.metadata(name)
        if "Version" not in said:
            return found(None, "broken", "its metadata names no version")
        is_tested = requirement.specifier.contains(said["Version"], prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return found(None, "missing")
    except (InvalidVersion, OSError, ValueError) as error:
        return found(None, "broken", f"its metadata cannot be read: {type(error).__name__}: {error}")
    return found(said["Version"], "ok" if is_tested else "outside")
