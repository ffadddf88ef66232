"""The whole job, step by step: train -> merge -> verify -> evaluate -> report, each skipped when its result is there.

Only this file and the command line know all rooms. A step writes aside and renames, so whatever lies under a final name
is whole, and running the same recipe again continues where it stopped.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from cvft.clips.provide import find_features
from cvft.data.rows import Row, read_rows
from cvft.errors import Problem, RunError
from cvft.evaluate.metrics import compute_metrics, is_exact_match
from cvft.export import VERIFICATION_FILE
from cvft.families.contract import CONTRACT_FILE, Contract, check_contract, read_contract
from cvft.files import write_whole
from cvft.plan.batching import decide_feeding
from cvft.plan.machine import count_gpus
from cvft.plan.prepare import find_model, inspect_model, make_contract
from cvft.plan.ranks import decide_ranks
from cvft.recipe import LoadedRecipe, Recipe
from cvft.runs import RunFolder, claim_run_folder
from cvft.train.run import train
from cvft.weights.shards import weight_files

if TYPE_CHECKING:
    from cvft.predict.predictor import Answerer

Which = Literal["base", "adapter", "merged"]

NOT_THE_FIRST = "this machine's ranks are done: the first machine merges and evaluates"

NUM_REPORT_EXAMPLES = 24
NUM_REPORT_FRAMES = 8
THUMBNAIL_PX = 112


def run_all(loaded: LoadedRecipe) -> str:
    """Does the whole job.

    Args:
        loaded: The recipe.

    Returns:
        A summary for the terminal.

    Raises:
        CvftError: when any step cannot be done; what was finished before stays.
    """
    folder = train(loaded)
    if folder is None:
        return NOT_THE_FIRST
    recipe = loaded.recipe
    tuned: Which = "adapter"
    made = [f"adapter   {folder.adapter}"]
    if recipe.export.merge:
        made += export_run(loaded).splitlines()
        tuned = "merged"
    if not folder.val_rows.is_file():
        return "\n".join([*made, "no val rows: nothing was evaluated"])
    names: list[Which] = ["base", tuned] if recipe.eval.compare_base else [tuned]
    metrics: dict[str, dict[str, Any]] = {name: evaluate_run(loaded, which=name) for name in names}
    report = write_run_report(loaded, metrics=metrics)
    return "\n".join([_table(metrics), *made, f"report    {report}"])


def export_run(loaded: LoadedRecipe) -> str:
    """Merges a run's adapter into its base and verifies the result on real rows.

    Args:
        loaded: The recipe of a trained run.

    Returns:
        The merged folder and what was verified, for the terminal.

    Raises:
        RunError: when there is no adapter yet.
        VerifyError: when the merged model does not answer like the adapter; nothing is left under the final name.
    """
    from cvft.export.merge import merge_adapter
    from cvft.export.tensors import compare_tensors

    recipe, folder = loaded.recipe, _trained(loaded)
    dtype = _merged_dtype(recipe)
    if (folder.merged / VERIFICATION_FILE).is_file():
        verification = json.loads((folder.merged / VERIFICATION_FILE).read_text(encoding="utf-8"))
        if verification["dtype"] != dtype:
            problem = Problem(
                "merged/", f"weights in {verification['dtype']}", dtype, "remove that folder to merge again"
            )
            raise RunError(f"run folder {loaded.recipe.run_dir}", [problem])
        return _verified_line(folder, verification)
    base, contract = _base_and_contract(recipe)
    aside = folder.path / "merged.partial"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        num_bytes = sum(path.stat().st_size for path in weight_files(base))
        with tqdm(
            total=num_bytes, desc="merging", unit="B", unit_scale=True, file=sys.stderr, dynamic_ncols=True
        ) as bar:
            merge_adapter(
                base,
                adapter_folder=folder.adapter,
                output=aside,
                dtype=dtype,
                keep_remote_code=recipe.export.keep_remote_code,
                wanted=contract,
                on_progress=bar.update,
            )
        tensors = compare_tensors(base, adapter_folder=folder.adapter, merged_folder=aside)
        verification = {"dtype": dtype, "tensors": tensors.to_dict(), **_compare_logits(recipe, folder, aside)}
        write_whole(aside / VERIFICATION_FILE, json.dumps(verification, indent=2) + "\n")
        shutil.rmtree(folder.merged, ignore_errors=True)
        aside.rename(folder.merged)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return _verified_line(folder, verification)


def evaluate_run(loaded: LoadedRecipe, *, which: Which) -> dict[str, Any]:
    """Answers a run's val rows with one of its models, keeps every prediction and scores them.

    Args:
        loaded: The recipe.
        which: `base`, `adapter` or `merged`.

    Returns:
        The metrics, overall and per family.

    Raises:
        RunError: when the run has no val rows, or the model asked for is not there.
        ContractError: when recipe and adapter disagree on the preprocessing.
    """
    recipe, folder = loaded.recipe, _trained(loaded)
    rows = _val_rows(folder)[: recipe.eval.num_rows]
    settings = {
        "num_rows": len(rows),
        "max_new_tokens": recipe.eval.max_new_tokens,
        "model": which,
        "quantize": recipe.model.quantize,
    }
    metrics_file = folder.eval / f"metrics_{which}.json"
    if metrics_file.is_file():
        stored = json.loads(metrics_file.read_text(encoding="utf-8"))
        if stored["settings"] == settings:
            return dict(stored["metrics"])
    answerer = _load(recipe, which, folder)
    with tqdm(total=len(rows), desc=f"answering ({which})", unit="row", file=sys.stderr, dynamic_ncols=True) as bar:
        answers = answerer.answer(
            rows,
            batch_rows=recipe.eval.batch_rows,
            max_new_tokens=recipe.eval.max_new_tokens,
            on_progress=bar.update,
        )
    answerer.close()
    expected = [row.response for row in rows]
    metrics = compute_metrics(answers, expected=expected, families=[row.extra.get("family") for row in rows])
    lines = [
        {**row.to_json(), "prediction": answer, "is_exact_match": is_exact_match(answer, expected=row.response)}
        for row, answer in zip(rows, answers, strict=True)
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(folder.eval / f"predictions_{which}.jsonl", text)
    write_whole(metrics_file, json.dumps({"settings": settings, "metrics": metrics}, indent=2) + "\n")
    return metrics


def write_run_report(loaded: LoadedRecipe, *, metrics: Mapping[str, Mapping[str, Any]]) -> Path:
    """Writes the curves and the page of a run.

    Args:
        loaded: The recipe.
        metrics: Metrics per model, the tuned one last.

    Returns:
        The page.
    """
    from cvft.report.curves import plot_curves
    from cvft.report.html import Example, write_report

    recipe, folder = loaded.recipe, RunFolder(loaded.recipe.run_dir.absolute())
    curves = plot_curves(folder.train / "logging.jsonl", folder=folder.path / "curves")
    answers = {name: _read_predictions(folder, name) for name in metrics}
    rows = _val_rows(folder)[: recipe.eval.num_rows]
    chosen = _spread(len(rows), NUM_REPORT_EXAMPLES)
    thumbnails = _Thumbnails(recipe, folder)
    examples = []
    for index in chosen:
        row = rows[index]
        frames, seconds = thumbnails.of(row)
        examples.append(
            Example(
                video=row.video.name if row.video else "",
                question=row.query,
                expected=row.response,
                answers={name: predictions[index] for name, predictions in answers.items()},
                frames_jpeg=frames,
                seconds=seconds,
            )
        )
    thumbnails.close()
    summary = _summary(recipe, folder)
    return write_report(
        folder.report,
        title=recipe.name or "run",
        summary=summary,
        metrics=metrics,
        curves=curves,
        examples=examples,
    )


def _trained(loaded: LoadedRecipe) -> RunFolder:
    folder = RunFolder(loaded.recipe.run_dir.absolute())
    if not (folder.adapter / CONTRACT_FILE).is_file():
        hint = f"train it first: cvft train {loaded.path}"
        raise RunError(
            f"run folder {loaded.recipe.run_dir}", [Problem("adapter/", "no such folder", "a trained adapter", hint)]
        )
    return claim_run_folder(loaded)


def _val_rows(folder: RunFolder) -> list[Row]:
    if not folder.val_rows.is_file():
        hint = "name a val file (data.val) or a share of the clips (data.val_fraction) and train again"
        raise RunError(
            f"run folder {folder.path}", [Problem("data/val.jsonl", "no val rows", "rows to evaluate", hint)]
        )
    return read_rows(folder.val_rows)


def _verification_rows(folder: RunFolder) -> list[Row]:
    """Val rows, or train rows when none were held out."""
    return read_rows(folder.val_rows if folder.val_rows.is_file() else folder.train_rows)


def _base_and_contract(recipe: Recipe) -> tuple[Path, Contract]:
    model = inspect_model(find_model(recipe).folder)
    return model.path, make_contract(recipe, model=model, feeding=decide_feeding(recipe, model))


def _merged_dtype(recipe: Recipe) -> str:
    return recipe.model.dtype if recipe.export.dtype == "auto" else recipe.export.dtype


def _load(
    recipe: Recipe,
    which: Which,
    folder: RunFolder,
    *,
    merged_folder: Path | None = None,
    is_plain: bool = False,
) -> Answerer:
    """Loads a model of a run: fed with features where they are kept, and quantised where the recipe says so.

    A plain one is neither: its tower and every weight are to be tried.
    """
    import torch

    from cvft.predict.predictor import load_answerer

    base, wanted = _base_and_contract(recipe)
    stored = read_contract(folder.adapter)
    check_contract(stored, wanted, folder=folder.adapter)
    merged = merged_folder or folder.merged
    if which == "merged" and not (merged / CONTRACT_FILE).is_file():
        hint = "cvft export makes it"
        raise RunError(f"run folder {folder.path}", [Problem("merged/", "no such folder", "a merged model", hint)])
    device = decide_ranks(recipe, num_gpus_present=count_gpus()).device
    torch.set_num_threads(recipe.parallel.num_threads)
    dtype = _merged_dtype(recipe) if which == "merged" else recipe.model.dtype
    has_features = not is_plain and dtype == recipe.model.dtype
    return load_answerer(
        merged if which == "merged" else base,
        contract=stored,
        adapter_folder=folder.adapter if which == "adapter" else None,
        dtype=dtype,
        quantize="none" if is_plain else recipe.model.quantize,
        embeddings_on_cpu=recipe.model.embeddings_on_cpu and not is_plain,
        cached=find_features(recipe, folder, contract=stored, device=device) if has_features else None,
        attention=None if recipe.model.attention == "auto" else recipe.model.attention,
        device=device,
        timeout_s=recipe.video.timeout_s,
        memory_gib=recipe.video.memory_gib,
    )


def _trace(
    recipe: Recipe, which: Which, folder: RunFolder, rows: Sequence[Row], bar: Any, *, merged_folder: Path | None = None
) -> Any:
    from cvft.export.verify import trace

    # a merged tower could be damaged: it has to encode frames itself
    answerer = _load(recipe, which, folder, merged_folder=merged_folder, is_plain=True)
    result = trace(
        answerer.model,
        answerer.processor,
        scored=[answerer.encode(row, with_response=True) for row in rows],
        prompts=[answerer.encode(row) for row in rows],
        max_new_tokens=recipe.eval.max_new_tokens,
        on_progress=bar.update,
    )
    answerer.close()
    return result


def _compare_logits(recipe: Recipe, folder: RunFolder, merged: Path) -> dict[str, Any]:
    """Lets adapter and merged model answer the same rows, where the device has room for them."""
    from cvft.export.verify import compare, why_logits_do_not_fit

    dtype = _merged_dtype(recipe)
    model = inspect_model(find_model(recipe).folder)
    device = decide_ranks(recipe, num_gpus_present=count_gpus()).device
    num_values = model.architecture.count_parameters().total
    why_not = why_logits_do_not_fit(num_values, dtype=dtype, device=device)
    if why_not:
        return {"logits": None, "note": why_not}
    rows = _verification_rows(folder)[: recipe.export.verify_rows]
    with tqdm(total=2 * len(rows), desc="verifying", unit="row", file=sys.stderr, dynamic_ncols=True) as bar:
        adapter_trace = _trace(recipe, "adapter", folder, rows, bar)
        merged_trace = _trace(recipe, "merged", folder, rows, bar, merged_folder=merged)
    places = [f"val row {index + 1}" for index in range(len(rows))]
    return {"logits": compare(adapter_trace, merged_trace, places=places, dtype=dtype).to_dict(), "note": ""}


def _read_predictions(folder: RunFolder, which: str) -> list[str]:
    lines = (folder.eval / f"predictions_{which}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` indices of `count`, evenly spread, so that every kind of question has a chance to be shown."""
    return [index * count // min(count, most) for index in range(min(count, most))]


class _Thumbnails:
    """Small pictures of what the model saw, decoded as the contract says."""

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        from cvft.data.video.loader import DecodeSettings

        contract = read_contract(folder.adapter)
        self.settings = DecodeSettings.of(
            contract.sampling,
            max_frames=contract.max_frames,
            decoder=contract.decoder,
            timeout_s=recipe.video.timeout_s,
            memory_gib=recipe.video.memory_gib,
        )
        self.worker = self.settings.make_process()
        self.made: dict[Path, tuple[list[bytes], list[int]]] = {}

    def of(self, row: Row) -> tuple[list[bytes], list[int]]:
        from PIL import Image

        if row.video is None:
            return [], []
        if row.video not in self.made:
            clip = self.worker.decode(row.video, sampling=self.settings.sampling, decoder=self.settings.decoder)
            pictures, seconds = [], []
            for index in _spread(len(clip.frames), NUM_REPORT_FRAMES):
                picture = Image.fromarray(clip.frames[index])
                picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
                with io.BytesIO() as file:
                    picture.save(file, "JPEG", quality=85)
                    pictures.append(file.getvalue())
                seconds.append(round(float(clip.timestamps_s[index])))
            self.made[row.video] = (pictures, seconds)
        return self.made[row.video]

    def close(self) -> None:
        self.worker.close()


def _summary(recipe: Recipe, folder: RunFolder) -> dict[str, object]:
    manifest = json.loads(folder.manifest_file.read_text(encoding="utf-8"))
    contract = read_contract(folder.adapter)
    targets = recipe.lora.targets
    summary: dict[str, object] = {
        "model": recipe.model.path,
        "adapter": f"LoRA rank {recipe.lora.rank} on {targets if isinstance(targets, str) else ', '.join(targets)}",
        "train rows": manifest["rows"]["num_train"],
        "val rows": manifest["rows"]["num_val"],
        "quarantined rows": manifest["rows"]["num_quarantined"],
        "feeding": f"template {contract.template}, sampling {contract.sampling}, decoder {contract.decoder}",
        "seed": recipe.seed,
    }
    if (folder.merged / VERIFICATION_FILE).is_file():
        checked = json.loads((folder.merged / VERIFICATION_FILE).read_text(encoding="utf-8"))
        summary["merged equals adapter"] = _describe_verification(checked)
    return summary


def _verified_line(folder: RunFolder, verification: Mapping[str, Any]) -> str:
    return f"merged    {folder.merged}\nverified  {_describe_verification(verification)}"


def _describe_verification(verification: Mapping[str, Any]) -> str:
    tensors, logits = verification["tensors"], verification["logits"]
    text = f"{tensors['num_compared']} tensors are base + adapter"
    if logits is None:
        return f"{text}; {verification['note']}"
    return (
        f"{text}, {logits['num_equal_answers']} of {logits['num_rows']} answers identical, largest logit difference "
        f"{logits['max_logit_error']:.2g} (limit {logits['max_logit_error_allowed']:.2g})"
    )


def _table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(metrics)
    families = list(next(iter(metrics.values())).get("families", {}))
    lines = ["val exact match  " + "".join(f"{name:>10}" for name in names) + f"{'rows':>8}"]

    def line(label: str, of: Sequence[Mapping[str, Any]]) -> str:
        values = "".join(f"{100 * values['exact_match']:>9.1f}%" for values in of)
        return f"{label:<17}{values}{of[0]['num_rows']:>8}"

    lines += [line(f"  {family}", [metrics[name]["families"][family] for name in names]) for family in families]
    return "\n".join([*lines, line("all", [metrics[name] for name in names])])
