"""Model folders that a recipe names: a local one, a shipped one, or a hub's repository, fetched at a pinned revision. No torch.

`model.path` -> folder | hub id -> the revision's commit -> the files of that commit in the hub's own cache -> folder

Code files are fetched like all others, so that a merged folder can keep them; nothing ever runs them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvft.errors import ModelError, Problem, nearest, quote
from cvft.shipped import SHIPPED
from cvft.weights.checkpoints import (
    Checkpoint,
    download_commands,
    hugging_face_command,
    modelscope_command,
)
from cvft.weights.shards import read_weight_map

HUGGING_FACE = "huggingface"
MODELSCOPE = "modelscope"

HUBS = {"hf": HUGGING_FACE, "ms": MODELSCOPE}
"""What stands before the colon of a hub id in `model.path` -> the hub."""

PREFIXES = {hub: prefix for prefix, hub in HUBS.items()}

NEED = f"a model folder, a hub id (`hf:owner/name` or `ms:owner/name`), {' or '.join(map(quote, SHIPPED))}"

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""Names on a hub. Source: `validate_repo_id` of huggingface_hub."""
COMMIT = re.compile(r"[0-9a-f]{40}")

NOT_FETCHED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf")
"""Weights in other forms: they would double the download, and pickles can run code."""

WEIGHTS = ("*.safetensors",)


class UnreachableError(ModelError):
    """A hub did not answer, and what is asked for is not here."""


@dataclass(frozen=True)
class Source:
    """Where a model folder comes from.

    Args:
        folder: The folder.
        hub: The hub, or None for a folder that was there.
        model_id: Its name on the hub, or None.
        commit: The revision that was fetched, or None. ModelScope's client tells no commit: there it is what was asked for.
    """

    folder: Path
    hub: str | None = None
    model_id: str | None = None
    commit: str | None = None


def locate_model(path: str, *, revision: str | None, known: Sequence[Checkpoint], needs_weights: bool = True) -> Source:
    """Finds the folder that a recipe's model section names, and fetches it when it is on a hub.

    Args:
        path: The name of a shipped one; a hub id: `hf:owner/name`, `ms:owner/name`, or without prefix that of a known checkpoint
            on Hugging Face; or a folder, which all other text is.
        revision: Branch, tag or commit on the hub; None for its main branch.
        known: Checkpoints of Hugging Face that may be meant by their name.
        needs_weights: Whether the weights have to come too; without them, a folder serves to plan.

    Returns:
        The folder and where it comes from. Once found, a hub's folder stays the same for the process.

    Raises:
        ModelError: when there is no such folder or repository, when it cannot be reached, or when a revision is named for a
            folder that has none.
    """
    asked = _read_hub_id(path, known)
    if asked is not None:
        hub, model_id = asked
        return _fetch(model_id, hub, revision, needs_weights, _commands_for(model_id, hub, known))
    folder = SHIPPED[path].folder if path in SHIPPED else Path(path).expanduser()
    if not folder.is_dir():
        hint = _hint_at_folder_here(folder) or _hint_at_hub_id(path, known)
        raise ModelError("the recipe's model", [Problem("model.path", f"no folder {path}", NEED, hint)])
    if revision is not None:
        got, hint = f"{quote(revision)} beside a local folder", "remove `model.revision`"
        raise ModelError("the recipe's model", [Problem("model.revision", got, "no such setting", hint)])
    return Source(folder)


def find_absent(path: str, known: Sequence[Checkpoint]) -> tuple[Source, Checkpoint] | None:
    """Finds the published checkpoint that a hub id names, for a plan without its files.

    Args:
        path: As for `locate_model`.
        known: As for `locate_model`.

    Returns:
        Where it would come from and what is known of it; None where nothing is.
    """
    asked = _read_hub_id(path, known)
    for checkpoint in known if asked is not None else ():
        hub, model_id = asked or ("", "")
        if checkpoint.config and model_id in (*checkpoint.hugging_face_ids, *checkpoint.modelscope_ids):
            return Source(Path(model_id), hub, model_id), checkpoint
    return None


