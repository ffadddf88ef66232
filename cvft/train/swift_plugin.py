"""The seam: our model, template and row files registered with ms-swift, and what it must tell us while it trains.

ms-swift row {messages, videos} -> `CvftTemplate._encode` -> our processor's row -> groups -> `_data_collator` -> our batches

Only the worker imports this file. The template class takes everything from the plan, nothing from the environment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from swift.callbacks import TrainerCallback, callbacks_map
from swift.dataset import DatasetMeta, MessagesPreprocessor, register_dataset
from swift.model import ModelMeta, MultiModelKeys, register_model, register_model_arch
from swift.model.register import ModelLoader
from swift.template import Template, TemplateMeta, register_template
from swift.trainers.trainer_factory import TrainerFactory
from torch import Tensor
from transformers.integrations import TensorBoardCallback

from cvft.clips.source import CachedClips, ClipSource, DecodedClips
from cvft.data.video.loader import DecodeSettings
from cvft.families.cogvlm2_video.layout import time_indices
from cvft.families.cogvlm2_video.network.load import load_config, load_model
from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor
from cvft.families.cogvlm2_video.tokenizer import load_tokenizer
from cvft.plan.batching import RowFacts
from cvft.plan.plan import TRAIN_DATASET, VAL_DATASET, Plan
from cvft.runs import PROGRESS_FILE, RunFolder
from cvft.train.stop import StopSignals
from cvft.train.trainer import CvftTrainer
from cvft.weights.folder import ARCHITECTURE

NAME = "cvft_cogvlm2_video"
"""Model type, template and architecture under which everything is registered."""


@dataclass(frozen=True)
class TemplateSettings:
    """What the template needs from the plan, picklable for data loader workers.

    Args:
        model_view: Clean view of the model folder.
        template: Prompt template.
        decode: How clips become frames.
        clip_cache_bytes: Most bytes of decoded clips kept per process.
        features: Gives every clip's features in place of its frames, or None.
        label_logits_only: Whether only label tokens get logits.
    """

    model_view: Path
    template: str
    decode: DecodeSettings
    clip_cache_bytes: int
    features: CachedClips | None
    label_logits_only: bool


class CvftLoader(ModelLoader):
    """Loads configuration, tokenizer and weights through the model room; never any code of the folder."""

    default_trust_remote_code = False

    def __init__(
        self,
        *args: Any,
        rope_precision: str,
        quantize: str,
        embeddings_on_cpu: bool,
        runs_tower_always: bool,
        with_tower: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.rope_precision = rope_precision
        self.quantize = quantize
        self.embeddings_on_cpu = embeddings_on_cpu
        self.runs_tower_always = runs_tower_always
        self.with_tower = with_tower

    def get_config(self, model_dir: str) -> Any:
        """Reads config.json; called by ms-swift."""
        return load_config(Path(model_dir))

    def get_processor(self, model_dir: str, config: Any) -> Any:
        """Loads the tokenizer; called by ms-swift, whose word for it is processor."""
        tokenizer = load_tokenizer(Path(model_dir))
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
        return tokenizer

    def get_model(self, model_dir: str, config: Any, processor: Any, model_kwargs: Mapping[str, Any]) -> Any:
        """Loads the weights; called by ms-swift."""
        model = load_model(
            model_dir,
            dtype=model_kwargs["dtype"],
            attention=self.attn_impl,
            rope_precision=self.rope_precision,
            device_map=model_kwargs.get("device_map"),
            with_tower=self.with_tower,
            quantize=self.quantize,
            embeddings_on_cpu=self.embeddings_on_cpu,
        )
        model.model.runs_tower_always = self.runs_tower_always
        return model


class CvftTemplate(Template):
    """Encodes and collates rows exactly as evaluation does: through `CogVLM2VideoProcessor`."""

    def __init__(self, *args: Any, settings: TemplateSettings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.cvft_processor = CogVLM2VideoProcessor.from_pretrained(settings.model_view, template=settings.template)
        self.clips: ClipSource = settings.features or DecodedClips(
            self.cvft_processor, settings.decode, cache_bytes=settings.clip_cache_bytes
        )

    def _preprocess_inputs(self, inputs: Any) -> None:
        """Leaves the row as it is: ms-swift would load media and insert tags."""

    def _encode(self, inputs: Any) -> dict[str, Any]:
        turns = [message["content"] for message in inputs.messages]
        history = list(zip(turns[:-2:2], turns[1:-2:2], strict=True))
        encoded = self._encode_row(turns[-2], history, turns[-1], inputs.videos)
        return {**encoded, "input_ids": encoded["input_ids"].tolist(), "labels": encoded["labels"].tolist()}

    def _encode_row(
        self, query: str, history: list[tuple[str, str]], response: str, videos: list[str]
    ) -> dict[str, Tensor]:
        processor = self.cvft_processor
        # ms-swift encodes under inference mode; a tensor made there could not take part in a backward pass
        with torch.inference_mode(False), torch.no_grad():
            if not videos:
                return processor.encode(query, history=history, response=response)
            (video,) = videos
            clip = self.clips.load(Path(video))
            return processor.encode(
                query,
                pixel_values=clip.tensors.get("pixel_values"),
                vision_features=clip.tensors.get("vision_features"),
                time_indices=time_indices(clip.timestamps_s, sampling=self.settings.decode.sampling.strategy),
                history=history,
                response=response,
            )

    def _data_collator(
        self, batch: list[list[dict[str, Tensor]]], *, padding_to: int | None = None
    ) -> list[dict[str, Tensor]]:
        """Pads each micro-batch of a step."""
        assert padding_to is None, "cvft never asks ms-swift to pad to a fixed length"
        return [self.cvft_processor.collate(sequences, padding_side="right") for sequences in batch]

    def compute_sft_loss(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None, trainer: Any = None
    ) -> Any:
        """Runs the model on a micro-batch; called by ms-swift.

        The sum over the labels is divided by their number in the whole step. ms-swift would take the mean over the
        micro-batch and multiply it by its share, which is not a number where a rank has padding only.
        """
        label_logits_only = self.settings.label_logits_only
        return model(**inputs, label_logits_only=label_logits_only, num_items_in_batch=num_items_in_batch)


class CvftCallback(TrainerCallback):
    """Tells the launcher how far training is, and stops it when somebody asks for that."""

    def _tell(self, state: Any, **values: Any) -> None:
        if state.is_world_process_zero:
            line = {"time_s": time.time(), "step": state.global_step, "num_steps": state.max_steps, **values}
            with (Path(self.args.output_dir) / PROGRESS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reports the first step of this start, which is not 0 after a resume, and how the ranks talk."""
        if dist.is_initialized():
            print(f"ranks     {dist.get_rank()} of {dist.get_world_size()} over {dist.get_backend()}", flush=True)
        for module in kwargs["model"].modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                # peft would copy every input to fp32 for autocast to copy it back to bf16
                module.cast_input_dtype_enabled = False
        self._tell(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reports every step, and saves and stops after this one when asked to."""
        self._tell(state, waited_s=round(self.trainer.waited_s, 4))
        if self.trainer.must_stop():
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reports the memory of a GPU, and leaves the rest of the ending to others."""
        if torch.cuda.is_initialized():
            self._tell(state, peak_gpu_bytes=torch.cuda.max_memory_reserved())

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Reports the losses."""
        losses = {key: logs[key] for key in ("loss", "eval_loss") if key in logs} if logs else {}
        if losses:
            self._tell(state, **losses)


def register(plan: Plan, *, features: CachedClips | None, signals: StopSignals) -> None:
    """Registers model, template, row files, trainer and callback with ms-swift, once per process.

    Args:
        plan: The plan that this worker carries out.
        features: Gives every clip's features; without them, clips are decoded and encoded as they come.
        signals: Notes signals that ask this worker to stop.
    """
    settings = TemplateSettings(
        plan.model_view,
        plan.feeding.template,
        decode=plan.decode,
        clip_cache_bytes=plan.clip_cache_bytes,
        features=features,
        label_logits_only=plan.label_logits_only,
    )
    register_model_arch(
        MultiModelKeys(
            NAME,
            language_model="model.layers",
            vision_tower="model.vision",
            aligner="model.vision.linear_proj",
        )
    )
    register_model(
        ModelMeta(
            NAME,
            [],
            loader=partial(
                CvftLoader,
                rope_precision=plan.rope_precision,
                quantize=plan.quantize,
                embeddings_on_cpu=plan.embeddings_on_cpu,
                runs_tower_always=plan.runs_tower_always,
                with_tower=features is None,
            ),
            template=NAME,
            model_arch=NAME,
            architectures=[ARCHITECTURE],
            is_multimodal=True,
        )
    )
    # prefix, prompt and suffix are ms-swift's own way to a prompt; CvftTemplate does not use them
    template_class = partial(CvftTemplate, settings=settings)
    template_class.use_model = CvftTemplate.use_model  # type: ignore[attr-defined]
    register_template(TemplateMeta(NAME, prefix=[], prompt=["{{QUERY}}"], chat_sep=None, template_cls=template_class))
    for name, file in ((TRAIN_DATASET, "train.jsonl"), (VAL_DATASET, "val.jsonl")):
        path = plan.run_dir / "data" / "swift" / file
        register_dataset(DatasetMeta(dataset_name=name, dataset_path=str(path), preprocess_func=MessagesPreprocessor()))
    callbacks_map["cvft"] = CvftCallback
    callbacks_map["cvft_tensorboard"] = lambda args, trainer: TensorBoardCallback()
    # ms-swift names classes and constructs them itself: what they need to know waits on the class
    rows = RowFacts.from_json(RunFolder(plan.run_dir).row_shapes.read_text(encoding="utf-8"))
    CvftTrainer.plan, CvftTrainer.rows, CvftTrainer.signals = plan, rows, signals
    TrainerFactory.TRAINER_MAPPING["causal_lm"] = f"{CvftTrainer.__module__}.{CvftTrainer.__name__}"
