"""Loads the models of a run, one in memory at a time, and models that stand alone.

`Job` + variant -> `Predictor`          `FoundModel` -> `Predictor`
"""

from __future__ import annotations

import gc
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from cvft.clips.build import missing_clips
from cvft.clips.source import CachedClips, ClipSource, DecodedClips, PixelClips
from cvft.data.features.store import FeatureStore
from cvft.data.records import ClipRecord, read_records
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.spec import ClipRef
from cvft.dtypes import BY_NAME
from cvft.errors import ContractError, Problem
from cvft.families.adapter_file import AdapterFile, read_adapter
from cvft.families.contract import Contract, check_contract, read_contract
from cvft.families.family import Family, Preprocessing
from cvft.families.parts import Shape, loaded_shapes, weight_bytes
from cvft.families.runtime import Encoder, Loading, load_runtime
from cvft.families.weight_files import read_model_shards
from cvft.plan.job import Job
from cvft.plan.plan import Plan
from cvft.predict.placement import spreads_over_gpus
from cvft.predict.predictor import Predictor
from cvft.predict.trained import FoundModel, find_merged, find_model
from cvft.runs import RunFolder
from cvft.weights.finite import refuse_nonfinite
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE, ModelFolder

LOG = logging.getLogger(__name__)

MakeClips = Callable[[Encoder, DecodeSettings], ClipSource]
"""Makes what gives clips, decoded as a model's contract says and encoded for it."""

Variant = Literal["base", "adapter", "merged"]
"""Which of a run's models: they share base weights, so base and adapter are one load."""


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

    def get(
        self,
        variant: Variant,
        *,
        plain: bool = False,
        merged_folder: Path | None = None,
        clips: Mapping[ClipRef, ClipRecord] | None = None,
    ) -> Predictor:
        """Returns a variant's predictor; the one returned before is not to be used any more.

        Args:
            variant: `base`, `adapter` or `merged`.
            plain: Whether every weight takes part as it is stored: no quantized weights, no cached features.
            merged_folder: Where the merged model lies while it is being verified; else in its place in the run.
            clips: What the run has recorded of the clips that will be shown, by their places today; cached features serve for
                these alone. None for those of the run, where they were.

        Raises:
            RunError: when the run has no such model.
            ContractError: when recipe and adapter disagree on the preprocessing.
        """
        job = self.job
        is_merged = variant == "merged"
        stored = read_contract(job.run.adapter)
        check_contract(stored, job.contract, folder=job.run.adapter)
        dtype = job.recipe.merged_dtype if is_merged else job.recipe.model.dtype
        cached = None if plain or dtype != job.recipe.model.dtype else find_features(job, stored=stored, clips=clips)
        loading = Loading(
            dtype=dtype,
            attention=job.recipe.attention,
            quantize="none" if plain else job.recipe.model.quantize,
            embeddings_on_cpu=job.recipe.model.embeddings_on_cpu and not plain,
            with_tower=cached is None or self.keeps_tower,
        )
        if self._loaded is None or not _serves(self._loaded, is_merged=is_merged, loading=loading):
            self.close()
            folder = find_merged(job.run, merged_folder) if is_merged else job.model.folder
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
            clips=cached or find_pixels(job, of_all.encoder, stored=stored, clips=clips) or of_all.clips,
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


def load_model(found: FoundModel) -> Predictor:
    """Loads a model that was found by its folder or name.

    Args:
        found: The model.
    """
    torch.set_num_threads(found.num_threads)
    device = "cuda" if torch.cuda.is_available() and found.device != "cpu" else "cpu"
    embeddings_on_cpu = found.loading.embeddings_on_cpu and device == "cuda"
    return _load(
        found.model,
        found.family,
        found.how,
        loading=replace(found.loading, embeddings_on_cpu=embeddings_on_cpu),
        device=device,
        adapter_folder=found.adapter,
    )


def load_models(found: Mapping[str, FoundModel], *, make_clips: MakeClips) -> dict[str, Predictor]:
    """Loads a model with its adapters as one, so that each can be asked while the weights are in memory once.

    Args:
        found: Name -> model: the base or a model that stands alone, and then adapters of it by names of their own.
        make_clips: Makes what gives clips to each of them.

    Returns:
        Name -> what answers for it. One of them answers at a time.

    Raises:
        ContractError: when they cannot share the weights: another base, or weights that were held otherwise in training.
    """
    (name, first), *adapters = found.items()
    for other, adapter in adapters:
        _check_shares(adapter, first if other == adapters[0][0] else adapters[0][1], name=other)
    if adapters:  # weights are held as the adapters were trained on them
        first = replace(first, loading=adapters[0][1].loading)
    whole = load_model(first)
    whole.close()
    model = whole.model
    for other, adapter in adapters:
        assert adapter.adapter is not None, "`_check_shares`"
        model = _add_adapter(model, adapter.adapter, base=first.model, family=first.family, name=other)
    predictors = {}
    for other, each in found.items():
        encoder = whole.runtime.encoder(each.model, each.how)
        is_beside = bool(adapters) and other != name
        predictors[other] = Predictor(
            model,
            runtime=whole.runtime,
            encoder=encoder,
            clips=make_clips(encoder, each.how.decode),
            uses_adapter=is_beside or not adapters,
            adapter=other if is_beside else None,
        )
    return predictors


def open_trained(path: str | Path, *, base: Path | None = None, quantize: str | None = None) -> Predictor:
    """Finds and loads a model that stands alone; see `find_model`.

    Raises:
        CvftError: when there is none, or when it cannot be used.
    """
    return load_model(find_model(path, base=base, quantize=quantize))


