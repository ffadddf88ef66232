"""Rows trained both ways on a loaded model: apart and as one sequence that holds the clip once; from pixels and from features.

two encoded rows -> loss of each and a gradient, apart | together | together and seeing each other -> `GroupProof`
one encoded row -> loss and gradient, from pixels | from cached features | from features that are all 0 -> `FeatureProof`

The gradient is that of the first decoder block's norm: it passes through every layer, and takes next to no memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cvft.families.family import IGNORED_LABEL
from cvft.families.proof import FeatureProof, GroupProof, judge, judge_features
from cvft.families.runtime import Encoder, Runtime

NORM = "{layers}.0.input_layernorm.weight"
"""The parameter whose gradient is compared, by where the decoder's blocks lie."""


def prove_groups(
    model: Any,
    runtime: Runtime,
    encoder: Encoder,
    rows: Sequence[Mapping[str, Tensor]],
    *,
    layers: str,
    dtype: str,
    device: str,
) -> GroupProof:
    """Trains two rows both ways and compares.

    Args:
        model: The model, loaded with its tower; its parameters no longer ask for gradients afterwards.
        runtime: Torch half of its family.
        encoder: What encoded the rows.
        rows: Two rows about one clip, with their answers.
        layers: Where the decoder's blocks lie.
        dtype: Precision of the weights.
        device: Where to compute.

    Returns:
        What was found; never an error of the model's, which is a finding too.
    """
    _prepare(model, layers=layers)
    counts = [int((row["labels"][1:] != IGNORED_LABEL).sum()) for row in rows]
    try:
        losses, gradient = _measure(model, runtime, encoder, [[row] for row in rows], layers=layers, device=device)
        joined = encoder.join(rows)
        together = _measure_joined(model, runtime, encoder, joined, rows, layers=layers, device=device)
        seeing = {**joined, "segment_ids": torch.zeros_like(joined["segment_ids"])}
        unseparated = _measure_joined(model, runtime, encoder, seeing, rows, layers=layers, device=device)
    except Exception as error:  # whatever a model that nobody here knows does with groups, its rows still train apart
        return GroupProof(False, f"one sequence of two rows fails ({type(error).__name__}: {str(error)[:200]})")

    def compare(found: tuple[list[float], Tensor]) -> tuple[float, float]:
        differences = [abs(a - b) / count for a, b, count in zip(found[0], losses, counts, strict=True)]
        return max(differences), float((found[1] - gradient).norm() / gradient.norm())

    (nll, share), (seeing_nll, seeing_share) = compare(together), compare(unseparated)
    return judge(nll=nll, gradient=share, seeing_nll=seeing_nll, seeing_gradient=seeing_share, dtype=dtype)


def prove_features(
    model: Any,
    runtime: Runtime,
    encoder: Encoder,
    live: Mapping[str, Tensor],
    cached: Mapping[str, Tensor],
    *,
    layers: str,
    device: str,
) -> FeatureProof:
    """Trains a row both ways and compares.

    Args:
        model: The model, loaded with its tower; its parameters no longer ask for gradients afterwards.
        runtime: Torch half of its family.
        encoder: What encoded the row.
        live: A row with its answer, and its clip's pixels.
        cached: The same with its clip's features, `vision_features`.
        layers: Where the decoder's blocks lie.
        device: Where to compute.

    Returns:
        What was found; never an error of the model's, which is a finding too.
    """
    _prepare(model, layers=layers)
    blind = {**cached, "vision_features": torch.zeros_like(cached["vision_features"])}
    try:
        found = [
            _measure(model, runtime, encoder, [[row]], layers=layers, device=device) for row in (live, cached, blind)
        ]
    except Exception as error:  # whatever a model that nobody here knows does with features, it can do without
        return FeatureProof(False, f"a row with cached features fails ({type(error).__name__}: {str(error)[:200]})")
    ((loss,), gradient), ((cached_loss,), cached_gradient), ((blind_loss,), _) = found
    return judge_features(
        loss=abs(cached_loss - loss),
        gradient=float((cached_gradient - gradient).abs().max()),
        blind_loss=abs(blind_loss - loss),
    )


def _prepare(model: Any, *, layers: str) -> None:
    """Makes one parameter ask for a gradient, and the decoder recompute, as where it trains."""
    model.requires_grad_(False)
    model.get_parameter(NORM.format(layers=layers)).requires_grad_(True)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.get_decoder().train()  # else nothing is recomputed, and long rows need more memory than their training does


def _measure(
    model: Any,
    runtime: Runtime,
    encoder: Encoder,
    batches: Sequence[Sequence[Mapping[str, Tensor]]],
    *,
    layers: str,
    device: str,
) -> tuple[list[float], Tensor]:
    """Returns the loss of each batch, and the gradient of their sum."""
    norm = model.get_parameter(NORM.format(layers=layers))
    norm.grad = None
    losses = []
    for sequences in batches:
        batch = encoder.collate(sequences)
        inputs = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        loss = runtime.loss(model, inputs, num_items=1).loss
        loss.backward()
        losses.append(loss.item())
    return losses, norm.grad.double()


def _measure_joined(
    model: Any,
    runtime: Runtime,
    encoder: Encoder,
    joined: Mapping[str, Tensor],
    rows: Sequence[Mapping[str, Tensor]],
    *,
    layers: str,
    device: str,
) -> tuple[list[float], Tensor]:
    """Returns the loss of each row of a sequence, and the gradient of their sum."""
    start = len(joined["input_ids"]) - len(rows[-1]["input_ids"])  # the last row stands at the end, without its prefix
    first_ends = start + _shared(joined, rows)
    labels = joined["labels"]
    only_first, only_last = labels.clone(), labels.clone()
    only_first[first_ends:] = IGNORED_LABEL
    only_last[:first_ends] = IGNORED_LABEL
    batches = [[{**joined, "labels": each}] for each in (only_first, only_last)]
    return _measure(model, runtime, encoder, batches, layers=layers, device=device)


def _shared(joined: Mapping[str, Tensor], rows: Sequence[Mapping[str, Tensor]]) -> int:
    """Returns how many tokens of the prefix the rows share in a joined sequence."""
    return sum(len(row["input_ids"]) for row in rows) - len(joined["input_ids"])
