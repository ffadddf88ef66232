"""What vLLM 0.33.0 does with a chat request about a clip, after its code: no engine runs here.

argv of `vllm serve` + request -> template, loader, processor -> prompt ids -> our model's answer to the frames that arrived

It decides frames, sizes, seconds and ids from what the flags and the request say, never from the reference.
"""

import argparse
import base64
import io
import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import jinja2
import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from cvft.clips.source import ClipInputs
from cvft.data.rows import Row
from cvft.data.video.decode import Clip, decode_clip
from cvft.data.video.sample import Sampling
from cvft.weights.folder import ModelFolder


class Refused(Exception):
    """A request that the engine answers with 400."""


def parse_flags(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    for name in ("served-model-name", "dtype", "chat-template-content-format", "generation-config"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--chat-template", type=Path, required=True)
    for name in ("limit-mm-per-prompt", "mm-processor-kwargs", "media-io-kwargs"):
        parser.add_argument(f"--{name}", type=json.loads, required=True)
    parser.add_argument("--allowed-local-media-path", type=Path)
    parser.add_argument("--trust-request-mm-kwargs", action="store_true")
    return parser.parse_args(argv)


def smart_resize(height, width, *, factor, bounds, num_frames):
    """Height and width by transformers' video processors: of one frame for Qwen2.5-VL, within a budget of all for Qwen3-VL."""
    least, most = bounds["shortest_edge"], bounds["longest_edge"]
    rounded = [round(side / factor) * factor for side in (height, width)]
    padded = round(num_frames / 2) * 2 if num_frames > 1 else 1
    if padded * math.prod(rounded) > most:
        shrink = math.sqrt(num_frames * height * width / most)
        rounded = [max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width)]
    elif padded * math.prod(rounded) < least:
        grow = math.sqrt(least / (num_frames * height * width))
        rounded = [math.ceil(side * grow / factor) * factor for side in (height, width)]
    return rounded


class VllmLike:
    def __init__(self, argv, predictor=None):
        self.flags = parse_flags(argv)
        self.predictor = predictor
        self.config = ModelFolder.of(self.flags.model).config
        self.tokenizer = Tokenizer.from_file(str(self.flags.model / "tokenizer.json"))
        self.template = jinja2.Environment().from_string(self.flags.chat_template.read_text())
        assert self.flags.chat_template_content_format == "openai"
        assert self.flags.generation_config == "vllm"

    def _encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _load(self, url, of_request):
        """VideoMediaIO with `merge_kwargs`: frames and metadata."""
        media = {**self.flags.media_io_kwargs["video"], **of_request}
        if "num_frames" in of_request and "fps" not in of_request:
            media.pop("fps", None)
        elif "fps" in of_request and "num_frames" not in of_request:
            media.pop("num_frames", None)
        num_frames = media.get("num_frames", 32)
        if url.startswith("data:video/jpeg;base64,"):
            parts = url.partition(",")[2].split(",")
            parts = parts if num_frames < 0 else parts[:num_frames]
            frames = np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in parts])
            numbers = media.get("frames_indices", list(range(len(frames))))
            if len(numbers) != len(frames):
                raise Refused(f"frames_indices length ({len(numbers)}) must match number of frames ({len(frames)})")
            total = media.get("total_num_frames", len(frames))
            if total < len(frames):
                raise Refused(f"total_num_frames ({total}) must be >= number of frames sent ({len(frames)})")
            return frames, numbers, total, float(media.get("fps", 1))
        path = Path(url2pathname(urlsplit(url).path)).resolve()
        root = self.flags.allowed_local_media_path
        if urlsplit(url).scheme != "file" or root is None or root not in path.parents:
            raise Refused("Cannot load local files without `--allowed-local-media-path`.")
        assert (media["video_backend"], media["fps"]) == ("opencv", -1)
        clip = decode_clip(path, sampling=Sampling("uniform", num_frames))
        total = clip.num_frames_total
        assert list(clip.frame_indices) == np.linspace(0, total - 1, min(total, num_frames), dtype=int).tolist()
        return clip.frames, list(clip.frame_indices), clip.num_frames_total, clip.avg_fps

    def _target(self):
        """The ids that stand for a clip in a prompt."""
        if self.config["model_type"] == "internvl":
            return self._encode(self._named("video_token"))
        if self.config["model_type"] == "glm4v":
            return [self.tokenizer.token_to_id(f"<|{each}|>") for each in ("begin_of_video", "video", "end_of_video")]
        return [self.config["video_token_id"]]

    def _named(self, name):
        return json.loads((self.flags.model / "tokenizer_config.json").read_text())["extra_special_tokens"][name]

    def _expand_internvl(self, frames):
        """`InternS1MultiModalProcessor._get_prompt_updates`."""
        side = self.config["vision_config"]["image_size"]
        assert list(self.flags.mm_processor_kwargs["size"].values()) == side
        file = self.flags.model / "processor_config.json"
        num_tokens = json.loads(file.read_text())["image_seq_length"] if file.exists() else 256
        start, clip, end = map(self._named, ("start_image_token", "video_token", "end_image_token"))
        return self._encode("\n".join(f"Frame{n + 1}: {start}{clip * num_tokens}{end}" for n in range(len(frames))))

    def _expand_glm(self, frames, numbers, fps, *, bounds):
        """`Glm4vProcessingInfo._construct_video_placeholder`, with the seconds of `_get_video_second_idx_glm4v`."""
        height, width = smart_resize(*frames.shape[1:3], factor=28, bounds=bounds, num_frames=len(frames))
        assert json.loads((self.flags.model / "preprocessor_config.json").read_text())["size"]["longest_edge"]
        unique = list(dict.fromkeys(numbers))
        unique += unique[-1:] * (len(unique) % 2)
        ids, config = [self.config["video_start_token_id"]], self.config
        for number in unique[::2]:
            ids += [config["image_start_token_id"], *[config["image_token_id"]] * (height // 28 * (width // 28))]
            ids += [config["image_end_token_id"], *self._encode(str(int(number / fps)))]
        return [*ids, config["video_end_token_id"]]

    def _expand(self, frames, numbers, fps):
        """`Qwen3VLMultiModalProcessor.get_video_repl`, or the pads of Qwen2.5-VL; see the other families above."""
        processor, vision = self.flags.mm_processor_kwargs, self.config["vision_config"]
        assert processor["do_sample_frames"] is False
        if self.config["model_type"] == "internvl":
            return self._expand_internvl(frames)
        if self.config["model_type"] == "glm4v":
            if len(frames) < 2:
                raise Refused("t:1 must be larger than temporal_factor:2")
            return self._expand_glm(frames, numbers, fps, bounds=processor["size"])
        factor = vision["patch_size"] * vision["spatial_merge_size"]
        is_old = self.config["model_type"] == "qwen2_5_vl"
        num_frames = 1 if is_old else len(frames)
        height, width = smart_resize(*frames.shape[1:3], factor=factor, bounds=processor["size"], num_frames=num_frames)
        video = self.config["video_token_id"]
        num_grids = -(-len(frames) // 2)
        if is_old:
            return [video] * (num_grids * (height // factor) * (width // factor))
        if len(frames) < 2:
            raise Refused("t:1 must be larger than temporal_factor:2")
        numbers = [*numbers, *[numbers[-1]] * (len(numbers) % 2)]
        ids = []
        for first, last in zip(numbers[::2], numbers[1::2], strict=True):
            ids += self._encode(f"<{(first / fps + last / fps) / 2:.1f} seconds>")
            ids += [self.config["vision_start_token_id"], *[video] * ((height // factor) * (width // factor))]
            ids.append(self.config["vision_end_token_id"])
        return ids

    def ask(self, request):
        """Prompt ids, the frames that arrived, and their numbers, the clip's number of frames and its rate."""
        of_request = request.get("media_io_kwargs", {}).get("video", {})
        if of_request and not self.flags.trust_request_mm_kwargs:
            raise Refused("Per-request media_io_kwargs are disabled by default")
        shown, messages = None, []
        for message in request["messages"]:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for part in parts:
                if part["type"] == "video_url":
                    assert shown is None
                    shown = self._load(part["video_url"]["url"], of_request)
            parts = [{"type": "video"} if part["type"] == "video_url" else part for part in parts]
            messages.append({"role": message["role"], "content": parts})
        ids = self._encode(self.template.render(messages=messages, add_generation_prompt=True))
        if shown is not None:
            frames, numbers, _, fps = shown
            target = self._target()
            at = ids.index(target[0])
            assert ids[at : at + len(target)] == target
            ids[at : at + len(target)] = self._expand(frames, numbers, fps)
        return ids, shown

    def complete(self, request):
        if request["model"] != self.flags.served_model_name:
            raise Refused("The model does not exist.")
        ids, shown = self.ask(request)
        if len(ids) + request["max_completion_tokens"] > self.flags.max_model_len:
            raise Refused("maximum context length")
        said = [
            message["content"] if isinstance(message["content"], str) else message["content"][-1]["text"]
            for message in request["messages"]
            if message["role"] != "system"
        ]
        history = tuple(zip(said[:-1:2], said[1::2], strict=True))
        row = Row(said[-1], "", history, (), Path("request"), 1)
        clips = []
        if shown is not None:
            frames, numbers, total, fps = shown
            seconds = np.array(numbers, np.float32) / np.float32(fps)
            clip = Clip(frames, seconds, tuple(numbers), total, fps, total / fps, "pyav")
            clips = [ClipInputs(self.predictor.encoder.clip(clip), clip.view)]
        tensors = self.predictor.encoder.encode(row, clips, with_response=False)
        (answer,) = self.predictor.runtime.generate(
            self.predictor.model, self.predictor.encoder, [tensors], max_new_tokens=request["max_completion_tokens"]
        )
        assert request["temperature"] == 0
        stops = self.predictor.model.generation_config.eos_token_id
        assert set(request["stop_token_ids"]) == set(stops if isinstance(stops, list) else [stops])
        choice = {"index": 0, "message": {"role": "assistant", "content": answer.text}, "finish_reason": "stop"}
        return {"choices": [choice], **({"prompt_token_ids": ids} if request.get("return_token_ids") else {})}


@contextmanager
def listening(engine, *, version="0.33.0"):
    """Serves an engine over HTTP; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def _say(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            bodies = {
                "/version": {"version": version},
                "/v1/models": {"data": [{"id": engine.flags.served_model_name}]},
            }
            self._say(200, bodies[self.path])

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                self._say(200, engine.complete(request))
            except Refused as refused:
                self._say(400, {"error": {"message": str(refused), "type": "BadRequestError", "code": 400}})

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
