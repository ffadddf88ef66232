"""The whole job, step by step: train -> export -> evaluate -> report, each skipped when its result is there.

Only this file and the command line know all rooms. A step writes aside and renames, so whatever lies under a final name
is whole, and running the same recipe again continues where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cvft.errors import CvftError
from cvft.evaluate.run import Evaluation, evaluate_run
from cvft.export.run import export_run, will_compare_logits
from cvft.manifest import read_manifest
from cvft.plan.job import open_job
from cvft.recipe import LoadedRecipe
from cvft.report.run import write_run_report
from cvft.report.terminal import metrics_table
from cvft.runs import read_notes
from cvft.train.run import is_trained, train

if TYPE_CHECKING:
    from cvft.predict.open import Variant

LOG = logging.getLogger(__name__)

NOT_THE_FIRST = "this machine's ranks are done: the first machine merges and evaluates"


def run_all(loaded: LoadedRecipe) -> str:
    """Does the whole job.

    Args:
        loaded: The recipe.

    Returns:
        A summary for the terminal.

    Raises:
        CvftError: when any step cannot be done; what was finished before stays. A refused merge is raised last: the adapter is
            evaluated all the same, and the report says why nothing was merged.
    """
    job = open_job(loaded, trains=not is_trained(loaded))
    folder = train(job)
    if folder is None:
        return NOT_THE_FIRST
    from cvft.predict.open import Predictors

    recipe, has_val = job.recipe, folder.val_rows.is_file()
    predictors = Predictors(job, keeps_tower=will_compare_logits(job))
    made = [f"adapter   {folder.adapter}"]
    evaluations: dict[str, Evaluation] = {}
    tuned: Variant = "merged" if recipe.export.merge else "adapter"
    refused: CvftError | None = None
    blind: Evaluation | None = None
    probes: dict[str, dict[str, Evaluation]] = {path.stem: {} for path in recipe.eval.probes}

    def answer_probes(variant: Variant) -> None:
        for path in recipe.eval.probes:
            probes[path.stem][variant] = evaluate_run(
                job, variant=variant, predictors=predictors, data=path, num_ranks=None
            )

    try:
        # the base answers first: it is loaded with the adapter, which the export needs next
        if recipe.eval.compare_base:
            if has_val:
                evaluations["base"] = evaluate_run(job, variant="base", predictors=predictors, num_ranks=None)
            answer_probes("base")
        if recipe.export.merge:
            try:
                made += export_run(job, predictors=predictors).splitlines()
            except CvftError as error:
                refused, tuned = error, "adapter"
                LOG.error("merged    refused, as is said below; the adapter is evaluated in its place")
        answer_probes(tuned)
        if has_val:
            evaluations[tuned] = evaluate_run(job, variant=tuned, predictors=predictors, num_ranks=None)
            if recipe.eval.compare_blind and read_manifest(folder).clips:
                blind = evaluate_run(job, variant=tuned, predictors=predictors, is_blind=True, num_ranks=None)
    finally:
        predictors.close()
    if has_val or probes:
        report = write_run_report(job, evaluations=evaluations, blind=blind, probes=probes, refused=refused)
        tables = [metrics_table(_metrics(evaluations))] if has_val else []
        tables += [metrics_table(_metrics(answered), title=f"probe {name}") for name, answered in probes.items()]
        made = [*tables, *report.findings, *made, f"report    {report.path}"]
    if not has_val:
        made.append("no val rows: nothing was held out to evaluate")
    made += [f"note      {note}" for note in read_notes(folder)]
    if refused is not None:
        LOG.info("\n".join(made))
        raise refused
    return "\n".join(made)


def _metrics(evaluations: Mapping[str, Evaluation]) -> dict[str, dict[str, Any]]:
    return {name: evaluation.metrics for name, evaluation in evaluations.items()}
