"""The routes: chat completions as OpenAI's API has them, what there is, how it goes, and what the page needs.

body -> `ChatRequest` -> clip and question -> `Prompt` -> `Engine` (in a thread) -> one object, or a stream of events
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from cvft.data.clip_columns import clip_of_frames
from cvft.data.fetch.urls import is_url
from cvft.data.video.spec import ClipRef, file_of, files_of, make_image
from cvft.errors import ClipError, CvftError, DataError
from cvft.predict.infer import about_question, make_question
from cvft.serve.body import Bodies
from cvft.serve.clips import SharedClips
from cvft.serve.engine import Asked, Engine
from cvft.serve.errors import ApiError, from_error, refused
from cvft.serve.guard import PAGE_SCRIPTS
from cvft.serve.hearing import EventStream, collect, our_fault, stream, unless_gone
from cvft.serve.media import MediaStore
from cvft.serve.messages import AskedClip, read_messages
from cvft.serve.metrics import Metrics
from cvft.serve.replies import Reply
from cvft.serve.request import ChatRequest, parse_json, read_request
from cvft.serve.seconds import find_times, to_json

if TYPE_CHECKING:
    from cvft.predict.predictor import Predictor, Prompt
    from cvft.serve.web_clips import WebClips

LOG = logging.getLogger(__name__)

PAGE_FILES = {
    "": ("index.html", "text/html"),
    **{name: (name, "text/javascript") for name in PAGE_SCRIPTS},
    "page.css": ("page.css", "text/css"),
}

MIN_HIDDEN_CHARS = 5
"""Shorter names of clips are not taken out of messages: they would be taken for parts of words."""

RETRY_AFTER_S = 2
"""What a client that finds the queue full is told to wait."""


SMALL_BODY_BYTES = 1 << 16
"""Bodies up to this size are read at once: to hand one to a thread and back takes longer."""

Fetched = list[Path | None]
"""Where the video or the frames of a clip lie that were fetched, in the order of their names; None for the others."""


@dataclass(frozen=True)
class Limits:
    """What requests may take.

    Args:
        max_requests: Requests that are decoded, wait or are answered at a time; more are refused.
        max_body_bytes: Largest body.
        max_new_tokens: Longest answer in tokens; None for what a prompt leaves.
        max_choices: Most answers to one question.
    """

    max_requests: int
    max_body_bytes: int
    max_new_tokens: int | None
    max_choices: int


class Server:
    """The state behind the routes.

    Args:
        engine: What answers.
        media: Clips.
        metrics: What is counted.
        limits: What requests may take.
        web: Clips by URL; None fetches none.
    """

    def __init__(
        self, engine: Engine, media: MediaStore, metrics: Metrics, limits: Limits, *, web: WebClips | None = None
    ) -> None:
        self.engine = engine
        self.media = media
        self.web = web
        self.metrics = metrics
        self.limits = limits
        self.bodies = Bodies(limits.max_body_bytes)
        self.created = int(time.time())
        self._num_requests = 0

    # --- who may come in ---

    def enter(self, places: ExitStack) -> None:
        """Takes a place for a request, until `places` is closed.

        Raises:
            ApiError: when there is none, or no model yet.
        """
        self._check_ready()
        if self._num_requests >= self.limits.max_requests:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            raise ApiError(429, "the queue is full: try again later", code="queue_full", headers=headers)
        self._num_requests += 1
        places.callback(self._leave)

    def _leave(self) -> None:
        self._num_requests -= 1

    def _check_ready(self) -> None:
        if not self.engine.models:
            raise ApiError(503, "the model is being loaded", code="loading", headers={"Retry-After": "5"})

    def predictor(self, name: str) -> Predictor:
        """Returns a model by the name that a request gives.

        Raises:
            ApiError: when there is none of that name.
        """
        found = self.engine.models.get(name)
        if found is None:
            known = ", ".join(f"`{each}`" for each in self.engine.models)
            message = f"model: got another name, need one of {known}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return found

    # --- answers ---

    def read(self, body: bytes) -> ChatRequest:
        """Reads a request; runs in a thread of its own.

        Raises:
            ApiError: when it cannot be carried out.
        """
        asked = read_request(parse_json(body))
        self.predictor(asked.model)
        if asked.num_choices > self.limits.max_choices:
            need = f"at most {self.limits.max_choices}, the answers that run at a time"
            raise refused("n", str(asked.num_choices), need)
        most = self.limits.max_new_tokens
        if most is not None and asked.max_tokens is not None and asked.max_tokens > most:
            raise refused("max_completion_tokens", str(asked.max_tokens), f"at most {most}")
        return asked

    async def fetch(self, clip: AskedClip | None, *, places: ExitStack, request: Request) -> Fetched:
        """Fetches what a clip names by URL; None for what is named otherwise, or where URLs are refused by `begin`.

        Args:
            clip: How a request names its clip.
            places: What is to be given back when the request is done.
            request: The request, whose body has been read: when its client has gone, nothing more is fetched.

        Raises:
            ApiError: when it cannot be had.
        """
        if self.web is None or clip is None or not any(map(is_url, clip.names)):
            return [None] * (0 if clip is None else len(clip.names))
        fetched: Fetched | None = await unless_gone(request, self.web.open_all(clip))
        if fetched is None:
            raise ApiError(499, "the client has gone", code="gone")
        for path in filter(None, fetched):
            places.callback(self.media.release, path)
        return fetched

    def begin(self, asked: ChatRequest, fetched: Fetched, places: ExitStack, loop: asyncio.AbstractEventLoop) -> Asked:
        """Reads the clip of a request and hands it to the model; runs in a thread of its own.

        The model begins with it while the loop still writes the head of the response.

        Args:
            asked: The request.
            fetched: What `fetch` returned.
            places: What is to be given back when it is done.
            loop: Where the answer is heard.

        Returns:
            The answer.

        Raises:
            ApiError: when it cannot be carried out.
        """
        prompt = self._prepare(asked, fetched, places)
        answer = Asked(asked.model, prompt, asked.drawings, asked.stops, in_pieces=asked.stream, loop=loop)
        places.callback(answer.cancel)
        self.engine.put(answer)
        return answer

    def _prepare(self, asked: ChatRequest, fetched: Fetched, places: ExitStack) -> Prompt:
        clip = None if asked.clip is None else self._open(asked.clip, fetched, places, model=asked.model)
        try:
            row = make_question(
                None if clip is None else file_of(clip), asked.query, asked.history, system=asked.system
            )
            # by the name of its content; a link would be resolved
            row = replace(row, videos=() if clip is None else (clip,))
            try:
                max_new_tokens = asked.max_tokens or self.limits.max_new_tokens
                return self.predictor(asked.model).prepare(row, max_new_tokens=max_new_tokens)
            except DataError as error:
                raise about_question(error) from error
        except (ClipError, DataError) as error:
            raise self._tell(error, clip, asked.clip) from error

    def read_shown(self, body: bytes) -> tuple[str, AskedClip]:
        """Reads what `show` is asked for: a model, and the messages of a question to it, of which the clip counts.

        Raises:
            ApiError: when it is not that.
        """
        columns = parse_json(body)
        model = columns.get("model")
        if not isinstance(model, str):
            raise refused("model", "no text", "text")
        self.predictor(model)
        clip = read_messages(columns.get("messages"), frame_seconds=columns.get("frame_seconds")).clip
        if clip is None:
            raise refused("messages", "no clip", "`video_url`, or `image_url` parts")
        return model, clip

    def show(self, model: str, asked: AskedClip, fetched: Fetched, places: ExitStack) -> dict[str, Any]:
        """Returns pictures of what a model is shown of a clip; runs in a thread of its own.

        Args:
            model: The model's name.
            asked: How the clip is named.
            fetched: What `fetch` returned.
            places: What is to be given back when it is done.

        Raises:
            ApiError: when they cannot be had.
        """
        clips = self.predictor(model).clips
        assert isinstance(clips, SharedClips), "the server's own"
        clip = self._open(asked, fetched, places, model=model)
        try:
            return clips.pictures(clip)
        except ClipError as error:
            raise self._tell(error, clip, asked) from error

    def _open(self, asked: AskedClip, fetched: Fetched, places: ExitStack, *, model: str) -> ClipRef:
        paths = []
        for name, param, path in zip(asked.names, asked.params, fetched, strict=True):
            if path is None:
                path = self.media.open(name, param=param, kind=asked.kind)
                places.callback(self.media.release, path)
            paths.append(path)
        if asked.kind == "video":
            return paths[0]
        takes_images = self.predictor(model).encoder.takes_images
        return (
            clip_of_frames(paths, asked.seconds or (0.0,))
            if asked.seconds or not takes_images
            else make_image(paths[0])
        )

    def _tell(self, error: CvftError, clip: ClipRef | None, asked: AskedClip | None) -> ApiError:
        files = () if clip is None else files_of(clip)
        own = {name for path in files for name in (path, path.resolve(), Path(path.name), Path(path.resolve().name))}
        hidden = [*(path for path in own if len(str(path)) >= MIN_HIDDEN_CHARS), self.media.spool, *self.media.roots]
        frames: dict[Path, str] = {}
        if clip is not None and asked is not None and asked.kind == "picture":
            for path, param in zip(files, asked.params, strict=True):
                frames.setdefault(path, param)
        return from_error(error, hidden=hidden, frames=frames)


def build_app(server: Server) -> FastAPI:
    """Builds the application of a server."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    def fail(error: ApiError) -> Response:
        server.metrics.failure.labels(str(error.status)).inc()
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers)

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return fail(error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        return fail(ApiError(error.status_code, str(error.detail), headers=error.headers))

    @app.exception_handler(Exception)
    async def on_other_error(request: Request, error: Exception) -> Response:
        return fail(our_fault())

    @app.get("/health")
    async def health() -> Response:
        ready = bool(server.engine.models)
        return JSONResponse({"status": "ok" if ready else "loading"}, status_code=200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> Response:
        listed = [
            {
                "id": name,
                "object": "model",
                "created": server.created,
                "owned_by": "cvft",
                "max_model_len": predictor.encoder.max_tokens,
                "takes_images": predictor.encoder.takes_images,
            }
            for name, predictor in server.engine.models.items()
        ]
        return JSONResponse({"object": "list", "data": listed})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        _check_type(request, "application/json")
        with ExitStack() as places:
            server.enter(places)
            async with server.bodies.read(request) as body:
                is_small = len(body) <= SMALL_BODY_BYTES
                asked = server.read(body) if is_small else await asyncio.to_thread(server.read, body)
                for _ in asked.drawings[1:]:  # each answer that is computed takes a place
                    server.enter(places)
                fetched = await server.fetch(asked.clip, places=places, request=request)
                answer = await asyncio.to_thread(server.begin, asked, fetched, places, asyncio.get_running_loop())
            reply = Reply(asked.model, num_prompt_tokens=answer.prompt.num_tokens)
            if asked.stream:
                pieces = stream(answer, reply, asked)
                return EventStream(pieces, on_end=places.pop_all().close)
            whole = await unless_gone(request, collect(answer, reply, num_choices=asked.num_choices))
        return Response(status_code=499) if whole is None else JSONResponse(whole)

    @app.post("/clips")
    async def clips(request: Request) -> Response:
        _check_type(request, "video/", "application/octet-stream", "image/")
        async with server.bodies.read(request) as body:
            if not body:
                raise refused("the body", "nothing", "the bytes of a clip")
            path = await asyncio.to_thread(server.media.add, body)
        return JSONResponse({"url": f"clip:{path.name}"})

    @app.post("/frames")
    async def frames(request: Request) -> Response:
        _check_type(request, "application/json")
        with ExitStack() as places:
            server.enter(places)
            async with server.bodies.read(request) as body:
                model, asked = await asyncio.to_thread(server.read_shown, body)
                fetched = await server.fetch(asked, places=places, request=request)
                return JSONResponse(await asyncio.to_thread(server.show, model, asked, fetched, places))

    @app.post("/times")
    async def times(request: Request) -> Response:
        _check_type(request, "application/json")
        async with server.bodies.read(request) as body:
            text = parse_json(body).get("text")
            if not isinstance(text, str):
                raise refused("text", "no text", "text")
            pieces = await asyncio.to_thread(find_times, text)
        return JSONResponse({"pieces": to_json(pieces)})

    for path, (name, media_type) in PAGE_FILES.items():
        content = files("cvft.serve").joinpath("page", name).read_bytes()
        app.get(f"/{path}")(_give(content, media_type))
    return app


def _give(content: bytes, media_type: str) -> Callable[[], Any]:
    async def give() -> Response:
        return Response(content, media_type=media_type)

    return give


def _check_type(request: Request, *kinds: str) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith(kinds):
        raise ApiError(415, f"the header Content-Type: got another one, need `{kinds[0]}`", code="wrong_type")
