"""Opens the models of a run, one in memory at a time, and trained folders that stand alone.

`Job` + variant -> `Predictor`          adapter or merged folder -> its contract and recipe -> `Predictor`
"""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from cvft.clips.build import missing_clips
from cvft.clips.source import CachedClips, ClipSource, DecodedClips
from cvft.data.features.store import FeatureStore
from cvft.data.records import read_records
from cvft.data.video.loader import DecodeSettings
from cvft.dtypes import BY_NAME
from cvft.errors import ContractError, Problem, RunError, quote
from cvft.families.adapter_file import AdapterFile, read_adapter
from cvft.families.contract import CONTRACT_FILE, Contract, check_contract, read_contract
from cvft.families.family import Family, Loading, Preprocessing, load_runtime
from cvft.families.parts import Shape, weight_bytes
from cvft.families.table import find_family
from cvft.plan.job import Job, open_model
from cvft.predict.placement import spreads_over_gpus
from cvft.predict.predictor import Predictor
from cvft.recipe import Recipe, load_recipe
from cvft.weights.folder import ModelFolder
from cvft.weights.shards import read_shards

LOG = logging.getLogger(__name__)

Variant = Literal["base", "adapter", "merged"]
"""Which of a run's models: they share base weights, so base and adapter are one load."""

ADAPTER_CONFIG = "adapter_config.json"


@dataclass
class _Loaded:
    is_merged: bool
    loading: Loading
    predictor: Predictor


class Predictors:
    """A run's models for those who ask one after the other: what is loaded answers again as long as it will do.

    Base and adapter are one load. Only one model is in memory at a time.

    Args:
        job: The job of a trained run.
        keeps_tower: Whether models are loaded with their tower even where cached features serve: for a verification that
            comes later, which lets every weight take part.
    """

    def __init__(self, job: Job, *, keeps_tower: bool = False) -> None:
        self.job = job
        self.keeps_tower = keeps_tower
        self._loaded: _Loaded | None = None

    def get(self, variant: Variant, *, plain: bool = False, merged_folder: Path | None = None) -> Predictor:
        """Returns a variant's predictor; the one returned before is not to be used any more.

        Args:
            variant: `base`, `adapter` or `merged`.
            plain: Whether every weight takes part as it is stored: no quantized weights, no cached features.
            merged_folder: Where the merged model lies while it is being verified; else in its place in the run.

        Raises:
            RunError: when the run has no such model.
            ContractError: when recipe and adapter disagree on the preprocessing.
        """
        job = self.job
        is_merged = variant == "merged"
        stored = read_contract(job.run.adapter)
        check_contract(stored, job.contract, folder=job.run.adapter)
        dtype = job.recipe.merged_dtype if is_merged else job.recipe.model.dtype
        cached = None if plain or dtype != job.recipe.model.dtype else find_features(job, stored=stored)
        loading = Loading(
            dtype=dtype,
            attention=job.recipe.attention,
            quantize="none" if plain else job.recipe.model.quantize,
            embeddings_on_cpu=job.recipe.model.embeddings_on_cpu and not plain,
            with_tower=cached is None or self.keeps_tower,
        )
        if self._loaded is None or not _serves(self._loaded, is_merged=is_merged, loading=loading):
            self.close()
            folder = self._find_merged(merged_folder) if is_merged else job.model.folder
            torch.set_num_threads(job.recipe.parallel.num_threads)
            predictor = _load(
                folder,
                job.family,
                job.preprocessing,
                loading=loading,
                device=job.ranks.device,
                adapter_folder=None if is_merged else job.run.adapter,
            )
            self._loaded = _Loaded(is_merged, loading, predictor)
        of_all = self._loaded.predictor
        return Predictor(
            of_all.model,
            runtime=of_all.runtime,
            encoder=of_all.encoder,
            clips=cached or of_all.clips,
            uses_adapter=variant != "base",
        )

    @property
    def num_bytes(self) -> int:
        """What the model in memory takes."""
        return self._loaded.predictor.num_bytes if self._loaded is not None else 0

    def close(self) -> None:
        """Lets go of the model in memory."""
        if self._loaded is not None:
            self._loaded.predictor.close()
            self._loaded = None
            gc.collect()  # peft's layers refer to each other in circles
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # the next model asks the device what is free

    def _find_merged(self, merged_folder: Path | None) -> ModelFolder:
        folder = merged_folder or self.job.run.merged
        if not (folder / CONTRACT_FILE).is_file():
            problem = Problem("merged/", "no such folder", "a merged model", "cvft export makes it")
            raise RunError(f"run folder {self.job.run.path}", [problem])
        return ModelFolder.of(folder)


def open_predictor(job: Job, variant: Variant) -> Predictor:
    """Loads one of a run's models.

    Args:
        job: The job of a trained run.
        variant: `base`, `adapter` or `merged`.

    Raises:
        RunError: when the run has no such model.
        ContractError: when recipe and adapter disagree on the preprocessing.
    """
    return Predictors(job).get(variant)


