"""The job: what a command is about, found once at its start and passed on. No torch.

recipe -> model folder, its family, what is in it -> preprocessing -> ranks of this machine -> `Job`

Everything that recipe, family, model folder and machine refuse is reported in one error, before a row is read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from cvft.data.catalog import CLIPS_FOLDER
from cvft.data.features.key import FeatureKey
from cvft.data.fetch.cache import ClipCache
from cvft.data.video.versions import decoder_version
from cvft.dtypes import BY_NAME, UINT8
from cvft.errors import CvftError, Problem, RecipeError
from cvft.families.contract import Contract
from cvft.families.costs import AdapterParameters
from cvft.families.family import Family, KeptFrames, Preprocessing
from cvft.families.parts import Shape, count_adapter, loaded_shapes
from cvft.families.settings import check_settings
from cvft.families.table import find_family, known_checkpoints
from cvft.families.weight_files import read_model_shards
from cvft.files import hash_file
from cvft.plan.environment import check_shell
from cvft.plan.machine import Machine, check_output, check_packages, memory_per_rank, read_machine
from cvft.plan.ranks import Ranks, decide_ranks, node_rank_of
from cvft.plan.url_cache import open_url_cache
from cvft.recipe import LoadedRecipe, Recipe
from cvft.runs import RunFolder
from cvft.weights.folder import TOKENIZER_FILE, ModelFolder, tower_fingerprint
from cvft.weights.hub import Source, UnreachableError, asks_hub, find_absent, locate_model
from cvft.weights.shards import Shard

T = TypeVar("T")


@dataclass(frozen=True)
class OpenModel:
    """A model folder, whose it is and what is in it.

    Args:
        folder: The folder with its config.json.
        source: Where it comes from.
        family: The family that recognises it.
        shards: Its weight files, proved to hold exactly the model; None where weights were not looked at.
    """

    folder: ModelFolder
    source: Source
    family: Family
    shards: Sequence[Shard] | None

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Shape of every tensor by its name in the loaded model, by the family or else by the files' headers; else none."""
        stated = self.family.tensors(self.folder.config)
        if stated is None:
            stated = {entry.name: entry.shape for shard in self._held for entry in shard.entries}
        return loaded_shapes(stated, self.family.module_of)

    @property
    def _held(self) -> Sequence[Shard]:
        """The weight files, of which a plan reads the headers where they are there."""
        if self.shards is not None:
            return self.shards
        is_there = not self.folder.is_absent and any(self.path.glob("*.safetensors"))
        return read_model_shards(self.folder, self.family) if is_there else ()


