"""A recipe file, the files it extends and overrides -> one `Recipe`, with every problem reported at once.

Layers, later over earlier: the farthest ancestor, ..., the file itself, the overrides. Sections merge key by key,
lists are replaced. Relative paths belong to the file that states them; in an override, to the current directory. So do those of
`output`, unless the recipe has made its run elsewhere: see `find_run`.
No file but recipes is read, those of earlier runs among them: whether the data and the model exist is for others to say.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cvft.cards import names_dataset
from cvft.errors import Problem, RecipeError, nearest, quote
from cvft.recipe.explain import LISTS, conflicts_of, explain, show_value, unknown_key
from cvft.recipe.fingerprint import fingerprint
from cvft.recipe.names import iter_fields, key_names, section_names
from cvft.recipe.place import find_run
from cvft.recipe.schema import Recipe
from cvft.recipe.values import MAX_RUN_NAME_BYTES
from cvft.recipe.yaml_text import MAX_BYTES, parse_scalar, parse_yaml
from cvft.shipped import SHIPPED

EITHER_OR: tuple[tuple[str, str], ...] = (("train.epochs", "train.max_steps"), ("data.val", "data.val_fraction"))
"""Settings of which one replaces the other: a layer that states one drops the other from the layers below it."""

PATH_KEYS: tuple[str, ...] = (
    "data.train",
    "data.val",
    "data.video_root",
    "data.datasets",
    "data.cache",
    "train.resume_from",
    "parallel.deepspeed_config",
)
"""Settings that always hold a path. `model.path` may hold a name; `output.root` stays with the current directory."""

ROW_KEYS = ("data.train", "data.val")
"""Those among them that may hold the name of a dataset."""

PATH_LIST_KEYS: tuple[str, ...] = ("eval.probes",)
"""Settings that hold a list of paths."""

HUB_ID = re.compile(r"[A-Za-z]+:.*")
"""A `model.path` that asks a hub, such as `hf:owner/name`; whether it can be asked so, weights/ says."""

MAX_FILES = 32
"""Longest chain of recipes that extend each other."""

MAYBE_KNOWN = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A `model.path` that is a path, or the name of a checkpoint that weights/ knows."""


@dataclass(frozen=True, kw_only=True)
class LoadedRecipe:
    """A recipe and where it came from.

    Args:
        recipe: The settings; its `name` is always set and its data paths are absolute.
        path: The recipe file, as it was given.
        chain_of_files: Every file read: the recipe, then what it extends, nearest first.
        overrides: The overrides, as they were given.
    """

    recipe: Recipe
    path: Path
    chain_of_files: tuple[Path, ...]
    overrides: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """The recipe's fingerprint."""
        return fingerprint(self.recipe)

    @property
    def subject(self) -> str:
        """The recipe in the headline of an error."""
        return f"recipe {self.path}"


@dataclass(frozen=True)
class _Layer:
    values: dict[str, Any]  # {section: {key: value}}
    source: str  # what messages add to a key path; empty for the recipe itself


