"""Finds a model that can be asked by its folder or name alone, before anything heavy is loaded. No torch.

adapter | merged model | run | checkpoint of a run -> its contract and recipe -> `FoundModel`
`tiny` | published name | folder of a published model -> what its name decides -> `FoundModel`
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cvft.data.video.loader import DecodeSettings
from cvft.errors import ContractError, CvftError, ModelError, Problem, RunError, quote
from cvft.families.contract import CONTRACT_FILE, Contract, contract_from_dict, read_contract
from cvft.families.family import Family, Preprocessing
from cvft.families.runtime import Loading
from cvft.families.table import find_family, known_checkpoints
from cvft.families.weight_files import read_model_shards
from cvft.files import hash_file
from cvft.manifest import read_manifest
from cvft.plan.job import OpenModel, open_model
from cvft.recipe import Recipe, load_recipe, recipe_from_dict
from cvft.runs import RunFolder
from cvft.shipped import SHIPPED
from cvft.weights.checkpoints import find_checkpoint
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE, CONFIG_FILE, ModelFolder
from cvft.weights.hub import asks_hub

ADAPTER_CONFIG = "adapter_config.json"

STORED_DTYPES = {"F32": "fp32"}
"""Precision of a model that is asked as it was published, by that of its weight files; all others compute in bf16."""


@dataclass(frozen=True)
class FoundModel:
    """A model that can be asked.

    Args:
        folder: The folder that was asked for or found: adapter, merged model or published model.
        model: The folder of its weights, or of the base that an adapter changes.
        adapter: The adapter's folder, or None.
        family: The family of its model.
        how: How rows reach it.
        loading: How its weights are loaded; where they go is decided when they are.
        device: Where it is to compute: `auto`, `cpu` or `cuda`.
        num_threads: CPU threads.
    """

    folder: Path
    model: ModelFolder
    adapter: Path | None
    family: Family
    how: Preprocessing
    loading: Loading
    device: str
    num_threads: int

    def fingerprint(self) -> dict[str, Any]:
        """States what decides its answers, beyond rows and their limits."""
        weights = {"base" if self.adapter else "model": self.model.fingerprint}
        if self.adapter is not None:
            weights["adapter"] = hash_file(self.adapter / ADAPTER_WEIGHTS_FILE)
        sampling = self.how.decode.sampling
        return {
            **weights,
            "template": self.how.template,
            "sampling": sampling.strategy,
            "max_frames": sampling.max_frames,
            "decoder": self.how.decode.decoder,
            **self.how.fields,
            "dtype": self.loading.dtype,
            "quantize": self.loading.quantize,
        }


def find_model(path: str | Path, *, base: Path | None = None, quantize: str | None = None) -> FoundModel:
    """Finds a model by its folder or name.

    Args:
        path: A merged folder, an adapter folder, the folder of a run (its merged model, or else its adapter), a checkpoint of
            a run; `tiny`; the name of a published model, as a recipe's `model.path`; or a folder of that name.
        base: Where the base of an adapter lies by now; without it, where it lay in training.
        quantize: `none`, `nf4` or `int8`; without it an adapter is asked on its base as it was trained, another model as it is.

    Raises:
        CvftError: when there is none, when it is damaged, or when its base is another one by now.
    """
    folder = Path(path)
    for place in (folder, RunFolder(folder.absolute()).merged, RunFolder(folder.absolute()).adapter):
        if (place / CONTRACT_FILE).is_file():
            return _find_trained(place, read_contract(place), place / "recipe.yaml", base=base, quantize=quantize)
    run = RunFolder(folder.absolute().parent.parent)
    if (folder / ADAPTER_CONFIG).is_file() and folder.absolute().parent == run.train and run.manifest_file.is_file():
        contract = contract_from_dict(read_manifest(run).contract, subject=f"run folder {run.path}", where="contract")
        return _find_trained(folder, contract, run.recipe_file, base=base, quantize=quantize)
    is_published = str(path) in SHIPPED or _asks_hub(str(path))
    if is_published or (_is_model(folder) and find_checkpoint(str(folder), known_checkpoints()) is not None):
        return _find_published(str(path), base=base, quantize=quantize)
    if _is_model(folder):
        read_contract(folder)
    need = "a merged folder, an adapter folder, or the folder of a run"
    got = f"`{path}`" if folder.exists() else f"`{path}`, which does not exist"
    hint = "train one first: cvft run RECIPE; `tiny` and the models that `cvft models` lists can be asked as they are"
    published = find_checkpoint(str(path), known_checkpoints())
    if published is not None:
        hint = f"did you mean {quote(f'hf:{published.hugging_face_ids[0]}')}?"
    raise ModelError("the model to load", [Problem("path", got, need, hint)])


def preprocessing_of(contract: Contract, *, family: Family, folder: ModelFolder, recipe: Recipe) -> Preprocessing:
    """Returns how rows reach a model by its contract.

    Args:
        contract: From the trained folder.
        family: The family of its model.
        folder: The model folder.
        recipe: What decoding may take, and the longest row.

    Raises:
        ContractError: when the contract is not one of this family's.
    """
    if contract.fields.keys() != family.fields:
        got, need = (", ".join(map(quote, sorted(names))) for names in (contract.fields, family.fields))
        raise ContractError(f"folder {folder.path}", [Problem(CONTRACT_FILE, got, f"{need}, as {family.title} has")])
    decode = DecodeSettings.of(
        contract.sampling,
        max_frames=contract.max_frames,
        decoder=contract.decoder,
        fps=_number_or_none(contract.fields.get("fps")),
        min_frames=_number_or_none(contract.fields.get("min_frames")),
        timeout_s=recipe.video.timeout_s,
        memory_gib=recipe.video.memory_gib,
    )
    max_tokens = recipe.data.max_tokens or family.context_tokens(folder.config)
    return Preprocessing(contract.template, decode, max_tokens, contract.fields)


def _number_or_none(value: Any) -> Any:
    """A contract has no null: 0 says that the sampling rule has no such number."""
    return value or None


def _asks_hub(path: str) -> bool:
    try:
        return asks_hub(path, known_checkpoints())
    except ModelError:
        return False


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def _find_trained(
    folder: Path, contract: Contract, recipe_file: Path, *, base: Path | None, quantize: str | None
) -> FoundModel:
    recipe = load_recipe(recipe_file).recipe
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    if is_adapter:
        if not (folder / ADAPTER_WEIGHTS_FILE).is_file():
            problem = Problem(ADAPTER_WEIGHTS_FILE, "no such file", "the adapter's weights", "copy the whole folder")
            raise ModelError(f"adapter {folder}", [problem])
        opened = open_base(recipe, contract, base=base, subject=f"adapter {folder}")
        model, family = opened.folder, opened.family
    else:
        _refuse_base(base, "a model that was merged")
        model = ModelFolder.of(folder)
        family = find_family(model)
        read_model_shards(model, family)
    loading = Loading(
        dtype=recipe.model.dtype if is_adapter else recipe.merged_dtype,
        attention=recipe.attention,
        quantize=quantize or (recipe.model.quantize if is_adapter else "none"),
        embeddings_on_cpu=recipe.model.embeddings_on_cpu,
    )
    how = preprocessing_of(contract, family=family, folder=model, recipe=recipe)
    return FoundModel(
        folder,
        model,
        folder if is_adapter else None,
        family,
        how,
        loading,
        device=recipe.parallel.device,
        num_threads=recipe.parallel.num_threads,
    )


def _find_published(path: str, *, base: Path | None, quantize: str | None) -> FoundModel:
    """Finds a model that nobody has trained further: its name says how it is asked."""
    _refuse_base(base, "a model without an adapter")
    where = path if path in SHIPPED or _asks_hub(path) else str(Path(path).absolute())
    video = dict(SHIPPED[path].video) if path in SHIPPED else {}
    asked = {"model": {"path": where}, "data": {"train": "none.jsonl"}, "video": video}
    recipe = recipe_from_dict(asked, subject=f"model {path}")
    opened = open_model(recipe)
    stored = {entry.dtype for shard in opened.shards or () for entry in shard.entries}
    dtype = STORED_DTYPES.get(stored.pop(), "bf16") if len(stored) == 1 else "bf16"
    return FoundModel(
        opened.path,
        opened.folder,
        None,
        opened.family,
        opened.family.preprocessing(recipe, opened.folder),
        Loading(dtype=dtype, quantize=quantize or "none"),
        device=recipe.parallel.device,
        num_threads=recipe.parallel.num_threads,
    )


def open_base(recipe: Recipe, contract: Contract, *, base: Path | None, subject: str) -> OpenModel:
    """Opens the base of an adapter, where it lay in training or where it lies by now.

    Args:
        recipe: The recipe of the training.
        contract: The adapter's.
        base: Where the base lies by now, or None.
        subject: The adapter, for messages.

    Raises:
        ContractError: when it is another model.
        ModelError: when there is none.
    """
    model = recipe.model
    if base is not None:
        model = model.model_copy(update={"path": str(base.absolute()), "revision": None})
    try:
        opened = open_model(recipe.model_copy(update={"model": model}))
    except ModelError as error:
        if base is not None:
            raise
        hint = "does the base lie elsewhere by now? --base FOLDER says where"
        raise ModelError(subject, [replace(each, hint=f"{each.hint}; {hint}") for each in error.problems]) from error
    if opened.folder.fingerprint != contract.base_fingerprint:
        hint = "--base FOLDER says where the base of the training lies by now"
        problem = Problem(
            "base model", f"other weights in `{opened.path}`", "the base that the adapter was trained on", hint
        )
        raise ContractError(subject, [problem])
    return opened


def _refuse_base(base: Path | None, what: str) -> None:
    if base is not None:
        raise CvftError("command line", [Problem("--base", f"it for {what}", "it for an adapter alone", "remove it")])


def find_merged(run: RunFolder, aside: Path | None = None) -> ModelFolder:
    """Finds the merged model of a run.

    Args:
        run: The run.
        aside: Where it lies while it is being verified; else in its place in the run.

    Raises:
        RunError: when there is none.
    """
    return ModelFolder.of(require_merged(run, aside))


def require_merged(run: RunFolder, aside: Path | None = None) -> Path:
    """Returns the folder of a run's merged model without reading it; see `find_merged`.

    Raises:
        RunError: when there is none.
    """
    folder = aside or run.merged
    if not (folder / CONTRACT_FILE).is_file():
        which = "" if run.checkpoint is None else f" --checkpoint {run.checkpoint}"
        hint = f"cvft export {run.path}{which} makes it"
        problem = Problem(f"{run.merged.name}/", "no such folder", "a merged model", hint)
        raise RunError(f"run folder {run.path}", [problem])
    return folder
