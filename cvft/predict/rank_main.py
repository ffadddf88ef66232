"""One of several processes that answer rows: loads the model on the one device that it is shown, answers its share, ends.

Started by `cvft.predict.ranks`, which tells it what to do and keeps what it says: a JSON object per batch, then what of its clips
was not shown.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from io import BufferedReader
from typing import Any

from cvft.data.video.pipe import RawPipe, take_pipes, write_all
from cvft.data.video.spec import to_text
from cvft.errors import EXIT_USER_ERROR, CvftError
from cvft.jsonl import to_line
from cvft.predict.open import Predictors, load_model
from cvft.predict.predictor import Predictor
from cvft.predict.ranks import RankTask, error_to
from cvft.predict.trained import FoundModel
from cvft.processes import end_without_launcher


def main() -> None:
    """Answers a share of rows."""
    end_without_launcher()
    told, answers = take_pipes()
    task: RankTask = pickle.load(BufferedReader(told))
    try:
        predictor = _open(task)
        for batch in predictor.answer_batches(
            task.rows, batch_rows=task.batch_rows, max_new_tokens=task.max_new_tokens, done=task.done
        ):
            said = [(number, asdict(answer)) for number, answer in batch.answers.items()]
            _say(answers, {"answers": said, "bad": [(number, error_to(error)) for number, error in batch.bad.items()]})
        _say(answers, {"cut": [(to_text(clip), sentence) for clip, sentence in predictor.cut.items()]})
        predictor.close()
    except CvftError as error:
        _say(answers, {"refused": error_to(error)})
        os._exit(EXIT_USER_ERROR)
    # no clean-up: all is said, and a library that hangs at its end would keep the others waiting
    os._exit(0)


def _open(task: RankTask) -> Predictor:
    model = task.model
    if isinstance(model, FoundModel):
        return load_model(model)
    return Predictors(model.job).get(model.variant, clips=model.clips)


def _say(answers: RawPipe, what: Mapping[str, Any]) -> None:
    write_all(answers, memoryview(to_line(what).encode()))


if __name__ == "__main__":
    main()
