"""What a run's adapter answers, and how far rounding alone would move that: the yardstick for its merged model.

adapter + rows -> logits and answers -> the same rows without the adapter, and with moved weights -> `Reference`

Nothing is assumed about how errors add up over the layers of a model: weights are moved at random, as far as rounding moves
them, and what that does to the logits is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cvft.data.rows import Row
from cvft.dtypes import BY_NAME
from cvft.export.tensors import half_ulp
from cvft.families.family import IGNORED_LABEL
from cvft.predict.predictor import Predictor

NUM_MEASURED = 8
"""Rows on which rounding and the adapter's effect are measured: as many as a merge is verified on by default."""

PIECE_ITEMS = 1 << 22
"""Weights that are moved at a time."""

SEED = 0


@dataclass(frozen=True)
class Outputs:
    """What one model said about the rows.

    Args:
        logits: Per row, (number of answer tokens, V): how it scores the row's own answer.
        answers: Per row, the greedy answer.
        answer_ids: Per row, the tokens of the greedy answer as the tokenizer spells it, and its end.
    """

    logits: Sequence[Tensor]
    answers: Sequence[str]
    answer_ids: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Reference:
    """The adapter's outputs, and what they may be compared with.

    Args:
        outputs: What base and adapter said.
        answer_logits: Per row, (number of tokens, V) fp32: how it scores its own greedy answer.
        rounding: Largest difference of a logit after every weight that merging rounds was moved at random by up to one unit in
            its last place: twice as far as rounding moves it.
        effect: Largest difference of a logit without the adapter: what a merge that forgot it would show.
        computing: Largest difference of a logit between the precision that answers are made in and the one that scores.
    """

    outputs: Outputs
    answer_logits: Sequence[Tensor]
    rounding: float
    effect: float
    computing: float


@dataclass(frozen=True)
class Scoring:
    """How two models are made comparable.

    Args:
        coarse: The coarser of their precisions: the weights of both are rounded to it, so that those that no adapter changes
            are equal, and the others one rounding apart.
        dtype: Precision of the computation. Where there is room it is finer, so that the computation adds nothing to see.
    """

    coarse: str
    dtype: str


def collect_outputs(
    predictor: Predictor,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    scoring: Scoring,
    on_progress: Callable[[int], object] | None = None,
) -> Outputs:
    """Collects what a model says about rows, one row at a time: answers as users get them, logits to compare.

    Args:
        predictor: The model, every weight as it is stored.
        rows: The rows.
        max_new_tokens: Longest greedy answer in tokens.
        scoring: How logits are made comparable.
        on_progress: Called with 1 after each row.

    Returns:
        The outputs.
    """
    answers = [each.text for each in predictor.answer(rows, batch_rows=1, max_new_tokens=max_new_tokens)]
    ids = [_label_ids(predictor, row) for row in _answered(rows, answers)]
    with predictor.computing_in(scoring.dtype, rounded_to=scoring.coarse):
        return Outputs(predictor.score(rows, dtype=None, on_progress=on_progress), answers, ids)


def measure_reference(
    predictor: Predictor, without: Predictor, rows: Sequence[Row], outputs: Outputs, *, scoring: Scoring
) -> Reference:
    """Measures what a merged model's outputs are to be compared with. The model in memory is of no use afterwards.

    Args:
        predictor: Base and adapter.
        without: The base alone, of the same model in memory.
        rows: The rows.
        outputs: What base and adapter said about them.
        scoring: How they were scored.
    """
    some, logits = rows[:NUM_MEASURED], outputs.logits[:NUM_MEASURED]
    answered = _answered(rows, outputs.answers)
    with predictor.computing_in(scoring.coarse, rounded_to=scoring.coarse):
        computing = largest_difference(logits, predictor.score(some, dtype=None))
        as_computed = predictor.score(answered, dtype=None)
    with predictor.computing_in(scoring.dtype, rounded_to=scoring.coarse):
        of_answers = predictor.score(answered, dtype=None)
        # what a model says by itself may be noisier than what it was taught
        computing = max(computing, largest_difference(of_answers, as_computed))
        effect = largest_difference(logits, without.score(some, dtype=None))
        move_weights(predictor.model, dtype=scoring.coarse)
        moved = largest_difference(logits, predictor.score(some, dtype=None))
    return Reference(outputs, [each.float() for each in of_answers], moved, effect, computing)


def largest_difference(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Returns the largest difference of any logit of any row; nan when one is."""
    differences = torch.stack([(a.double() - b.double()).abs().max() for a, b in zip(some, others, strict=True)])
    return differences.max().item()


def move_weights(model: Any, *, dtype: str) -> None:
    """Moves the weights that an adapter changes by random shares of a unit in their last place, between one down and one up.

    Args:
        model: A peft model; it is changed.
        dtype: The precision whose last place is meant.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    kind = getattr(torch, BY_NAME[dtype].torch_name)
    generators: dict[torch.device, torch.Generator] = {}
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            weights: list[Tensor] = [module.get_base_layer().weight.data]
        elif isinstance(module, ModulesToSaveWrapper):
            weights = [parameter.data for parameter in module.modules_to_save.parameters()]
        else:
            continue
        for piece in (piece for weight in weights for piece in torch.split(weight.view(-1), PIECE_ITEMS)):
            generator = generators.setdefault(piece.device, torch.Generator(piece.device).manual_seed(SEED))
            numbers = piece.to(torch.promote_types(piece.dtype, torch.float32))
            share = 2 * torch.rand(numbers.shape, generator=generator, device=numbers.device, dtype=numbers.dtype) - 1
            piece.copy_(numbers + 2 * half_ulp(numbers.abs(), dtype=kind) * share)


def _answered(rows: Sequence[Row], answers: Sequence[str]) -> list[Row]:
    return [replace(row, response=answer) for row, answer in zip(rows, answers, strict=True)]


def _label_ids(predictor: Predictor, row: Row) -> list[int]:
    labels = predictor.encode(row, with_response=True)["labels"]
    ids: list[int] = labels[labels != IGNORED_LABEL].tolist()
    return ids