def load_recipe(path: str | Path, *, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Loads a recipe file.

    Args:
        path: The YAML file.
        overrides: `key.path=value` texts; values are typed like the file's.

    Returns:
        The recipe with its sources.

    Raises:
        RecipeError: the recipe cannot be read or does not fit the schema; it lists every problem found.
    """
    path = Path(path)
    subject = f"recipe {path}"
    layers, files = _read_chain(path, subject=subject)
    layer, problems = _parse_overrides(overrides)
    recipe = _build([*layers, layer], name=default_name(path), subject=subject, problems=problems)
    if "root" not in (layer.values.get("output") or {}):  # one that is given now is meant as it stands
        recipe = find_run(recipe, file=path, read=_read_snapshot)
    return LoadedRecipe(recipe=recipe, path=path, chain_of_files=tuple(files), overrides=tuple(overrides))


def _read_snapshot(path: Path) -> Recipe:
    subject = f"recipe {path}"
    return _build(
        [_Layer(_read_file(path, subject=subject, stated_by=None), "")], name=None, subject=subject, problems=[]
    )


def recipe_from_dict(values: Mapping[str, Any], *, subject: str = "recipe") -> Recipe:
    """Builds a recipe from plain values, with the same messages as a file; paths are taken as they stand.

    Raises:
        RecipeError: the values do not fit the schema.
    """
    return _build([_Layer(_copy(values), "")], name=None, subject=subject, problems=[])


def default_name(path: Path) -> str:
    """The run name that a recipe's file name gives: characters that a folder name should not have become `-`."""
    stem = unicodedata.normalize("NFC", path.stem)
    name = "".join(char if unicodedata.category(char)[0] in "LMN" or char in "._-" else "-" for char in stem)
    while name and unicodedata.category(name[0])[0] not in "LN":
        name = name[1:]
    # cut between characters
    return name[:100].encode()[:MAX_RUN_NAME_BYTES].decode(errors="ignore") or "run"


def _read_chain(path: Path, *, subject: str) -> tuple[list[_Layer], list[Path]]:
    layers: list[_Layer] = []
    files: list[Path] = []
    seen: list[Path] = []
    stated_by: Path | None = None
    while True:
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            where = str(path) if stated_by is None else f"{stated_by}: extends"
            raise RecipeError(subject, [Problem(where, _reason(error), "a file that can be read")]) from None
        if len(seen) == MAX_FILES:
            problem = Problem(
                f"{stated_by}: extends", f"recipe {MAX_FILES + 1}", f"a chain of at most {MAX_FILES} files"
            )
            raise RecipeError(subject, [problem])
        if real in seen:
            round_trip = " -> ".join(str(file) for file in [*files[seen.index(real) :], path])
            problem = Problem(f"{stated_by}: extends", f"the circle {quote(round_trip)}", "a chain of files that ends")
            raise RecipeError(subject, [problem])
        values = _read_file(path, subject=subject, stated_by=stated_by)
        files.append(path)
        seen.append(real)
        parent = values.pop("extends", _ABSENT)
        _anchor_paths(values, path.parent)
        layers.insert(0, _Layer(values, "" if stated_by is None else f" (in {path})"))
        if parent is _ABSENT:
            return layers, files
        if not isinstance(parent, str) or not parent.strip():
            where = "extends" if stated_by is None else f"{path}: extends"
            raise RecipeError(subject, [Problem(where, show_value(parent), "the path of one recipe file")])
        stated_by = path
        path = Path(os.path.normpath(path.parent / os.path.expanduser(parent)))


_ABSENT = object()


def _read_file(path: Path, *, subject: str, stated_by: Path | None) -> dict[str, Any]:
    where = str(path) if stated_by is None else f"{stated_by}: extends"
    what = "" if stated_by is None else f"{quote(path)}, "
    if os.path.isdir(path):  # pathlib's own fails on a name that is too long
        raise RecipeError(subject, [Problem(where, f"{what}a folder", "a recipe file", _hint_near(path / "x.yaml"))])
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe may never end, and a device may have no end
        raise RecipeError(subject, [Problem(where, f"{what}a device or a pipe", "a recipe file")])
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            problem = Problem(where, f"{what}{path.stat().st_size:,} bytes", f"a recipe: at most {MAX_BYTES:,}")
            raise RecipeError(subject, [problem])
        text = data.decode("utf-8")
    except FileNotFoundError:
        problem = Problem(where, f"{what}no such file", "a recipe file", _hint_near(path))
        raise RecipeError(subject, [problem]) from None
    except OSError as error:
        problem = Problem(where, f"{what}{_reason(error)}", "a file that can be read")
        raise RecipeError(subject, [problem]) from None
    except UnicodeDecodeError as error:
        problem = Problem(str(path), f"the byte {error.object[error.start]:#04x} at {error.start}", "UTF-8 text")
        raise RecipeError(subject, [problem]) from None
    value, problems = parse_yaml(text, where=str(path))
    if problems:
        raise RecipeError(subject, problems)
    if value is None:
        raise RecipeError(subject, [Problem(str(path), "nothing in it", "sections such as `model:` and `data:`")])
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else f"the text {quote(value)}"
        raise RecipeError(subject, [Problem(str(path), kind, "sections such as `model:` and `data:`")])
    # A section whose lines are all commented out reads as null; it states nothing.
    return {key: {} if inner is None and key in section_names() else inner for key, inner in value.items()}


def _reason(error: OSError | RuntimeError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _hint_near(path: Path) -> str:
    folder = path.parent
    names = sorted(file.name for file in folder.glob("*.y*ml")) if os.path.isdir(folder) else []
    # Compared without their ending, which all of them share and which is easily forgotten.
    stems = {name.rpartition(".")[0]: name for name in names}
    near = [stems[stem] for stem in nearest(path.stem, stems)] or names[:3]
    if not near:
        return ""
    shown = " or ".join(quote(folder / name) for name in near)
    return f"did you mean {shown}?"


def _anchor_paths(values: dict[str, Any], folder: Path) -> None:
    # Absolute, so that a recipe has one fingerprint from every current directory; lexical, so that a link stays a link.
    for key_path in (*PATH_KEYS, *PATH_LIST_KEYS):
        section, _, key = key_path.partition(".")
        inner = values.get(section)
        if not isinstance(inner, dict):
            continue
        if key_path in PATH_LIST_KEYS:
            if isinstance(inner.get(key), list):
                inner[key] = [_anchor_path(each, folder) for each in inner[key]]
        elif key_path in LISTS and isinstance(inner.get(key), list):
            inner[key] = [_anchor_file(each, folder) for each in inner[key]]
        elif key in inner:
            inner[key] = (_anchor_rows if key_path in ROW_KEYS else _anchor_path)(inner[key], folder)
    output = values.get("output")
    for key in ("root", "features"):  # relative ones stay with the current directory
        if isinstance(output, dict) and isinstance(output.get(key), str):
            output[key] = os.path.expanduser(output[key])
    model = values.get("model")
    if isinstance(model, dict) and isinstance(model.get("path"), str):
        model["path"] = _anchor_model(model["path"], folder)


def _anchor_path(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value
    return os.path.abspath(folder / os.path.expanduser(value))


def _anchor_file(value: Any, folder: Path) -> Any:
    """Makes the paths of one file of rows absolute; one that is a path alone becomes a mapping."""
    file = {"path": value} if isinstance(value, str) and value.strip() else value
    if not isinstance(file, dict):
        return value
    anchors = {"path": _anchor_rows, "video_root": _anchor_path}
    return {key: anchors[key](each, folder) if key in anchors else each for key, each in file.items()}


def _anchor_rows(value: Any, folder: Path) -> Any:
    """Makes the path of a file of rows absolute; the name of a dataset stays one, unless there is such a file."""
    if isinstance(value, str) and names_dataset(value) and not os.path.exists(folder / value):
        return value
    return _anchor_path(value, folder)


def _anchor_model(text: str, folder: Path) -> str:
    if text in SHIPPED or not text.strip() or HUB_ID.fullmatch(text):
        return text
    owner = os.path.dirname(text)
    if MAYBE_KNOWN.fullmatch(text) and not os.path.exists(owner) and not os.path.exists(folder / owner):
        return text
    return os.path.abspath(folder / os.path.expanduser(text))


def _parse_overrides(overrides: Sequence[str]) -> tuple[_Layer, list[Problem]]:
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    fields = dict(iter_fields())
    seen: set[str] = set()
    for text in overrides:
        path, sign, raw = text.partition("=")
        path = path.strip()
        where = f"{path}{_COMMAND_LINE}"
        if not sign or not path:
            problems.append(Problem(f"override {quote(text)}", "no `=`", "`key.path=value`, such as `lora.rank=16`"))
        elif path in section_names():
            example = f"{path}.{key_names(path)[0]}=..."
            problems.append(Problem(where, "a whole section", f"one setting of it, such as {quote(example)}"))
        elif path not in fields:
            problems.append(unknown_key(path, where=where))
        elif path in seen:
            problems.append(Problem(where, "the setting twice", "each setting once", "remove one of the two"))
        else:
            seen.add(path)
            value, complaint = parse_scalar(raw)
            if complaint:
                problems.append(Problem(where, f"{quote(raw)}: {complaint}", "a YAML value", "quote it"))
            else:
                section, _, key = path.rpartition(".")
                (values.setdefault(section, {}) if section else values)[key] = value
    _anchor_paths(values, Path.cwd())
    return _Layer(values, _COMMAND_LINE), problems


_COMMAND_LINE = " (command line)"


def _merge(layers: Sequence[_Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for layer in layers:
        for pair in EITHER_OR:
            _drop_replaced(merged, layer.values, pair)
        for name, value in layer.values.items():
            origin[name] = layer.source
            if isinstance(value, dict) and name in section_names():
                inner = merged.get(name)
                merged[name] = {**(inner if isinstance(inner, dict) else {}), **value}
                origin.update({f"{name}.{key}": layer.source for key in value})
            else:
                merged[name] = value
    for name in section_names():
        merged.setdefault(name, {})
    return merged, origin


def _drop_replaced(merged: dict[str, Any], layer: dict[str, Any], pair: tuple[str, str]) -> None:
    for stated, replaced in (pair, pair[::-1]):
        section, _, key = stated.partition(".")
        other = replaced.partition(".")[2]
        new, old = layer.get(section), merged.get(section)
        if isinstance(new, dict) and isinstance(old, dict) and new.get(key) is not None:
            old.pop(other, None)


def _build(layers: Sequence[_Layer], *, name: str | None, subject: str, problems: list[Problem]) -> Recipe:
    values, origin = _merge(layers)
    if name is not None and values.get("name") is None:
        values["name"] = name

    def label(path: str) -> str:
        return f"{path}{origin.get(path, '')}"

    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        reported, at_fault = explain(error, values, label=label)
        conflicts = _conflicts_beside(values, at_fault) if at_fault else conflicts_of(error)
        reported += [
            Problem(label(problem.where), problem.got, problem.need, problem.hint)
            for problem, reads in conflicts
            if not at_fault.intersection(reads)
        ]
        raise RecipeError(subject, [*problems, *reported]) from None
    if problems:
        raise RecipeError(subject, problems)
    return recipe


def _conflicts_beside(values: dict[str, Any], at_fault: set[str]) -> list[tuple[Problem, tuple[str, ...]]]:
    """Finds the conflicts among the settings that are right by themselves.

    pydantic checks rules between settings only when every setting is right, and a reader wants to hear all at once.
    """
    rest = _copy(values)
    for path in at_fault:
        section, _, key = path.rpartition(".")
        if section in section_names():
            rest[section].pop(key, None)
        elif path in section_names():
            rest[path] = {}
        else:
            rest.pop(path, None)
    for section, key in (("model", "path"), ("data", "train")):
        rest[section].setdefault(key, "stands in for what is missing")
    try:
        Recipe.model_validate(rest)
    except ValidationError as error:
        return conflicts_of(error)
    return []


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
