"""Model folders that a recipe names: a local one, the tiny one, or a repository on a hub, fetched at a pinned revision. No torch.

`model.path` -> folder | hub id -> the revision's commit -> the files of that commit in the hub's own cache -> folder

Code files are fetched like all others, so that a merged folder can keep them; nothing ever runs them.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cvft.errors import ModelError, Problem, quote
from cvft.weights.checkpoints import (
    Checkpoint,
    download_commands,
    find_checkpoint,
    hugging_face_command,
    modelscope_command,
)
from cvft.weights.folder import TINY, tiny_checkpoint_path
from cvft.weights.shards import INDEX_FILE

HUGGING_FACE = "huggingface"
MODELSCOPE = "modelscope"

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")

NOT_FETCHED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf")
"""Weights in other forms: they would double the download, and pickles can run code."""

WEIGHTS = ("*.safetensors",)


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


def locate_model(
    path: str, *, hub: str, revision: str | None, known: Iterable[Checkpoint], needs_weights: bool = True
) -> Source:
    """Finds the folder that a recipe's model section names, and fetches it when it is on a hub.

    Args:
        path: `tiny`, a local folder, or a hub id (`owner/name`); a folder goes before an id of the same text.
        hub: `huggingface` or `modelscope`.
        revision: Branch, tag or commit on the hub; None for its main branch.
        known: Checkpoints whose names may be meant.
        needs_weights: Whether the weights have to come too; without them, a folder serves to plan.

    Returns:
        The folder and where it comes from. Once found, a hub's folder stays the same for the process.

    Raises:
        ModelError: when there is no such folder or repository, when it cannot be reached, or when a revision is named for a
            folder that has none.
    """
    is_local = path == TINY or Path(path).expanduser().is_dir()
    if is_local or not ID.fullmatch(path):
        source = Source(_find_folder(path, known))
        settings = (("hub", hub, HUGGING_FACE), ("revision", revision, None))
        problems = [
            Problem(f"model.{key}", f"{quote(value)} beside a local folder", "no such setting", f"remove `model.{key}`")
            for key, value, default in settings
            if value != default
        ]
        if problems:
            raise ModelError("the recipe's model", problems)
        return source
    return _fetch(path, hub, revision, needs_weights, tuple(_commands_for(path, hub, known)))


def _find_folder(path: str, known: Iterable[Checkpoint]) -> Path:
    if path == TINY:
        return tiny_checkpoint_path()
    folder = Path(path).expanduser()
    if not folder.is_dir():
        checkpoint = find_checkpoint(path, known)
        commands = download_commands(checkpoint) if checkpoint else [hugging_face_command("OWNER/NAME")]
        hint = "download it first: " + _either(commands)
        need = f"a local model folder, a hub id (owner/name), or {quote(TINY)}"
        raise ModelError("the recipe's model", [Problem("model.path", quote(path), need, hint)])
    return folder


def _commands_for(model_id: str, hub: str, known: Iterable[Checkpoint]) -> list[str]:
    for checkpoint in known:  # one of these lies on both hubs, of which the other may answer
        if model_id in (*checkpoint.hugging_face_ids, *checkpoint.modelscope_ids):
            return download_commands(checkpoint)
    return [{HUGGING_FACE: hugging_face_command, MODELSCOPE: modelscope_command}[hub](model_id)]


@functools.cache
def _fetch(model_id: str, hub: str, revision: str | None, needs_weights: bool, commands: tuple[str, ...]) -> Source:
    ignored = NOT_FETCHED if needs_weights else (*NOT_FETCHED, *WEIGHTS)
    fetch = {HUGGING_FACE: _from_hugging_face, MODELSCOPE: _from_modelscope}[hub]
    source = fetch(model_id, revision, ignored, commands)
    missing = _missing_files(source.folder) if needs_weights else []
    if missing:
        hint = "is it a CogVLM2-Video checkpoint? `cvft models` lists them"
        problem = Problem(model_id, f"no {', '.join(missing)}", "the files of a published checkpoint", hint)
        raise ModelError(f"model {model_id}", [problem])
    return source


def _missing_files(folder: Path) -> list[str]:
    names = ["config.json", "tokenizer.json"]
    index = folder / INDEX_FILE
    if index.is_file():
        names += sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
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


def _refused(what: str, got: str, hint: str) -> ModelError:
    return ModelError("the recipe's model", [Problem(f"model.path: {what}", got, "a repository on the hub", hint)])


def _unreachable(model_id: str, error: Exception, commands: Iterable[str]) -> ModelError:
    lines = str(error).strip().splitlines() or [""]
    return ModelError(
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
