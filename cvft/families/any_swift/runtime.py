"""The torch half of models that are trained through ms-swift's templates; the one file of the family that speaks ms-swift.

folder -> transformers' processor, without its half for videos -> ms-swift's template -> ids, labels, pixels
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import transformers
from PIL import Image
from swift.model import MODEL_MAPPING, ModelInfo
from swift.template import TEMPLATE_MAPPING
from swift.utils import get_logger
from torch import Tensor

from cvft.dtypes import BY_NAME
from cvft.errors import DataError, ModelError, Problem
from cvft.families.any_swift.inputs import Inputs
from cvft.families.any_swift.models import MODELS, SwiftModel
from cvft.families.any_swift.network.encoder import MAX_SIZES, RowEncoder
from cvft.families.any_swift.network.load import load_config, load_model, load_tokenizer, load_tower
from cvft.families.any_swift.network.template import Turns
from cvft.families.any_swift.network.tower import ClipTower
from cvft.families.family import Preprocessing
from cvft.families.generation_file import stop_tokens
from cvft.families.network.runtime import StockRuntime
from cvft.families.runtime import Loading
from cvft.json_files import show
from cvft.weights.folder import ModelFolder

WORDS = ("<image>", "<video>", "<audio>", "<bbox>", "<ref-object>", "<cot-process>", "<start-image>", "<img>")
IMAGE_KEYS = ("image_token_id", "image_token_index")
"""What config.json calls the id of the placeholder under a frame's tokens, by newer and older files."""

PLACES = ("{{SYSTEM}}", "{{QUERY}}", "{{ROUND0}}", "{{ROUND1}}", "{{RESPONSE}}")
"""What ms-swift's templates replace wherever it stands in a text."""


class SwiftTemplate:
    """ms-swift's template of a folder; see `cvft.families.any_swift.network.template.OpenTemplate`.

    Args:
        model: What the folder is.
        folder: The folder.
        max_tokens: Longest row.
    """

    def __init__(self, model: SwiftModel, folder: ModelFolder, *, max_tokens: int) -> None:
        self._model = model
        self.tokenizer = load_tokenizer(folder)
        check_image_id(model, folder, tokenizer=self.tokenizer)
        processor = open_processor(model, folder, tokenizer=self.tokenizer)
        processor.model_info = ModelInfo(
            model.swift_type,
            str(folder.path),
            torch.float32,  # the tower casts pixels to its own
            max_tokens,
            None,
            0,
            is_multimodal=True,
            config=load_config(folder),
            task_type="causal_lm",
        )
        processor.model_meta = MODEL_MAPPING[model.swift_type]
        self._images = processor.image_processor
        self._sizes = BySizes(self._images)
        meta = TEMPLATE_MAPPING[model.template]
        kind = meta.template_cls
        # ms-swift adds the folder's ids to a list that all templates of a class share
        kind = type(kind.__name__, (kind,), {"placeholder_tokens": list(kind.placeholder_tokens)})
        with quiet_swift():
            self._template = kind(processor, meta, truncation_strategy="raise", loss_scale="last_round")
        self.image_id = model.image_id
        self.takes_system: bool = meta.support_system
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        self.reserved: Sequence[str] = tuple(dict.fromkeys([*added, *WORDS, *PLACES]))
        suffix, _, _ = self._template._encode_context_list(self._template.template_meta.suffix)
        self.stop_ids: Sequence[int] = stop_tokens(folder, turn_end=suffix[0])

    def encode(
        self, turns: Turns, frames: Tensor | None, *, system: str = "", sizes_only: bool = False
    ) -> Mapping[str, Any]:
        """Encodes turns as ms-swift does for training, or as a prompt where the last answer is None."""
        self._template.processor.image_processor = self._sizes if sizes_only else self._images
        messages = [{"role": "system", "content": system}]
        num_frames = 0 if frames is None else len(frames)
        places = "".join(self._model.frame.format(number=number + 1) for number in range(num_frames))
        for number, (question, answer) in enumerate(turns):
            messages.append({"role": "user", "content": question if number else places + question})
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        images = [] if frames is None else [Image.fromarray(frame) for frame in frames.numpy()]
        self._template.set_mode("train" if turns[-1][1] is not None else "transformers")
        encoded: Mapping[str, Any] = self._template.encode({"messages": messages, "images": images})
        if self._model.tile_tokens and images:
            self._check_tiles(encoded)
        return encoded

    def _check_tiles(self, encoded: Mapping[str, Any]) -> None:
        """Compares the places in the text with the tiles in the pixels, which the model would not do."""
        num_tiles = math.prod(encoded["pixel_values"].shape[:2])
        wanted = num_tiles * getattr(self._template.processor, self._model.tile_tokens)
        if (got := encoded["input_ids"].count(self.image_id)) != wanted:
            need = f"{wanted}, for {num_tiles} tiles of its frames"
            hint = "ms-swift's template stumbles over this text: write it otherwise"
            raise DataError("the text", [Problem("the text", f"{got} tokens of its clip", need, hint)])


