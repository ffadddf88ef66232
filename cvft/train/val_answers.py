"""Val rows answered while a training measures its val loss: shared out over the ranks, scored as an evaluation scores them.

some val rows -> answers of the model as it is now -> numbers for the curves, and a line per answer in RUN/train/answers.jsonl
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cvft.clips.source import ClipSource
from cvft.data.rows import Row
from cvft.errors import RunError
from cvft.evaluate.metrics.rows import score_answers, single_numbers
from cvft.families.answering import Answer
from cvft.families.runtime import Encoder, Runtime
from cvft.jsonl import to_jsonl
from cvft.plan.plan import AnswerPlan
from cvft.predict.answers import locate_problems
from cvft.predict.predictor import Predictor


class ValAnswers:
    """Asks a model that trains about some val rows.

    Args:
        rows: The rows.
        how: How they are answered.
        runtime: Torch half of the model's family.
        encoder: Turns rows into inputs.
        clips: Gives clips.
        file: Where each answer is written.

    `last` holds what was written last: one line per row, on the first rank.
    """

    def __init__(
        self, rows: Sequence[Row], how: AnswerPlan, *, runtime: Runtime, encoder: Encoder, clips: ClipSource, file: Path
    ) -> None:
        self.rows = rows
        self.how = how
        self.runtime = runtime
        self.encoder = encoder
        self.clips = clips
        self.file = file
        self.last: Sequence[Mapping[str, Any]] = ()

    def measure(
        self,
        model: Any,
        *,
        step: int,
        share: tuple[int, int],
        gather: Callable[[dict[int, Answer]], dict[int, Answer]],
    ) -> dict[str, float]:
        """Answers the rows; all ranks must call it together, and all get the same numbers.

        Args:
            model: The model, in evaluation mode.
            step: The step that it is at.
            share: This rank and the number of ranks.
            gather: Joins what the ranks have answered.

        Returns:
            Name -> number: see `single_numbers`.

        Raises:
            RunError: when a row cannot be answered, which it could when the training began.
        """
        predictor = Predictor(model, runtime=self.runtime, encoder=self.encoder, clips=self.clips)
        answers: dict[int, Answer] = {}
        how = self.how
        for batch in predictor.answer_batches(
            self.rows, batch_rows=how.batch_rows, max_new_tokens=how.max_new_tokens, share=share
        ):
            if batch.bad:
                raise RunError("the val rows to answer", locate_problems(batch.bad, self.rows))
            answers.update(batch.answers)
        answers = gather(answers)
        said = [answers[number] for number in range(len(self.rows))]
        scores, summary = score_answers(self.rows, [answer.text for answer in said])
        if share[0] == 0:
            lines = [
                {
                    "step": step,
                    "line": row.line,
                    "query": row.query,
                    "expected": row.response,
                    "prediction": answer.text,
                    "is_cut": answer.is_cut,
                    **score.to_json(),
                }
                for row, answer, score in zip(self.rows, said, scores, strict=True)
            ]
            self.last = lines
            with self.file.open("a", encoding="utf-8") as file:
                file.write(to_jsonl(lines))
        return single_numbers(summary)
