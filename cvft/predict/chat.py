"""Several turns about one clip: each question goes with the turns before it, as the template has them.

clip -> its facts (which frames, at which seconds)      question + turns -> Row -> Predictor.stream -> pieces, one more turn
the last turn with those that the model saw before it -> a row to train on
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.data.fetch.cache import ClipCache
from cvft.data.fetch.urls import show_url
from cvft.data.rows import Row, append_row
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef, ClipSpec, file_of, name_of
from cvft.errors import CvftError, DataError, Problem, quote
from cvft.families.answering import Answer
from cvft.plan.lengths import check_texts
from cvft.predict.infer import about_question, bring_clip, load_found, look_at_clip, make_question
from cvft.predict.trained import FoundModel, find_model

if TYPE_CHECKING:
    from cvft.predict.predictor import Predictor

LOG = logging.getLogger(__name__)


class Chat:
    """A conversation with a model about one clip, or about none.

    Args:
        found: The model; `open_chat` finds it.
        system: System text; None takes the model's.
        max_new_tokens: Longest answer in tokens; None takes what the prompt leaves, up to `MAX_NEW_TOKENS`.
        cache: Fetches clips of URLs; without it, they are refused.
    """

    def __init__(
        self,
        found: FoundModel,
        *,
        system: str | None = None,
        max_new_tokens: int | None = None,
        cache: ClipCache | None = None,
    ) -> None:
        self.system = system
        self.max_new_tokens = max_new_tokens
        self._cache = cache
        self._url: str | None = None
        self.takes_history = _takes_history(found)
        """Whether the template has a place for earlier turns; without one each question stands alone."""
        self.video: ClipRef | None = None
        self._found = found
        self._clip: ClipInfo | None = None
        self._predictor: Predictor | None = None
        self._turns: list[tuple[Row, Answer]] = []

    @property
    def turns(self) -> list[tuple[str, str]]:
        """The (question, answer) turns that the next question goes with, oldest first."""
        return [(row.query, answer.text) for row, answer in self._turns] if self.takes_history else []

    @property
    def clip_name(self) -> str:
        """How the clip is shown: its file, or its URL without what may be secret in it."""
        if self._url is not None:
            return show_url(self._url)
        is_ready = isinstance(self.video, ClipSpec) and bool(self.video.frames)
        return str(self.video) if self.video is None or not is_ready else str(file_of(self.video).parent)

    def load(self) -> None:
        """Loads the model. It is not needed to look at clips."""
        self._predictor = load_found(self._found)

    def show(self, video: str, *, seconds: Sequence[float] | None = None) -> None:
        """Goes on about another clip, from no turns: what was said is about the clip before.

        Args:
            video: The clip's file, relative to the current folder, or its URL; with `seconds`, a folder of pictures.
            seconds: When each of them was taken.

        Raises:
            DataError: when there is no such file, or seconds do not fit the pictures.
            ClipError: when it cannot be fetched or decoded. The clip and the turns are then those that they were.
        """
        row = make_question(video, "?", seconds=seconds, cache=self._cache)
        (clip,) = row.videos
        bring_clip(row, self._cache)
        self._clip = look_at_clip(clip, self._found)
        self.video, self._url = clip, row.clips_by_url.get(clip)
        self._turns.clear()

    def frames(self) -> str:
        """Returns which frames of the clip the model is shown, a line each, with their seconds from the clip's first frame.

        Raises:
            CvftError: when there is no clip.
        """
        if self.video is None or self._clip is None:
            raise CvftError("the chat", [Problem("the clip", "none", "one", "give its file to `/video`")])
        clip, sampling = self._clip, self._found.how.decode.sampling
        head = (
            f"{name_of(self.video)}: {clip.num_frames} of {clip.num_frames_total} frames, {clip.duration_s:.2f} s, "
            f"{clip.width_px} x {clip.height_px}, sampling {sampling.strategy}"
        )
        lines = [f"frame {number:3d}  {second:8.2f} s" for number, second in enumerate(clip.view.timestamps_s)]
        return "\n".join([head, *lines, *clip.notes, *clip.file_notes])

    def row(self, query: str) -> Row:
        """Returns a question as the row that the model is asked: with the clip, and with the turns before it.

        Raises:
            DataError: when it cannot be asked.
        """
        return make_question(self._url or self.video, query, self.turns, system=self.system, cache=self._cache)

    def ask(self, query: str) -> Generator[str, None, Answer]:
        """Answers a question piece by piece. Only an answer that came to its end, or to its limit, becomes a turn.

        Args:
            query: The question.

        Yields:
            Pieces that together are the answer.

        Returns:
            The answer.

        Raises:
            DataError: when the question cannot be asked, or leaves no room for its answer.
            ClipError: when the clip cannot be decoded any more.
        """
        assert self._predictor is not None, "`load` comes first"
        row = self.row(query)
        try:
            answer = yield from self._predictor.stream(row, max_new_tokens=self.max_new_tokens)
        except DataError as error:
            raise _with_clear(about_question(error), has_turns=bool(row.history)) from error
        self._turns.append((row, answer))
        return answer

    def clear(self) -> None:
        """Forgets the turns; the clip stays."""
        self._turns.clear()

    def save(self, path: Path) -> None:
        """Adds the last answer to a file of rows to train on, with its question and the turns that the model saw before it.

        Args:
            path: A JSONL file; what is in it stays.

        Raises:
            CvftError: when there is nothing to learn, or the file cannot take it; it is then as it was.
        """
        if not self._turns:
            raise _nothing_to_learn("no answer yet", hint="ask something first")
        row, answer = self._turns[-1]
        if answer.is_cut:
            raise _nothing_to_learn("an answer that was cut", hint="allow more with `--max-new-tokens`, and ask again")
        if not answer.text:
            raise _nothing_to_learn("an empty answer", hint="ask something else")
        try:
            append_row(replace(row, response=answer.text), path)
        except DataError as error:
            raise about_question(error) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CvftError("the file", [Problem(quote(path), str(reason), "a file that can be written")]) from error

    def close(self) -> None:
        """Ends the decode process; the model goes with its last reference."""
        if self._predictor is not None:
            self._predictor.close()


def open_chat(
    model: str | Path,
    *,
    video: str | None = None,
    system: str | None = None,
    max_new_tokens: int | None = None,
    quantize: str | None = None,
    base: Path | None = None,
    cache: ClipCache | None = None,
) -> Chat:
    """Finds and loads a model to talk with; what is wrong with model or clip is found before it is loaded.

    Args:
        model: What `find_model` takes.
        video: The clip to begin with.
        system: System text; None takes the model's.
        max_new_tokens: Longest answer in tokens; None takes what the prompt leaves, up to `MAX_NEW_TOKENS`.
        quantize: `none`, `nf4` or `int8`; without it an adapter is asked on its base as it was trained, a merged model as it is.
        base: Where the base of an adapter lies by now.
        cache: Fetches clips of URLs; without it, they are refused.

    Raises:
        CvftError: when the model or the clip cannot be used.
    """
    found = find_model(model, base=base, quantize=quantize)
    chat = Chat(found, system=system, max_new_tokens=max_new_tokens, cache=cache)
    if system is not None:
        try:
            check_texts([chat.row("?")], lay_out=found.family.layouts(found.model, found.how))
        except DataError as error:
            raise about_question(error) from error
    if video is not None:
        chat.show(video)
    if not chat.takes_history:
        LOG.info(
            "note      template `%s` has no place for earlier turns: each question stands alone", found.how.template
        )
    chat.load()
    return chat


def _takes_history(found: FoundModel) -> bool:
    probe = make_question(None, "?", [("?", "?")])
    try:
        check_texts([probe], lay_out=found.family.layouts(found.model, found.how))
    except DataError:
        return False
    return True


def _nothing_to_learn(got: str, *, hint: str) -> CvftError:
    return CvftError("the conversation", [Problem("the last turn", got, "a whole answer to train on", hint)])


def _with_clear(error: DataError, *, has_turns: bool) -> DataError:
    """Names the command that makes room, where earlier turns take it."""
    if not has_turns:
        return error
    hint = "forget the earlier turns with `/clear`, or shorten the question"
    return DataError(error.subject, [replace(each, hint=hint) for each in error.problems])