def asks_hub(path: str, known: Sequence[Checkpoint]) -> bool:
    """Tells whether a path asks a hub, and so may have to be fetched.

    Args:
        path: As for `locate_model`.
        known: As for `locate_model`.

    Raises:
        ModelError: when it is no path that `locate_model` takes.
    """
    return _read_hub_id(path, known) is not None


def _read_hub_id(path: str, known: Sequence[Checkpoint]) -> tuple[str, str] | None:
    """Returns hub and id that a path asks for, or None for a folder."""
    prefix, colon, model_id = path.partition(":")
    if colon and prefix.isalpha():
        if prefix not in HUBS or not ID.fullmatch(model_id):
            hint = _hint_at_hub_id(path, known)
            raise ModelError("the recipe's model", [Problem("model.path", quote(path), NEED, hint)])
        return HUBS[prefix], model_id
    is_known = any(path in checkpoint.hugging_face_ids for checkpoint in known)
    # beside a folder of the owner's name it is a path: nothing is fetched in place of a folder that is missing there
    return (HUGGING_FACE, path) if is_known and not Path(path).parent.exists() else None


def _hint_at_folder_here(folder: Path) -> str:
    """Tells of a folder that was probably meant, when a recipe elsewhere states a path relative to the current folder."""
    tails = (Path(*folder.parts[start:]) for start in range(1, len(folder.parts)))
    here = next((tail for tail in tails if (tail / "config.json").is_file()), None)
    if here is None:
        return ""
    return (
        f"there is {quote(here)} in the current folder, but a relative path starts at the recipe that states it: "
        f"give {quote(f'model.path={here}')} after the recipe"
    )


def _hint_at_hub_id(path: str, known: Sequence[Checkpoint]) -> str:
    """Tells how the hub id that was probably meant is written, and which commands download it."""
    prefix, _, bare = path.rpartition(":")
    name = Path(bare).name
    by_name = {checkpoint.name.lower(): checkpoint for checkpoint in known}
    near = [by_name[each] for each in nearest(name.lower(), by_name, count=1)]
    if near:
        (checkpoint,) = near
        shown = f"{PREFIXES[HUGGING_FACE]}:{checkpoint.hugging_face_ids[0]}"
        if checkpoint.modelscope_ids and (prefix == PREFIXES[MODELSCOPE] or bare in checkpoint.modelscope_ids):
            shown = f"{PREFIXES[MODELSCOPE]}:{checkpoint.modelscope_ids[0]}"
        return f"did you mean {quote(shown)}? Or download it: {_either(download_commands(checkpoint))}"
    if ID.fullmatch(bare):
        return f"did you mean {' or '.join(quote(f'{prefix}:{bare}') for prefix in HUBS)}?"
    return "is the path right? `cvft models` lists the published checkpoints and how to get them"


def _commands_for(model_id: str, hub: str, known: Sequence[Checkpoint]) -> tuple[str, ...]:
    for checkpoint in known:  # one of these lies on both hubs, of which the other may answer
        if model_id in (*checkpoint.hugging_face_ids, *checkpoint.modelscope_ids):
            return tuple(download_commands(checkpoint))
    return ({HUGGING_FACE: hugging_face_command, MODELSCOPE: modelscope_command}[hub](model_id),)


@functools.cache
def _fetch(model_id: str, hub: str, revision: str | None, needs_weights: bool, commands: tuple[str, ...]) -> Source:
    ignored = NOT_FETCHED if needs_weights else (*NOT_FETCHED, *WEIGHTS)
    fetch = {HUGGING_FACE: _from_hugging_face, MODELSCOPE: _from_modelscope}[hub]
    source = fetch(model_id, revision, ignored, commands)
    missing = _missing_files(source.folder) if needs_weights else []
    if missing:
        hint = "is it a checkpoint that cvft trains? `cvft models` lists them"
        problem = Problem(model_id, f"no {', '.join(missing)}", "the files of a published checkpoint", hint)
        raise ModelError(f"model {model_id}", [problem])
    return source