def find_features(
    job: Job, *, stored: Contract, clips: Mapping[ClipRef, ClipRecord] | None = None
) -> CachedClips | None:
    """Returns a run's cached features, or None when they are not all there.

    Args:
        job: The job of a trained run.
        stored: How clips reached the model in training.
        clips: The clips that are asked for; None for all of the run.
    """
    if not job.may_cache_features or not job.run.clip_records.is_file():
        return None
    if job.family.capabilities.features == "proven" and not _trained_from_features(job.run):
        return None  # it was not shown that they stand for pixels
    records = read_records(job.run.clip_records) if clips is None else clips
    key = job.feature_key
    store = FeatureStore(job.features_root, replace(key, decoder_version=stored.decoder_version))
    return None if not records or missing_clips(store, records) else CachedClips(store, records)


def find_pixels(
    job: Job, encoder: Encoder, *, stored: Contract, clips: Mapping[ClipRef, ClipRecord] | None = None
) -> PixelClips | None:
    """Returns the pixels that were kept of a run's clips, or None when they are not all there.

    Args:
        job: The job of a trained run.
        encoder: Turns frames into pixel values.
        stored: How clips reached the model in training.
        clips: The clips that are asked for; None for all of the run.
    """
    if job.recipe.video.cache_features == "off" or not job.run.clip_records.is_file():
        return None
    records = read_records(job.run.clip_records) if clips is None else clips
    store = FeatureStore(job.features_root, replace(job.pixel_key, decoder_version=stored.decoder_version))
    is_known = all(record.view.height_px for record in records.values())  # older runs recorded less
    return PixelClips(store, records, encoder) if records and is_known and not missing_clips(store, records) else None


def _trained_from_features(run: RunFolder) -> bool:
    plan = run.plan_file
    return plan.is_file() and Plan.from_json(plan.read_text(encoding="utf-8")).worker.features is not None


def _serves(loaded: _Loaded, *, is_merged: bool, loading: Loading) -> bool:
    """Tells whether what is loaded will do: the same weights in the same form, and the tower where it is needed."""
    same = replace(loaded.loading, with_tower=True) == replace(loading, with_tower=True)
    has_tower = loaded.loading.with_tower or not loading.with_tower
    return loaded.is_merged == is_merged and same and has_tower


def _check_shares(adapter: FoundModel, other: FoundModel, *, name: str) -> None:
    """Refuses an adapter that cannot lie beside others on one model in memory."""
    problems = []
    if adapter.adapter is None:
        problems.append(Problem(name, "a model that is no adapter", "an adapter of the model that is served"))
    elif adapter.model.fingerprint != other.model.fingerprint:
        problems.append(Problem(name, "an adapter of another base", "one of the model that is served"))
    elif dict(adapter.how.fields) != dict(other.how.fields):
        got, need = (", ".join(f"{key}={value}" for key, value in each.how.fields.items()) for each in (adapter, other))
        problems.append(Problem(name, got, f"{need}, as the others have it", "serve it by itself"))
    elif other.adapter is not None and adapter.loading != other.loading:
        problems.append(Problem(name, "weights held otherwise", "those of the first adapter", "serve it by itself"))
    if problems:
        raise ContractError(f"adapter {adapter.folder}", problems)


def _add_adapter(model: Any, folder: Path, *, base: ModelFolder, family: Family, name: str) -> Any:
    from peft import LoraConfig, PeftModel

    settings = _read_adapter(folder, base, family).peft_settings()
    refuse_nonfinite(folder / ADAPTER_WEIGHTS_FILE, subject=f"adapter {folder}")
    config = LoraConfig(**settings)
    if not isinstance(model, PeftModel):
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, config=config).eval()
    with tempfile.TemporaryDirectory() as aside:  # peft reads the settings of a further adapter from its folder alone
        config.save_pretrained(aside)
        (Path(aside) / ADAPTER_WEIGHTS_FILE).symlink_to((folder / ADAPTER_WEIGHTS_FILE).absolute())
        model.load_adapter(aside, adapter_name=name)
    return model.eval()


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
        refuse_nonfinite(adapter.folder / ADAPTER_WEIGHTS_FILE, subject=f"adapter {adapter.folder}")
        from peft import LoraConfig, PeftModel

        config = LoraConfig(**adapter.peft_settings())
        model = PeftModel.from_pretrained(model, str(adapter_folder), config=config).eval()
    encoder = runtime.encoder(folder, how)
    clips: ClipSource = DecodedClips(encoder, how.decode)
    return Predictor(model, runtime=runtime, encoder=encoder, clips=clips)


def _read_adapter(adapter: Path, base: ModelFolder, family: Family) -> AdapterFile:
    return read_adapter(adapter, parts=family.parts, shapes=_shapes_of(base, family), module_of=family.module_of)


def _shapes_of(folder: ModelFolder, family: Family) -> dict[str, Shape]:
    shards = read_model_shards(folder, family)
    return {entry.name: entry.shape for shard in shards for entry in shard.entries}


def _device_map(folder: ModelFolder, family: Family, *, device: str, loading: Loading) -> Any:
    """Puts a model where it fits: on the device, or on all GPUs when it is too large for one."""
    if device != "cuda":
        return {"": device}
    num_bytes = weight_bytes(
        family.parts,
        loaded_shapes(_shapes_of(folder, family), family.module_of),
        value_bytes=BY_NAME[loading.dtype].num_bytes,
        quantize=loading.quantize,
        with_tower=loading.with_tower,
    )
    free_bytes = [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())]
    if not spreads_over_gpus(num_bytes, free_bytes):
        return {"": device}
    LOG.info("model     spread over %d GPUs: one has no room for %.1f GB", len(free_bytes), num_bytes / 1e9)
    return "balanced"