@dataclass(frozen=True)
class Job:
    """What a command is about.

    Args:
        loaded: The recipe with its sources.
        run: Paths of its run.
        model: The base model.
        preprocessing: How rows reach it, every `auto` decided.
        ranks: Where training computes.
        machine: GPUs and memory of this machine, or of the one that is planned for.
    """

    loaded: LoadedRecipe
    run: RunFolder
    model: OpenModel
    preprocessing: Preprocessing
    ranks: Ranks
    machine: Machine

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.loaded.recipe

    @property
    def family(self) -> Family:
        """The family of the base model."""
        return self.model.family

    @cached_property
    def contract(self) -> Contract:
        """States everything between a row and the model's inputs; fingerprints the weights."""
        how = self.preprocessing
        return Contract(
            template=how.template,
            sampling=how.decode.sampling.strategy,
            max_frames=how.decode.sampling.max_frames,
            decoder=how.decode.decoder,
            decoder_version=self.decoder_version,
            base_fingerprint=self.model.folder.fingerprint,
            tokenizer_sha256=hash_file(self.model.path / TOKENIZER_FILE),
            fields=how.fields,
        )

    @cached_property
    def feature_key(self) -> FeatureKey:
        """States everything but the clip that decides what its cached features are; fingerprints the tower."""
        folder, decode = self.model.folder, self.preprocessing.decode
        return FeatureKey(
            sampling=decode.sampling.strategy,
            max_frames=decode.sampling.max_frames,
            decoder=decode.decoder,
            decoder_version=self.decoder_version,
            tower_sha256=tower_fingerprint(folder.path, self.family.tower_tensors(folder)),
            dtype=BY_NAME[self.recipe.model.dtype].safetensors,
            device=self.ranks.device,
            attention="sdpa",  # towers are loaded with no other
            fields=self.family.feature_fields(self.preprocessing),
        )

    @cached_property
    def pixel_key(self) -> FeatureKey:
        """States everything but the clip that decides what its frames are as they are kept."""
        decode = self.preprocessing.decode
        return FeatureKey(
            sampling=decode.sampling.strategy,
            max_frames=decode.sampling.max_frames,
            decoder=decode.decoder,
            decoder_version=self.decoder_version,
            dtype=UINT8.safetensors,
            fields=self.kept_frames.fields,
        )

    @cached_property
    def kept_frames(self) -> KeptFrames:
        """How frames are kept."""
        return self.family.kept_frames(self.model.folder, self.preprocessing)

    @property
    def decoder_version(self) -> str:
        """Version of the decoder."""
        return decoder_version(self.preprocessing.decode.decoder)

    @property
    def clips_root(self) -> Path:
        """Folder of the catalog of clips: beside the runs, under a name that no run can have."""
        return (self.recipe.output.root / CLIPS_FOLDER).absolute()

    @property
    def url_cache(self) -> ClipCache:
        """Fetches the clips that rows name by URL."""
        return open_url_cache(self.recipe)

    @property
    def features_root(self) -> Path:
        """Folder of the stores of features and pixels: beside the runs, under a name that no run can have."""
        return features_root_of(self.recipe)

    @cached_property
    def features_room(self) -> int:
        """Bytes that stores may take on their disk: what is free there, and what those that are there take already."""
        root = self.features_root
        here = next(folder for folder in (root, *root.parents) if folder.is_dir())
        held = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        return shutil.disk_usage(here).free + held

    @property
    def forbids_features(self) -> str | None:
        """The setting that keeps what clips become from being cached: it says so, or what makes it learns. None: it may be."""
        recipe, lora = self.recipe, self.recipe.lora
        if not self.family.capabilities.features:
            return "model.path"
        if lora.train_vision_tower:
            return "lora.train_vision_tower"
        if lora.train_projector is not False and self.family.parts.caches_projector:
            return "lora.train_projector"
        return "video.cache_features" if recipe.video.cache_features in ("off", "pixels") else None

    @property
    def may_cache_features(self) -> bool:
        """Whether recipe and family leave what clips become to be cached."""
        return self.forbids_features is None

    @property
    def memory_bytes(self) -> int | None:
        """What the device of each rank has; None when it is not known."""
        return memory_per_rank(self.ranks, self.machine)

    @cached_property
    def adapter_parameters(self) -> AdapterParameters:
        """Trainable parameters by part."""
        lora = self.recipe.lora
        return count_adapter(
            self.family.parts,
            self.model.shapes,
            targets=lora.targets,
            rank=lora.rank,
            dora=lora.dora,
            train_vision_tower=lora.train_vision_tower,
            train_projector=lora.train_projector,
        )


def features_root_of(recipe: Recipe) -> Path:
    """Returns the folder of the stores of features and pixels: beside the runs, under a name that no run can have."""
    return (recipe.output.features or recipe.output.root / ".features").absolute()