def _missing_files(folder: Path) -> list[str]:
    names = ["config.json", "tokenizer.json"]
    names += sorted(set((read_weight_map(folder) or {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    return missing if missing or any(folder.glob(WEIGHTS[0])) else [WEIGHTS[0]]


def _from_hugging_face(
    model_id: str, revision: str | None, ignored: tuple[str, ...], commands: Iterable[str]
) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    asked = {"repo_id": model_id, "revision": revision, "ignore_patterns": list(ignored)}
    if revision is not None and COMMIT.fullmatch(revision):
        try:  # a commit never changes: what is here of it needs no network
            folder = Path(snapshot_download(**asked, local_files_only=True))
            if not set(ignored).isdisjoint(WEIGHTS) or not _missing_files(folder):
                return Source(folder, HUGGING_FACE, model_id, folder.name)
        except LocalEntryNotFoundError:
            pass
    try:
        folder = Path(snapshot_download(**asked))
    except GatedRepoError as error:
        raise _refused(
            model_id, "a repository that asks for consent", "accept its terms, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        hint = "is the name right? A private one needs `hf auth login`"
        raise _refused(model_id, "no such repository", hint) from error
    except RevisionNotFoundError as error:
        raise _refused(
            f"{model_id}, revision {quote(revision)}", "no such revision", "a branch, tag or commit"
        ) from error
    except HFValidationError as error:
        raise _refused(model_id, f"an invalid name ({error})", "owner/name") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise _unreachable(model_id, error, commands) from error
    return Source(folder, HUGGING_FACE, model_id, folder.name)


def _from_modelscope(model_id: str, revision: str | None, ignored: tuple[str, ...], commands: Iterable[str]) -> Source:
    from modelscope.hub.snapshot_download import snapshot_download

    asked = {"model_id": model_id, "revision": revision, "ignore_patterns": list(ignored)}
    try:
        folder = Path(snapshot_download(**asked))
    except Exception as error:  # the client raises its own, requests' and plain ones
        raise _unreachable(model_id, error, commands) from error
    return Source(folder, MODELSCOPE, model_id, revision or "master")


def fetch_dataset(address: str, files: Sequence[str], folder: Path) -> None:
    """Fetches files of a dataset from a hub into a folder, under the names that they have there.

    Args:
        address: `hf:OWNER/NAME` or `ms:OWNER/NAME`.
        files: The files; others are not fetched, and those that the hub does not have are left out.
        folder: The folder.

    Raises:
        UnreachableError: when one of them cannot be fetched, with what the hub's client says.
    """
    prefix, _, dataset_id = address.partition(":")
    fetch = {HUGGING_FACE: _dataset_from_hugging_face, MODELSCOPE: _dataset_from_modelscope}[HUBS[prefix]]
    try:
        fetch(dataset_id, list(files), folder)
    except Exception as error:  # ModelScope's client raises its own, requests' and plain ones
        said = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
        raise UnreachableError(f"dataset {dataset_id}", [Problem(address, said, "a hub that answers")]) from error


def _dataset_from_hugging_face(dataset_id: str, files: list[str], folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(dataset_id, repo_type="dataset", allow_patterns=files, local_dir=folder)


def _dataset_from_modelscope(dataset_id: str, files: list[str], folder: Path) -> None:
    from modelscope.hub.snapshot_download import dataset_snapshot_download

    dataset_snapshot_download(dataset_id, allow_patterns=files, local_dir=str(folder))


def _refused(what: str, got: str, hint: str) -> ModelError:
    return ModelError("the recipe's model", [Problem(f"model.path: {what}", got, "a repository on the hub", hint)])


def _unreachable(model_id: str, error: Exception, commands: Iterable[str]) -> UnreachableError:
    lines = str(error).strip().splitlines() or [""]
    return UnreachableError(
        "the recipe's model",
        [
            Problem(
                f"model.path: {model_id}",
                f"{type(error).__name__}: {lines[0][:200]}",
                "a folder here, or a hub that answers",
                f"try again, or where there is a network: {_either(commands)}",
            )
        ],
    )


def _either(commands: Iterable[str]) -> str:
    return " or ".join(f"`{command}`" for command in commands)
