"""What was found of a machine and an installation, as a text for a terminal and for a report of a fault."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from cvft.doctor_env.find import UNKNOWN

WIDTH = 118
LABEL_WIDTH = 12


def describe(found: Mapping[str, Any]) -> str:
    """Writes what `find_environment` found."""
    lines = []
    for section, show in SECTIONS.items():
        values = found[section]
        if UNKNOWN in values:
            lines += _say(section, f"could not be found out: {values[UNKNOWN]}")
        else:
            for label, text in show(values):
                lines += _say(label, text)
    return "\n".join(lines)


def find_faults(found: Mapping[str, Any]) -> list[str]:
    """Names what keeps cvft from working as it was tested.

    Args:
        found: What `find_environment` found.

    Returns:
        Packages that all of cvft needs, or that are there for an extra, and are missing, broken or of another version than was
        tested; sections that could not be found out.
    """
    faults = [section for section in SECTIONS if UNKNOWN in found[section]]
    for each in found["packages"].get("found", ()):
        is_needed = each["extra"] is None or (each["extra"] != "test" and each["state"] != "missing")
        if is_needed and each["state"] != "ok":
            faults.append(each["name"])
    return faults


def _say(label: str, text: str) -> list[str]:
    indent = " " * LABEL_WIDTH
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{label:<{LABEL_WIDTH}}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [label]


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _cvft(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    commit = f", commit {values['commit']}" if values["commit"] else ""
    yield "cvft", f"{values['version']}, {values['kind']}{commit}; {values['folder']}"


def _system(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "python", values["python"]
    yield "system", f"{values['system']}, {values['machine']}, {values['libc']}"
    yield "cpu", f"{values['num_cores_usable']} of {values['num_cores']} cores; {values['cpu']}"
    limit = values["memory_limit_bytes"]
    limited = f"; limited to {_gib(limit)}" if limit is not None else ""
    yield "memory", f"{_gib(values['memory_available_bytes'])} of {_gib(values['memory_bytes'])} available{limited}"


def _gpus(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if values["driver"] is None:
        yield "gpu", "none: no driver of NVIDIA answers (nvidia-smi)"
    elif not values["found"]:
        yield "gpu", f"none shown; driver {values['driver']}"
    for gpu in values["found"]:
        yield "gpu", f"{gpu['name']}, {_gib(gpu['usable_bytes'])} usable; driver {values['driver']}"


def _torch(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    built = values["built_for_cuda"]
    text = f"{values['version'] or 'not installed'}, built for {f'CUDA {built}' if built else 'the CPU alone'}"
    text += f", sees {values['sees_gpus']} GPUs" if "sees_gpus" in values else ""
    yield "torch", text + (f": {values['why_not']}" if "why_not" in values else "")


def _decoders(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for decoder, facts in values.items():
        if facts["error"]:
            version = f"{facts['version']}: " if facts["version"] else ""
            yield decoder, f"{version}{facts['error']}"
        else:
            codecs = f"; FFmpeg {facts['ffmpeg']}: {' '.join(facts['codecs'])}" if "codecs" in facts else ""
            yield decoder, f"{facts['version']}{codecs}"


def _packages(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    needed = [each for each in values["found"] if each["extra"] != "test"]
    there = {f"{each['name']}=={each['version']}": None for each in needed if each["version"]}
    yield "packages", ", ".join(there)
    words = {"missing": "not installed, need", "outside": "not tested with this version, need", "broken": "broken"}
    for each in needed:
        if each["state"] == "ok" or (each["state"] == "missing" and each["extra"]):
            continue
        more = f": {each['why']}" if each["why"] else f" {each['need'] or 'any version'}"
        yield "  fault", f"{each['name']} {each['version'] or ''}".rstrip() + f": {words[each['state']]}{more}"


def _extras(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for extra in values["found"]:
        missing = ", ".join(extra["missing"])
        would = f"would add {missing}: pip install 'cvft[{extra['name']}]'" if missing else "installed"
        yield "extra", f"{extra['name']}, for {extra['purpose']}; {would}"


def _disk(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, facts in values.items():
        yield "disk", f"{name}: {_gib(facts['free_bytes'])} of {_gib(facts['total_bytes'])} free; {facts['folder']}"


def _variables(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "variables", ", ".join(f"{name}={value}" for name, value in values.items()) or "none that matter"


def _refused(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not values["found"]:
        yield "refused", "nothing"
    for each in values["found"]:
        problem = each["problem"]
        hint = f"; {problem['hint']}" if problem["hint"] else ""
        setting = "every training" if each["setting"] == "any" else each["setting"]
        yield "refused", f"{setting}: got {problem['got']}, need {problem['need']}{hint}"


SECTIONS = {
    "cvft": _cvft,
    "system": _system,
    "gpus": _gpus,
    "torch": _torch,
    "decoders": _decoders,
    "packages": _packages,
    "extras": _extras,
    "disk": _disk,
    "variables": _variables,
    "refused": _refused,
}
"""The sections in their order, each with what writes its lines."""
