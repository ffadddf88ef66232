"""The page of a run, from what training, export and evaluation have left in its folder."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvft.data.rows import Row
from cvft.data.video.loader import DecodeSettings
from cvft.evaluate.compare import compare_predictions
from cvft.evaluate.run import Evaluation, read_val_rows
from cvft.export import VERIFICATION_FILE
from cvft.export.run import describe_verification
from cvft.plan.job import Job
from cvft.report.curves import plot_curves
from cvft.report.html import Answer, Example, write_report
from cvft.report.results import describe_comparison
from cvft.runs import read_manifest

NUM_EXAMPLES = 24
NUM_FRAMES = 8
THUMBNAIL_PX = 112


def write_run_report(job: Job, *, evaluations: Mapping[str, Evaluation]) -> Path:
    """Writes the curves and the page of a run.

    Args:
        job: The job of a trained run.
        evaluations: Evaluation per model, the tuned one last; all of the same rows.

    Returns:
        The page.
    """
    folder = job.run
    curves = plot_curves(folder.train / "logging.jsonl", folder=folder.path / "curves")
    predictions = {name: evaluation.read_predictions() for name, evaluation in evaluations.items()}
    rows = read_val_rows(folder)[: job.recipe.eval.num_rows]
    thumbnails = Thumbnails(job.preprocessing.decode)
    examples = []
    for index in spread(len(rows), NUM_EXAMPLES):
        row = rows[index]
        frames, seconds = thumbnails.of(row)
        answers = {
            name: Answer(lines[index]["prediction"], is_right=lines[index]["is_exact_match"])
            for name, lines in predictions.items()
        }
        examples.append(
            Example(
                video=row.video.name if row.video else "",
                question=row.query,
                expected=row.response,
                answers=answers,
                frames_jpeg=frames,
                seconds=seconds,
            )
        )
    thumbnails.close()
    return write_report(
        folder.report,
        title=job.recipe.name or "run",
        summary=_summarize(job),
        metrics={name: evaluation.metrics for name, evaluation in evaluations.items()},
        findings=describe_evaluations(predictions),
        curves=curves,
        examples=examples,
    )


def describe_evaluations(predictions: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Says in sentences how each model does beside the first.

    Args:
        predictions: Who answered -> lines as an evaluation keeps them; all of the same rows.
    """
    names = list(predictions)
    return [
        line
        for name in names[1:]
        for line in describe_comparison(
            compare_predictions(predictions[names[0]], predictions[name]), first=names[0], second=name
        )
    ]


def spread(count: int, most: int) -> list[int]:
    """Returns up to `most` indices of `count`, evenly spread, so that every kind of question has a chance to be shown."""
    return [index * count // min(count, most) for index in range(min(count, most))]


class Thumbnails:
    """Small pictures of what the model saw.

    Args:
        decode: How clips became frames in training.
    """

    def __init__(self, decode: DecodeSettings) -> None:
        self._decode = decode
        self._process = decode.make_process()
        self._made: dict[Path, tuple[list[bytes], list[int]]] = {}

    def of(self, row: Row) -> tuple[list[bytes], list[int]]:
        """Returns JPEG files of some frames of a row's clip, and their seconds."""
        from PIL import Image

        if row.video is None:
            return [], []
        if row.video not in self._made:
            clip = self._process.decode(row.video, sampling=self._decode.sampling, decoder=self._decode.decoder)
            pictures, seconds = [], []
            for index in spread(len(clip.frames), NUM_FRAMES):
                picture = Image.fromarray(clip.frames[index])
                picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
                with io.BytesIO() as file:
                    picture.save(file, "JPEG", quality=85)
                    pictures.append(file.getvalue())
                seconds.append(round(float(clip.timestamps_s[index])))
            self._made[row.video] = (pictures, seconds)
        return self._made[row.video]

    def close(self) -> None:
        """Ends the decode process."""
        self._process.close()


def _summarize(job: Job) -> dict[str, object]:
    recipe, folder = job.recipe, job.run
    rows = read_manifest(folder).rows
    targets = recipe.lora.targets
    summary: dict[str, object] = {
        "model": recipe.model.path,
        "adapter": f"LoRA rank {recipe.lora.rank} on {targets if isinstance(targets, str) else ', '.join(targets)}",
        "train rows": rows.num_train,
        "val rows": rows.num_val,
        "quarantined rows": rows.num_quarantined,
        "inputs": str(job.preprocessing),
        "seed": recipe.seed,
    }
    if (folder.merged / VERIFICATION_FILE).is_file():
        checked = json.loads((folder.merged / VERIFICATION_FILE).read_text(encoding="utf-8"))
        summary["merged equals adapter"] = describe_verification(checked)
    return summary
