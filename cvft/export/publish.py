"""`cvft push`: a run's adapter or merged model, with a card that says what it is, to a hub."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cvft.errors import Problem, RunError, quote
from cvft.export import VERIFICATION_FILE
from cvft.export.card import CardFacts, make_card
from cvft.export.push import upload
from cvft.export.run import read_verification
from cvft.families.contract import CONTRACT_FILE, read_contract
from cvft.families.table import family_named, known_checkpoints
from cvft.files import check_output, write_whole
from cvft.json_files import JsonError, read_object
from cvft.manifest import ManifestBase, read_manifest
from cvft.plan.plan import Plan
from cvft.recipe import LoadedRecipe
from cvft.recipe.yaml_text import dump_yaml
from cvft.runs import RunFolder, read_metrics
from cvft.weights.checkpoints import find_checkpoint
from cvft.weights.finite import refuse_nonfinite
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE
from cvft.weights.hub import HUGGING_FACE, ID, PREFIXES

ADAPTER_CONFIG = "adapter_config.json"
NOT_PUBLISHED = ("README.md", "README_zh.md", ".gitattributes")
"""What a base's repository says of itself; the card takes its place."""


def push_run(
    loaded: LoadedRecipe, *, model_id: str, variant: str, is_private: bool, card_file: Path | None = None
) -> str:
    """Publishes one of a run's models, or only writes its card.

    Args:
        loaded: The recipe of a finished run.
        model_id: Where to: `owner/name` on Hugging Face.
        variant: `adapter` or `merged`.
        is_private: Whether a new repository is private.
        card_file: Where to write the card instead of uploading anything.

    Returns:
        What was made, for the terminal.

    Raises:
        RunError: when the run has no such model, or one that was never verified.
        CvftError: when the hub refuses.
    """
    folder = RunFolder(loaded.recipe.run_dir.absolute())
    model = folder.adapter if variant == "adapter" else folder.merged
    _check(loaded, model, model_id=model_id, variant=variant)
    if card_file is not None:
        check_output(card_file, subject="command line", where="--card", may_exist=True)
    manifest, plan = read_manifest(folder), Plan.from_json(folder.plan_file.read_text(encoding="utf-8"))
    recipe, base_id, base_commit = _without_paths(loaded, manifest.base)
    card = make_card(
        CardFacts(
            model_id=model_id,
            kind=variant,
            base=recipe["model"]["path"],
            base_id=base_id,
            base_commit=base_commit,
            recipe_text=dump_yaml(recipe),
            contract=read_contract(model).to_dict(),
            rows=asdict(manifest.rows),
            metrics=_metrics(folder),
            verification=read_verification(model) if variant == "merged" else None,
            versions={"cvft": manifest.cvft, **manifest.packages},
            tags=family_named(plan.worker.family).tags,  # its base need not be here any more
        )
    )
    if card_file is not None:
        write_whole(card_file, card)
        return f"card      {card_file}"
    with tempfile.TemporaryDirectory() as name:
        staged = Path(name)
        for path in sorted(model.iterdir()):
            if path.is_file() and path.name not in NOT_PUBLISHED:
                (staged / path.name).symlink_to(path)
        _replace(staged / "recipe.yaml", dump_yaml(recipe))
        if variant == "adapter":
            config = _read(model / ADAPTER_CONFIG) | {"base_model_name_or_path": base_id or recipe["model"]["path"]}
            _replace(staged / ADAPTER_CONFIG, json.dumps(config, indent=2) + "\n")
        (staged / "README.md").write_text(card, encoding="utf-8")
        address = upload(staged, model_id=model_id, is_private=is_private)
    return f"published {model_id} ({variant})\ncommit    {address}"


def _check(loaded: LoadedRecipe, model: Path, *, model_id: str, variant: str) -> None:
    subject, problems = f"run folder {loaded.recipe.run_dir}", []
    if not ID.fullmatch(model_id):
        problems.append(Problem("--to", quote(model_id), "owner/name on the hub, in a to z, digits, `.`, `_` and `-`"))
    if not (model / CONTRACT_FILE).is_file():
        command = "train" if variant == "adapter" else "export"
        hint = f"make it first: cvft {command} {loaded.path}"
        problems.append(Problem(f"{model.name}/", "no such folder", f"the run's {variant} model", hint))
    elif variant == "merged" and not (model / VERIFICATION_FILE).is_file():
        need, hint = f"{VERIFICATION_FILE}: only verified merges are published", f"cvft export {loaded.path}"
        problems.append(Problem(f"{model.name}/", "no verification", need, hint))
    if problems:
        raise RunError(subject, problems)
    if variant == "adapter":
        refuse_nonfinite(model / ADAPTER_WEIGHTS_FILE, subject=f"adapter {model}")


def _without_paths(loaded: LoadedRecipe, source: ManifestBase) -> tuple[dict[str, Any], str | None, str | None]:
    """Returns the recipe with names in place of this machine's folders, and the base's id and commit on a hub."""
    recipe = loaded.recipe.to_dict()
    base_id, base_commit = source.id, source.commit
    path = recipe["model"]["path"]
    published = find_checkpoint(path, known_checkpoints())
    if source.hub is not None:
        recipe["model"].update(path=f"{PREFIXES[source.hub]}:{base_id}", revision=base_commit)
    elif published is not None:
        base_id = published.hugging_face_ids[0]
        recipe["model"]["path"] = f"{PREFIXES[HUGGING_FACE]}:{base_id}"
    else:
        recipe["model"]["path"] = Path(path).name
    for section, key in (
        ("data", "train"),
        ("data", "val"),
        ("data", "video_root"),
        ("train", "resume_from"),
        ("output", "root"),
        ("output", "features"),
        ("parallel", "deepspeed_config"),
    ):
        if recipe[section][key] is not None:
            recipe[section][key] = Path(recipe[section][key]).name
    recipe["eval"]["probes"] = [Path(path).name for path in recipe["eval"]["probes"]]
    recipe["parallel"].update(rendezvous=None if recipe["parallel"]["num_nodes"] == 1 else "node0.example:29500")
    return recipe, base_id, base_commit


def _metrics(folder: RunFolder) -> dict[str, Any]:
    stored = {name: read_metrics(folder.evaluation(name)) for name in ("base", "adapter", "merged")}
    return {name: values["metrics"] for name, values in stored.items() if values is not None}


def _replace(link: Path, text: str) -> None:
    link.unlink(missing_ok=True)
    link.write_text(text, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except JsonError as error:
        raise RunError(f"folder {path.parent}", [Problem(path.name, str(error), "the file that cvft wrote")]) from error
