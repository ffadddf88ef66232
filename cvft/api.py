"""cvft from Python: a trained model that answers, and the whole job. Importing this loads no torch.

`load(path)` -> `Model` -> `.ask` one question, `.stream` it as it comes, `.answer` many rows;  `run(recipe)` -> run folder
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from cvft.data.rows import Row, make_rows
from cvft.errors import ModelError, Problem, quote
from cvft.families.contract import CONTRACT_FILE
from cvft.predict.infer import BATCH_ROWS, MAX_NEW_TOKENS
from cvft.recipe import load_recipe
from cvft.runs import RunFolder

if TYPE_CHECKING:
    from cvft.predict.predictor import Predictor

Turns = Sequence[tuple[str, str]]
"""Earlier turns of a conversation: (question, answer) each."""


class Model:
    """A trained model that answers questions about clips, fed exactly as in training.

    Args:
        predictor: What answers; `load` opens it.
        folder: The folder that it was loaded from.
    """

    def __init__(self, predictor: Predictor, *, folder: Path) -> None:
        self._predictor = predictor
        self.folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({str(self.folder)!r})"

    def ask(
        self, video: str | Path | None, query: str, *, history: Turns = (), max_new_tokens: int = MAX_NEW_TOKENS
    ) -> str:
        """Answers one question greedily.

        Args:
            video: The clip, or None to ask without one.
            query: The question.
            history: Earlier (question, answer) turns.
            max_new_tokens: Longest answer in tokens; a longer one is cut there.

        Returns:
            The answer.

        Raises:
            CvftError: when the clip cannot be used.
        """
        row = _make_row(video, query, history)
        return self._predictor.answer([row], batch_rows=1, max_new_tokens=max_new_tokens)[0].text

    def stream(
        self, video: str | Path | None, query: str, *, history: Turns = (), max_new_tokens: int = MAX_NEW_TOKENS
    ) -> Iterator[str]:
        """Answers one question piece by piece; the pieces together are what `ask` returns.

        Args:
            video: The clip, or None to ask without one.
            query: The question.
            history: Earlier (question, answer) turns.
            max_new_tokens: Longest answer in tokens; a longer one is cut there.

        Yields:
            Text.

        Raises:
            CvftError: when the clip cannot be used.
        """
        yield from self._predictor.stream(_make_row(video, query, history), max_new_tokens=max_new_tokens)

    def answer(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_rows: int = BATCH_ROWS,
    ) -> list[str]:
        """Answers rows greedily; rows of one clip share the work on it.

        Args:
            rows: Rows with the columns of a JSONL file: `query`, and as needed `videos` (a list of one path, relative to
                the current folder) and `history`.
            max_new_tokens: Longest answer in tokens; a longer one is cut there.
            batch_rows: Rows answered at a time.

        Returns:
            One answer per row, in order.

        Raises:
            CvftError: with every row that cannot be used, or when a clip cannot be.
        """
        made = make_rows(
            [(number, dict(row)) for number, row in enumerate(rows, 1)],
            source=Path("rows"),
            video_root=Path.cwd(),
            require_response=False,
        )
        answers = self._predictor.answer(made, batch_rows=batch_rows, max_new_tokens=max_new_tokens)
        return [answer.text for answer in answers]

    def close(self) -> None:
        """Ends the decode process; the model goes with its last reference."""
        self._predictor.close()


def load(path: str | Path, *, quantize: Literal["none", "nf4", "int8"] | None = None) -> Model:
    """Loads a trained model.

    Args:
        path: A merged folder, an adapter folder, or a run's folder: then its merged model, or else its adapter.
        quantize: Holds the decoder blocks in 4 or 8 bits, or not; without it, as they were trained or merged.

    Returns:
        The model.

    Raises:
        CvftError: when there is no trained model, or when it cannot be used on this machine.

    >>> model = cvft.load("runs/my")
    >>> model.ask("clip.mp4", "What is shown?")
    'bikes'
    >>> model.answer([{"query": "What is shown?", "videos": ["clip.mp4"]}, {"query": "Say yes."}])
    ['bikes', 'yes']
    >>> model.close()
    """
    folder = _find_model(Path(path))
    from cvft.predict.open import open_trained

    return Model(open_trained(folder, quantize=quantize), folder=folder)


def run(recipe: str | Path, *overrides: str) -> Path:
    """Does the whole job of a recipe: train, merge, verify, evaluate, report; what is done is not done again.

    Args:
        recipe: The recipe's file.
        overrides: `key.path=value` texts, as on the command line.

    Returns:
        The run's folder, with `adapter/`, `merged/`, `eval/` and `report.html`.

    Raises:
        CvftError: when any step cannot be done; what was finished before stays.
    """
    from cvft.pipeline import run_all

    loaded = load_recipe(recipe, overrides=overrides)
    run_all(loaded)
    return loaded.recipe.run_dir.absolute()


def _find_model(path: Path) -> Path:
    run = RunFolder(path.absolute())
    for folder in (path, run.merged, run.adapter):
        if (folder / CONTRACT_FILE).is_file():
            return folder
    need = "a merged folder, an adapter folder, or the folder of a run"
    got = quote(path) if path.exists() else f"{quote(path)}, which does not exist"
    raise ModelError("the model to load", [Problem("path", got, need, "train one first: cvft run RECIPE")])


def _make_row(video: str | Path | None, query: str, history: Turns) -> Row:
    columns: dict[str, Any] = {"query": query, "history": [list(turn) for turn in history]}
    if video is not None:
        columns["videos"] = [str(video)]
    (row,) = make_rows([(1, columns)], source=Path("question"), video_root=Path.cwd(), require_response=False)
    return row