def open_job(
    loaded: LoadedRecipe,
    *,
    needs_weights: bool = True,
    trains: bool = False,
    machine: Machine | None = None,
    ranks: Ranks | None = None,
) -> Job:
    """Opens a recipe's job.

    Args:
        loaded: The recipe; its `name` must be set.
        needs_weights: Whether the weights have to be there; without them, a folder serves to plan.
        trains: Whether this machine is going to train, and so needs what training needs.
        machine: A machine to plan for; without it, this one.
        ranks: Ranks to plan for; without them, those that the machine's GPUs allow.

    Returns:
        The job.

    Raises:
        CvftError: with everything that recipe, family, model folder and machine refuse.
    """
    recipe, run = loaded.recipe, RunFolder(loaded.recipe.run_dir.absolute())
    machine = machine or read_machine()
    refused = _Refusals()
    decided = ranks or refused.collect(lambda: decide_ranks(recipe, num_gpus_present=len(machine.gpus)))
    if needs_weights:  # what asks for them is going to write
        refused.collect(lambda: check_output(recipe, run, features_root=features_root_of(recipe)))
    if trains:
        _check_machine(recipe, decided, refused)
    # a download is too dear to be refused afterwards
    model = how = None
    if not (refused and asks_hub(recipe.model.path, known_checkpoints())):
        model = refused.collect(lambda: open_model(recipe, needs_weights=needs_weights))
    if model is not None:
        family, folder = model.family, model.folder
        refused.collect(lambda: check_settings(recipe, family))
        refused.collect(lambda: family.check_recipe(recipe, folder))
        how = refused.collect(lambda: family.preprocessing(recipe, folder))
    refused.raise_all(subject=f"recipe {recipe.name} on this machine")
    assert model is not None, "raised otherwise"
    assert how is not None, "raised otherwise"
    assert decided is not None, "raised otherwise"
    return Job(loaded=loaded, run=run, model=model, preprocessing=how, ranks=decided, machine=machine)


def _check_machine(recipe: Recipe, ranks: Ranks | None, refused: _Refusals) -> None:
    """Asks what training needs of this machine, beyond the model."""
    refused.collect(lambda: node_rank_of(recipe))
    refused.collect(lambda: check_packages(recipe))
    refused.collect(lambda: check_shell(os.environ))
    if ranks is not None:
        refused.collect(lambda: check_batch(recipe, ranks))


def open_model(recipe: Recipe, *, needs_weights: bool = True) -> OpenModel:
    """Finds a recipe's model folder and its family, and proves its weights.

    Args:
        recipe: The recipe.
        needs_weights: Whether the weights have to be there. Without them, what is known of a published checkpoint is enough where
            its hub does not answer.

    Raises:
        ModelError: when there is no such folder, when no family recognises it, or when its weights are not whole.
    """
    model = recipe.model
    known = known_checkpoints()
    try:
        source = locate_model(model.path, revision=model.revision, known=known, needs_weights=needs_weights)
        folder = ModelFolder.of(source.folder)
    except UnreachableError:
        absent = None if needs_weights else find_absent(model.path, known)
        if absent is None:
            raise
        source, checkpoint = absent
        folder = ModelFolder(source.folder, checkpoint.config, is_absent=True)
    family = find_family(folder)
    shards = read_model_shards(folder, family) if needs_weights else None
    return OpenModel(folder, source, family, shards)


def describe_source(source: Source) -> str:
    """Writes where a model comes from."""
    if source.hub is None:
        return f"model     {source.folder}"
    return f"model     {source.model_id} at {source.commit} ({source.hub}), in {source.folder}"


def check_batch(recipe: Recipe, ranks: Ranks) -> None:
    """Refuses a global batch that cannot be shared out, and a setting that needs a GPU."""
    recipe.accumulation_steps(num_ranks=ranks.num)
    if recipe.model.embeddings_on_cpu and ranks.device == "cpu":
        got = "`true` on a machine without a GPU"
        problem = Problem("model.embeddings_on_cpu", got, "no such setting", "remove it")
        raise RecipeError("this machine", [problem])


class _Refusals:
    """Collects what several checks refuse, so that a user hears all of it at once."""

    def __init__(self) -> None:
        self._errors: list[CvftError] = []

    def __bool__(self) -> bool:
        return bool(self._errors)

    def collect(self, check: Callable[[], T]) -> T | None:
        """Runs one check and returns what it returns, or None when it refuses."""
        try:
            return check()
        except CvftError as error:
            self._errors.append(error)
            return None

    def raise_all(self, *, subject: str) -> None:
        """Raises the one error there is, or all of them as one."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise CvftError(subject, [problem for error in self._errors for problem in error.problems])
