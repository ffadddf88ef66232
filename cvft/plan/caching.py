"""What is kept of clips on disk, decided from the job and its rows: features, pixels, or nothing.

`Job` + `RowFacts` -> `CacheDecision`. Pure, like the plan that is made of it.

Features spare the tower, pixels the decoder alone: features come first, where they may be kept and fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from cvft.data.features.key import Kind
from cvft.data.groups import encodes_a_clip_again
from cvft.data.packing import BatchLimits
from cvft.dtypes import BY_NAME
from cvft.errors import Problem, RecipeError, quote
from cvft.families.proof import FeatureProof
from cvft.plan.batching import RowFacts, clips_of
from cvft.plan.job import Job

DISK_SHARE = 0.5
"""Share of what a disk has room for that features or pixels may take where the recipe does not say: others use it too."""


@dataclass(frozen=True)
class CacheDecision:
    """What is kept of clips.

    Args:
        kind: `features`, `pixels`, or None for nothing.
        why: Why, as part of a sentence, with what each kind takes or would.
        feature_bytes: What features of all clips take, or would; 0 where no clip could have any.
        pixel_bytes: The same of pixels.
    """

    kind: Kind | None
    why: str
    feature_bytes: int = 0
    pixel_bytes: int = 0

    @property
    def num_bytes(self) -> int:
        """What is kept of all clips."""
        return 0 if self.kind is None else self.feature_bytes if self.kind == "features" else self.pixel_bytes


def decide_cache(
    job: Job, *, rows: RowFacts, limits: BatchLimits, num_epochs: float, proof: FeatureProof | None = None
) -> CacheDecision:
    """Decides what is kept of each clip.

    Where the recipe leaves it open: features when the tower is frozen, some clip would be encoded twice in training, and those of
    all clips fit: into `video.cache_limit_gb`, or else into a share of the disk. Pixels when features may not be or do not fit,
    and pixels do.

    Args:
        job: The job.
        rows: Facts of the rows that will train.
        limits: Which rows go together.
        num_epochs: How often the rows come.
        proof: What was found on this model, for a family whose features have to be proven; without it, none are cached.

    Raises:
        RecipeError: when what is asked for takes more than the recipe allows, or when the proof does not hold.
    """
    asked = job.recipe.video.cache_features
    if asked == "off":
        return CacheDecision(None, "`video.cache_features` says so")
    sizes = count_bytes(job, rows)
    if asked != "auto":
        kind: Kind = "features" if asked == "on" else "pixels"
        _check_limit(job, kind, sizes[kind], num_clips=len(clips_of(rows)))
        if kind == "features" and (unproven := _find_unproven(job, proof)):
            if proof is not None:
                problem = Problem("video.cache_features", "`on`", f"`auto`, `pixels` or `off`: {proof.finding}")
                raise RecipeError(f"recipe {job.recipe.name}", [problem])
            return _decision(None, unproven, sizes)
        return _decision(kind, f"`video.cache_features` is {asked}: they take {_size(sizes[kind])}", sizes)
    comes_again = num_epochs > 1 or any(share.weight > 1 for share in rows.mix)
    if not any(shape.clips for shape in rows.train):
        return _decision(None, "no train row has a clip", sizes)
    if not comes_again and not encodes_a_clip_again(rows.train, max_rows_per_group=limits.max_rows_per_group):
        return _decision(None, "each clip is encoded once in any case", sizes)
    return choose_kind(job, sizes, proof=proof)


def choose_kind(job: Job, sizes: dict[Kind, int], *, proof: FeatureProof | None = None) -> CacheDecision:
    """Decides between features, pixels and nothing by what may be kept and fits, where clips are needed more than once.

    Args:
        job: The job.
        sizes: What each kind takes: `count_bytes`.
        proof: See `decide_cache`.
    """
    most, room = _find_room(job)
    size, forbids, unproven = _size(sizes["features"]), job.forbids_features, _find_unproven(job, proof)
    if forbids is not None:
        why = f"no features: `{forbids}` says so, or changes them"
    elif unproven:
        why = f"no features: {unproven}"
    elif sizes["features"] <= most:
        return _decision("features", f"they take {size}, of {room}", sizes)
    else:
        why, room = f"features would take {size}, more than {room}", "that"
    size = _size(sizes["pixels"])
    if sizes["pixels"] <= most:
        return _decision("pixels", f"{why}; pixels take {size}, of {room}", sizes)
    return _decision(None, f"{why}; pixels would take {size}, more than {room}", sizes)


def _find_room(job: Job) -> tuple[float, str]:
    """Returns the most bytes that may be kept, and who says so."""
    allowed_gb = job.recipe.video.cache_limit_gb
    if allowed_gb is not None:
        return allowed_gb * 1e9, f"the {allowed_gb:g} GB of `video.cache_limit_gb`"
    most = int(DISK_SHARE * job.features_room)
    return most, f"half of what the disk of {job.features_root} has room for, {most / 1e9:.3g} GB"


def count_bytes(job: Job, rows: RowFacts) -> dict[Kind, int]:
    """Counts what each kind takes of all clips; features only where they may be cached."""
    dtype_bytes, features = BY_NAME[job.recipe.model.dtype].num_bytes, 0
    if job.may_cache_features:
        features = job.family.feature_bytes(job.model.folder.config, clips_of(rows), dtype_bytes=dtype_bytes)
    return {"features": features, "pixels": rows.pixel_bytes}


def _find_unproven(job: Job, proof: FeatureProof | None) -> str:
    """Says why features are not cached where that has to be proven, or returns nothing."""
    if job.family.capabilities.features != "proven" or (proof is not None and proof.holds):
        return ""
    return "nothing is proven of this model yet" if proof is None else "the proof does not hold"


def _check_limit(job: Job, kind: Kind, num_bytes: int, *, num_clips: int) -> None:
    allowed_gb = job.recipe.video.cache_limit_gb
    if allowed_gb is not None and num_bytes > allowed_gb * 1e9:
        need = f"at least {_size(num_bytes)}, which the {kind} of {num_clips} clips take"
        hint = "raise it, show fewer frames or tokens of a clip, or let `video.cache_features: auto` decide"
        problem = Problem("video.cache_limit_gb", quote(allowed_gb), need, hint)
        raise RecipeError(f"recipe {job.recipe.name}", [problem])


def _decision(kind: Kind | None, why: str, sizes: dict[Kind, int]) -> CacheDecision:
    if kind == "features" and sizes["pixels"]:
        why = f"{why}; pixels would take {_size(sizes['pixels'])}"
    return CacheDecision(kind, why, sizes["features"], sizes["pixels"])


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