def open_trained(folder: Path, *, quantize: str | None = None) -> Predictor:
    """Loads an adapter or merged folder with nothing else given.

    Args:
        folder: The folder, which holds its contract and recipe.
        quantize: `none`, `nf4` or `int8`; without it an adapter is asked on its base as it was trained, a merged model as it is.

    Raises:
        ContractError: when the folder has no contract, or when its base is another one by now.
    """
    contract = read_contract(folder)
    recipe = load_recipe(folder / "recipe.yaml").recipe
    torch.set_num_threads(recipe.parallel.num_threads)
    device = "cuda" if torch.cuda.is_available() and recipe.parallel.device != "cpu" else "cpu"
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    if is_adapter:
        opened = open_model(recipe)
        model, family = opened.folder, opened.family
        _check_base(model, contract, adapter_folder=folder)
    else:
        model = ModelFolder.of(folder)
        family = find_family(model)
    loading = Loading(
        dtype=recipe.model.dtype if is_adapter else recipe.merged_dtype,
        attention=recipe.attention,
        quantize=quantize or (recipe.model.quantize if is_adapter else "none"),
        embeddings_on_cpu=recipe.model.embeddings_on_cpu and device == "cuda",
    )
    return _load(
        model,
        family,
        preprocessing_of(contract, family=family, folder=model, recipe=recipe),
        loading=loading,
        device=device,
        adapter_folder=folder if is_adapter else None,
    )


def preprocessing_of(contract: Contract, *, family: Family, folder: ModelFolder, recipe: Recipe) -> Preprocessing:
    """Returns how rows reach a model by its contract.

    Args:
        contract: From the trained folder.
        family: The family of its model.
        folder: The model folder.
        recipe: What decoding may take.

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
        timeout_s=recipe.video.timeout_s,
        memory_gib=recipe.video.memory_gib,
    )
    return Preprocessing(contract.template, decode, family.context_tokens(folder.config), contract.fields)


def find_features(job: Job, *, stored: Contract) -> CachedClips | None:
    """Returns a run's cached features, or None when they are not all there.

    Args:
        job: The job of a trained run.
        stored: How clips reached the model in training.
    """
    if not job.may_cache_features or not job.run.clip_records.is_file():
        return None
    records = read_records(job.run.clip_records)
    key = job.feature_key
    store = FeatureStore(job.features_root, replace(key, decoder_version=stored.decoder_version))
    return None if not records or missing_clips(store, records) else CachedClips(store, records)


def _serves(loaded: _Loaded, *, is_merged: bool, loading: Loading) -> bool:
    """Tells whether what is loaded will do: the same weights in the same form, and the tower where it is needed."""
    same = replace(loaded.loading, with_tower=True) == replace(loading, with_tower=True)
    has_tower = loaded.loading.with_tower or not loading.with_tower
    return loaded.is_merged == is_merged and same and has_tower


def _load(
    folder: ModelFolder,
    family: Family,
    how: Preprocessing,
    *,
    loading: Loading,
    device: str,
    adapter_folder: Path | None,
) -> Predictor:
    if problems := family.check_preprocessing(how, folder):
        raise ContractError(f"folder {adapter_folder or folder.path}", problems)
    adapter = None if adapter_folder is None else _read_adapter(adapter_folder, folder, family)
    runtime = load_runtime(family)
    loading = replace(loading, device_map=_device_map(folder, family, device=device, loading=loading))
    model: Any = runtime.load(folder, how, loading)
    if adapter is not None:
        from peft import LoraConfig, PeftModel

        config = LoraConfig(**adapter.peft_settings())
        model = PeftModel.from_pretrained(model, str(adapter_folder), config=config).eval()
    encoder = runtime.encoder(folder, how)
    clips: ClipSource = DecodedClips(encoder, how.decode)
    return Predictor(model, runtime=runtime, encoder=encoder, clips=clips)


def _check_base(base: ModelFolder, contract: Contract, *, adapter_folder: Path) -> None:
    if base.fingerprint != contract.base_fingerprint:
        hint = "merge the adapter where its base lies (cvft export), or put the base back"
        problem = Problem(
            "base model", f"other weights in {quote(base.path)}", "the base that the adapter was trained on", hint
        )
        raise ContractError(f"adapter {adapter_folder}", [problem])


def _read_adapter(adapter: Path, base: ModelFolder, family: Family) -> AdapterFile:
    return read_adapter(adapter, parts=family.parts, shapes=_shapes_of(base, family), module_of=family.module_of)


def _shapes_of(folder: ModelFolder, family: Family) -> dict[str, Shape]:
    shards = read_shards(folder.path, family.tensors(folder.config))
    return {entry.name: entry.shape for shard in shards for entry in shard.entries}


def _device_map(folder: ModelFolder, family: Family, *, device: str, loading: Loading) -> Any:
    """Puts a model where it fits: on the device, or on all GPUs when it is too large for one."""
    if device != "cuda":
        return {"": device}
    num_bytes = weight_bytes(
        family.parts,
        _shapes_of(folder, family),
        value_bytes=BY_NAME[loading.dtype].num_bytes,
        quantize=loading.quantize,
        with_tower=loading.with_tower,
    )
    free_bytes = [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())]
    if not spreads_over_gpus(num_bytes, free_bytes):
        return {"": device}
    LOG.info("model     spread over %d GPUs: one has no room for %.1f GB", len(free_bytes), num_bytes / 1e9)
    return "balanced"
