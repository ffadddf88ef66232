"""`cvft export`: a run's adapter merged into its base, verified where it lies aside, and given its name."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from cvft.data.rows import Row
from cvft.dtypes import BY_NAME
from cvft.errors import Problem, RunError, quote
from cvft.export import VERIFICATION_FILE
from cvft.families.parts import count_parameters
from cvft.files import check_output, publish_folder, recover_folder, write_whole
from cvft.json_files import JsonError, read_object
from cvft.plan.job import Job
from cvft.plan.recorded import read_recorded
from cvft.runs import RunFolder
from cvft.weights.shards import weight_files

if TYPE_CHECKING:
    from cvft.export.logits import Outputs, Scoring
    from cvft.predict.open import Predictors
    from cvft.predict.predictor import Predictor


def export_run(job: Job, *, predictors: Predictors | None = None) -> str:
    """Merges a run's adapter into its base and verifies the result on real rows.

    Args:
        job: The job of a trained run.
        predictors: The run's models, where others ask them too.

    Returns:
        The merged folder and what was verified, for the terminal.

    Raises:
        RunError: when there is no adapter yet.
        VerifyError: when the merged model does not answer like the adapter; nothing is left under the final name.
    """
    import cvft.export.merge as merging
    from cvft.export.tensors import compare_tensors

    folder, dtype = job.run, job.recipe.merged_dtype
    check_output(
        folder.merged / VERIFICATION_FILE, subject=f"run folder {folder.path}", where="merged/", may_exist=True
    )
    rows, no_rows = _verification_rows(job)  # before anything is merged: a clip may be another one by now
    recover_folder(folder.merged)
    verification_file = folder.merged / VERIFICATION_FILE
    if verification_file.is_file():
        verification = read_verification(folder.merged)
        if verification["dtype"] != dtype:
            hint = f"move {folder.merged} to another name to merge again"
            problem = Problem(f"{folder.merged.name}/", f"weights in {verification['dtype']}", dtype, hint)
            raise RunError(f"run folder {job.recipe.run_dir}", [problem])
        return _verified_line(folder, verification)
    aside = folder.path / "merged.partial"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        num_bytes = sum(path.stat().st_size for path in weight_files(job.model.path))
        with tqdm(
            total=num_bytes, desc="merging", unit="B", unit_scale=True, file=sys.stderr, dynamic_ncols=True
        ) as bar:
            merging.merge_adapter(
                job.model,
                adapter_folder=folder.adapter,
                output=aside,
                dtype=dtype,
                keep_remote_code=job.recipe.export.keep_remote_code,
                wanted=job.contract,
                on_progress=bar.update,
            )
        tensors = compare_tensors(job.model, adapter_folder=folder.adapter, merged_folder=aside, dtype=dtype)
        logits = _compare_logits(job, aside, rows, note=no_rows, predictors=predictors)
        verification = {"dtype": dtype, "tensors": tensors.to_dict(), **logits}
        write_whole(aside / VERIFICATION_FILE, json.dumps(verification, indent=2) + "\n")
        publish_folder(aside, folder.merged)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return _verified_line(folder, verification)


def scoring_of(job: Job, *, loaded_bytes: int = 0) -> Scoring | str:
    """Decides how adapter and merged model are compared by their logits here, or says why they cannot be.

    Args:
        job: The job.
        loaded_bytes: What a model takes that is in memory already, and makes room.
    """
    from cvft.export.verify import choose_scoring

    if not job.family.capabilities.label_logits:
        return f"logits were not compared: {job.family.title} gives none"
    return choose_scoring(
        (job.recipe.model.dtype, job.recipe.merged_dtype),
        num_values=count_parameters(job.family.parts, job.model.shapes).total,
        device=job.ranks.device,
        loaded_bytes=loaded_bytes,
    )


def will_compare_logits(job: Job) -> bool:
    """Tells whether the export of a job is going to load its models to compare them."""
    is_done = (job.run.merged / VERIFICATION_FILE).is_file()
    return job.recipe.export.merge and not is_done and not isinstance(scoring_of(job), str)


def _compare_logits(
    job: Job, merged: Path, rows: Sequence[Row], *, note: str, predictors: Predictors | None
) -> dict[str, Any]:
    """Lets adapter and merged model answer the same rows, where the device has room for them."""
    from cvft.export.logits import collect_outputs, measure_reference
    from cvft.export.verify import compare
    from cvft.predict.open import Predictors

    models = predictors or Predictors(job)
    scoring = note or scoring_of(job, loaded_bytes=models.num_bytes)
    if isinstance(scoring, str):
        return {"logits": None, "note": scoring}
    max_new_tokens = job.recipe.eval.max_new_tokens
    with tqdm(total=2 * len(rows), desc="verifying", unit="row", file=sys.stderr, dynamic_ncols=True) as bar:

        def collect(predictor: Predictor) -> Outputs:
            return collect_outputs(
                predictor, rows, max_new_tokens=max_new_tokens, scoring=scoring, on_progress=bar.update
            )

        # a merged tower could be damaged: every model has to encode frames itself
        adapter = models.get("adapter", plain=True)
        outputs = collect(adapter)
        try:
            reference = measure_reference(adapter, models.get("base", plain=True), rows, outputs, scoring=scoring)
        finally:
            models.close()  # measuring moves its weights
        merged_outputs = collect(models.get("merged", plain=True, merged_folder=merged))
    if predictors is None:
        models.close()
    which = "val" if job.run.val_rows.is_file() else "train"
    locations = [f"{which} row {index + 1}" for index in range(len(rows))]
    return {"logits": compare(reference, merged_outputs, locations=locations, scoring=scoring).to_dict(), "note": ""}


def _verification_rows(job: Job) -> tuple[list[Row], str]:
    """Returns val rows, or train rows when none were held out, whose clips are there; and why there are none."""
    which: Literal["train", "val"] = "val" if job.run.val_rows.is_file() else "train"
    recorded = read_recorded(job.run, which, recipe=job.recipe)
    rows = list(recorded.rows[: job.recipe.export.verify_rows])
    if rows:
        return rows, ""
    num_lost = len(recorded.lost)
    return [], f"logits were not compared: none of the {num_lost} clips of the {which} rows is there any more"


def _verified_line(folder: RunFolder, verification: Mapping[str, Any]) -> str:
    return f"merged    {folder.merged}\nverified  {describe_verification(verification)}"


def read_verification(merged: Path) -> dict[str, Any]:
    """Reads what a merged folder was held to.

    Raises:
        RunError: when the file is not what an export wrote.
    """
    path = merged / VERIFICATION_FILE
    try:
        values = read_object(path)
        describe_verification(values)
        if values["dtype"] not in BY_NAME:
            raise JsonError(f"dtype: {quote(values['dtype'])}")
    except JsonError as error:
        got = str(error)
    except (KeyError, TypeError, ValueError) as error:
        got = f"other values ({type(error).__name__}: {error})"
    else:
        return values
    hint = f"move {quote(merged)} to another name to merge again"
    raise RunError(f"merged model {merged}", [Problem(path.name, got, "what an export wrote", hint)])


def describe_verification(verification: Mapping[str, Any]) -> str:
    """Says what a merge was held to, in one line.

    Args:
        verification: Contents of `VERIFICATION_FILE`.
    """
    tensors, logits = verification["tensors"], verification["logits"]
    text = f"all {tensors['num_compared']} tensors are base + adapter ({tensors['num_changed']} changed)"
    if logits is None:
        return f"{text}; {verification['note']}"
    if "can_tell" not in logits:
        return f"{tensors['num_compared']} tensors were sampled by an earlier version of cvft, which did not check them all"
    error, limit, effect = (
        f"{logits[key]:.2g}" for key in ("max_logit_error", "max_logit_error_allowed", "adapter_effect")
    )
    answers = f"{logits['num_equal_answers']} of {logits['num_rows']} answers identical"
    if logits["differences"]:
        margin = max(abs(found["margin"]) for found in logits["differences"])
        answers += f", the others part at tokens within {margin:.2g} of each other"
    if not logits["can_tell"]:
        return (
            f"by its tensors alone: {text}. Its logits tell nothing: they differ by {error}, rounding explains {limit}, and "
            f"the adapter changes them by {effect}; {answers}"
        )
    return f"{text}; logits within {error} of the adapter's (limit {limit}, its effect {effect}); {answers}"
