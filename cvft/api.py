"""cvft from Python: a trained model that answers, and the whole job. Importing this loads no torch.

`load(path)` -> `Model` -> `.ask` one question, `.stream` it as it comes, `.answer` many rows;  `run(recipe)` -> run folder
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from cvft.data.check import fetch_clips
from cvft.data.fetch.cache import ClipCache, default_folder
from cvft.data.fetch.limits import FetchLimits
from cvft.data.rows import Row, make_rows
from cvft.predict.infer import BATCH_ROWS, bring_clip, make_question
from cvft.predict.trained import find_model
from cvft.recipe import load_recipe

if TYPE_CHECKING:
    from cvft.predict.predictor import Predictor

Turns = Sequence[tuple[str, str]]
"""Earlier turns of a conversation: (question, answer) each."""


class Model:
    """A trained model that answers questions about clips, fed exactly as in training.

    Args:
        predictor: What answers; `load` opens it.
        folder: The folder that it was loaded from.
        cache: Fetches clips of URLs.
    """

    def __init__(self, predictor: Predictor, *, folder: Path, cache: ClipCache) -> None:
        self._predictor = predictor
        self._cache = cache
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
        self,
        video: str | Path | None,
        query: str,
        *,
        history: Turns = (),
        system: str | None = None,
        max_new_tokens: int | None = None,
    ) -> str:
        """Answers one question greedily.

        Args:
            video: The clip, a file or an `http(s)://` URL, or a picture's file, or None to ask without one.
            query: The question.
            history: Earlier (question, answer) turns.
            system: System text; None takes the one of the model.
            max_new_tokens: Longest answer in tokens; a longer one is cut there. None takes 512, or what the prompt leaves.

        Returns:
            The answer.

        Raises:
            CvftError: when the clip cannot be used.
        """
        row = self._question(video, query, history, system)
        return self._predictor.answer([row], batch_rows=1, max_new_tokens=max_new_tokens)[0].text

    def stream(
        self,
        video: str | Path | None,
        query: str,
        *,
        history: Turns = (),
        system: str | None = None,
        max_new_tokens: int | None = None,
    ) -> Iterator[str]:
        """Answers one question piece by piece; the pieces together are what `ask` returns.

        Args:
            video: The clip, a file or an `http(s)://` URL, or a picture's file, or None to ask without one.
            query: The question.
            history: Earlier (question, answer) turns.
            system: System text; None takes the one of the model.
            max_new_tokens: Longest answer in tokens; a longer one is cut there. None takes 512, or what the prompt leaves.

        Yields:
            Text.

        Raises:
            CvftError: when the clip cannot be used.
        """
        yield from self._predictor.stream(self._question(video, query, history, system), max_new_tokens=max_new_tokens)

    def answer(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        max_new_tokens: int | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> list[str]:
        """Answers rows greedily; rows of one clip share the work on it.

        Args:
            rows: Rows with the columns of a JSONL file: `query`, and as needed `videos` (a list of paths, relative to
                the current folder, or of URLs), `history` and `system`.
            max_new_tokens: Longest answer in tokens; a longer one is cut there. None takes 512, or what the prompt leaves.
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
            url_cache=self._cache.folder,
        )
        for error in fetch_clips(made, self._cache).values():
            raise error
        answers = self._predictor.answer(made, batch_rows=batch_rows, max_new_tokens=max_new_tokens)
        return [answer.text for answer in answers]

    def _question(self, video: str | Path | None, query: str, history: Turns, system: str | None) -> Row:
        row = make_question(None if video is None else str(video), query, history, system=system, cache=self._cache)
        bring_clip(row, self._cache)
        return row

    def close(self) -> None:
        """Ends the decode process; the model goes with its last reference."""
        self._predictor.close()


def load(
    path: str | Path,
    *,
    quantize: Literal["none", "nf4", "int8"] | None = None,
    base: str | Path | None = None,
    cache: str | Path | None = None,
    allow_hosts: Sequence[str] = (),
) -> Model:
    """Loads a model that can be asked.

    Args:
        path: A merged folder, an adapter folder, a checkpoint of a run, or a run's folder: then its merged model, or else its
            adapter. The name of a shipped or published model as a recipe's `model.path`, to ask one as it is.
        quantize: Holds the decoder blocks in 4 or 8 bits, or not; without it, as they were trained or merged.
        base: Where the base of an adapter lies by now, when it was moved.
        cache: Folder that clips named by URL are fetched to; `runs/.urls` where nobody says.
        allow_hosts: Hosts of URLs that may lie in an own network; all others must be public.

    Returns:
        The model.

    Raises:
        CvftError: when there is no such model, or when it cannot be used on this machine.

    >>> model = cvft.load("runs/my")
    >>> model.ask("clip.mp4", "What is shown?")
    'bikes'
    >>> model.answer([{"query": "What is shown?", "videos": ["clip.mp4"]}, {"query": "Say yes."}])
    ['bikes', 'yes']
    >>> model.close()
    """
    limits = FetchLimits(allow_hosts=tuple(allow_hosts))
    clips = ClipCache(default_folder() if cache is None else Path(cache), limits=limits)
    found = find_model(path, base=None if base is None else Path(base), quantize=quantize)
    from cvft.predict.open import load_model

    return Model(load_model(found), folder=found.folder, cache=clips)


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