def check_image_id(model: SwiftModel, folder: ModelFolder, *, tokenizer: Any) -> None:
    """Refuses a folder whose placeholder for frames has another id than ms-swift's template states.

    Args:
        model: What the folder is.
        folder: The folder.
        tokenizer: Its tokenizer.

    Raises:
        ModelError: when tokenizer or config.json say another id.
    """
    key = next((key for key in IMAGE_KEYS if key in folder.config), IMAGE_KEYS[0])
    stated = {
        f"tokenizer.json: {model.image_token}": tokenizer.convert_tokens_to_ids(model.image_token),
        f"config.json: {key}": folder.config.get(key),
    }
    need = f"{model.image_id}, which stands in ms-swift's template `{model.template}` as a number"
    problems = [Problem(where, show(got), need) for where, got in stated.items() if got != model.image_id]
    if problems:
        raise ModelError(f"model {folder.path}", problems)


@contextmanager
def quiet_swift() -> Iterator[None]:
    """Hides what ms-swift says of settings that nobody here can change."""
    logger = get_logger()
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


class BySizes:
    """An image processor that works once per list of sizes: for images of which nothing else counts.

    Args:
        processor: The image processor.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._made: dict[str, Any] = {}

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        """Returns what the image processor made of images of the same sizes, with one zero in place of all pixels."""
        sizes = str((_sizes_of(images), kwargs))
        if sizes not in self._made:
            if len(self._made) >= MAX_SIZES:
                self._made.clear()
            made = self._processor(images, **kwargs)
            made["pixel_values"] = _without_memory(made["pixel_values"])
            self._made[sizes] = made
        return copy.copy(self._made[sizes])

    def __getattr__(self, name: str) -> Any:
        if "_processor" not in vars(self):  # a copy that is being unpickled, in a process that loads data
            raise AttributeError(name)
        return getattr(self._processor, name)


def _sizes_of(images: Any) -> Any:
    """Returns the sizes of images, of one row or of several."""
    return [_sizes_of(each) for each in images] if isinstance(images, list | tuple) else images.size


def _without_memory(pixels: Any) -> Any:
    """Returns zeros of the shape of pixels, of one row or of several, that take the memory of one number."""
    if isinstance(pixels, list | tuple):
        return [_without_memory(each) for each in pixels]
    return torch.zeros((), dtype=pixels.dtype).expand(pixels.shape)


class WithoutVideos:
    """Stands before a processor of transformers, which would not be made without a half that is not needed here."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Checks all but the half for videos; called by transformers."""
        if argument is None and argument_name == "video_processor":
            return None
        return cast(Any, super()).check_argument_for_proper_class(argument_name, argument)


def open_processor(model: SwiftModel, folder: ModelFolder, *, tokenizer: Any) -> Any:
    """Builds transformers' processor of a folder: its tokenizer, and its image processor as it is without torchvision.

    The half for videos is left out: frames come as images. With torchvision, resizing would give other pixels.

    Args:
        model: What the folder is.
        folder: The folder.
        tokenizer: Its tokenizer.
    """
    stock = getattr(transformers, model.processor)
    values, _ = stock.get_processor_dict(str(folder.path), local_files_only=True)
    images = transformers.AutoImageProcessor.from_pretrained(
        str(folder.path), backend="pil", trust_remote_code=False, local_files_only=True
    )

    kind = type(stock.__name__, (WithoutVideos, stock), {})
    parts = {"image_processor": images, "tokenizer": tokenizer}
    parts |= {name: None for name in stock.get_attributes() if name not in parts}
    left_out = ("processor_class", "auto_map", *parts)
    return kind(**parts, **{key: value for key, value in values.items() if key not in left_out})


class AnySwiftRuntime(StockRuntime):
    """See `cvft.families.runtime.Runtime` for what each answer means."""

    def config(self, folder: ModelFolder) -> Any:
        """Builds transformers' configuration."""
        return load_config(folder)

    def tokenizer(self, folder: ModelFolder) -> Any:
        """Loads the fast tokenizer."""
        return load_tokenizer(folder)

    def load(self, folder: ModelFolder, how: Preprocessing, loading: Loading) -> Any:
        """Loads the weights into transformers' own class."""
        return load_model(folder, model_of(folder), encoder=self.encoder(folder, how), loading=loading)

    def encoder(self, folder: ModelFolder, how: Preprocessing) -> RowEncoder:
        """Opens ms-swift's template of the folder."""
        return open_encoder(folder, system=Inputs.of(how.fields).system, max_tokens=how.max_tokens)

    def tower(self, folder: ModelFolder, *, dtype: str, device: str) -> ClipTower:
        """Loads everything but the decoder, frozen, and what makes pixels for it."""
        torch_dtype = getattr(torch, BY_NAME[dtype].torch_name)
        tower = load_tower(folder, model_of(folder), dtype=torch_dtype, device=device)
        return ClipTower(tower, open_encoder(folder, system="", max_tokens=0))


def open_encoder(folder: ModelFolder, *, system: str, max_tokens: int) -> RowEncoder:
    """Opens ms-swift's template of a folder.

    Args:
        folder: The folder.
        system: System prompt; an empty one stands for none.
        max_tokens: Longest row, where that is more than the model was made for.
    """
    max_tokens = max(int(folder.config["text_config"]["max_position_embeddings"]), max_tokens)
    template = SwiftTemplate(model_of(folder), folder, max_tokens=max_tokens)
    return RowEncoder(template, system=system, max_tokens=max_tokens)


def model_of(folder: ModelFolder) -> SwiftModel:
    """Returns what a folder is."""
    return next(model for model in MODELS if [model.architecture] == folder.config["architectures"])


RUNTIME = AnySwiftRuntime()
