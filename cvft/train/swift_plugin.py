"""The seam: a family's model and inputs and our row files registered with ms-swift, and what it reports while it trains.

ms-swift row {messages, videos} -> `FamilyTemplate._encode` -> the family's encoder -> groups -> `_data_collator` -> our batches

Only the worker imports this file. The template class takes everything from the plan, nothing from the environment; nothing of
ms-swift's own vision code is used, for any family.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pyarrow.json
import torch
import torch.distributed as dist
from swift.callbacks import TrainerCallback, callbacks_map
from swift.dataset import DatasetMeta, register_dataset
from swift.dataset.loader import DatasetLoader, HfDataset
from swift.model import ModelMeta, MultiModelKeys, register_model, register_model_arch
from swift.model.register import ModelLoader
from swift.template import Template, TemplateMeta, register_template
from swift.trainers.trainer_factory import TrainerFactory
from torch import Tensor
from transformers.integrations import TensorBoardCallback
from transformers.modeling_outputs import CausalLMOutput

from cvft.clips.source import ClipSource, DecodedClips, open_store
from cvft.data.features.store import FeatureStore
from cvft.data.records import ClipRecord, read_records
from cvft.data.rows import Row
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.spec import ClipRef, from_text
from cvft.evaluate.metrics.rows import spread_evenly
from cvft.families.family import Family, Preprocessing
from cvft.families.runtime import Encoder, Loading, Runtime, load_runtime
from cvft.families.table import family_named
from cvft.jsonl import split_lines
from cvft.plan.batching import RowFacts
from cvft.plan.plan import Plan, WorkerPlan
from cvft.plan.recorded import read_stored
from cvft.plan.swift_arguments import TRAIN_DATASET, VAL_DATASET, registered_name
from cvft.runs import PROGRESS_FILE, RunFolder
from cvft.train.stop import StopSignals
from cvft.train.trainer import CvftTrainer
from cvft.train.val_answers import ValAnswers
from cvft.weights.folder import ModelFolder

LOG = logging.getLogger(__name__)

ROW_TYPES = pyarrow.schema(
    {
        "messages": pyarrow.list_(pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.string()})),
        "videos": pyarrow.list_(pyarrow.string()),
    }
)
"""Columns of a row file for ms-swift: what `cvft.train.row_files` writes."""

ROW_BLOCK_BYTES = 1 << 20
"""Bytes that are parsed at a time; a row has to fit in."""


@dataclass(frozen=True)
class TemplateSettings:
    """What the template needs from the plan, picklable for data loader workers.

    Args:
        runtime: Torch half of the model's family.
        encoder: Turns rows into inputs.
        decode: How clips become frames.
        clip_cache_bytes: Most bytes of decoded clips kept per process.
        cached: Store that holds every clip's features or pixels, and what is known of each clip; None to decode clips.
        label_logits_only: Whether only label tokens get logits.
    """

    runtime: Runtime
    encoder: Encoder
    decode: DecodeSettings
    clip_cache_bytes: int
    cached: tuple[FeatureStore, Mapping[ClipRef, ClipRecord]] | None
    label_logits_only: bool

    def open_clips(self) -> ClipSource:
        """Returns what gives clips, for one process."""
        if self.cached is not None:
            return open_store(*self.cached, self.encoder, cache_bytes=self.clip_cache_bytes)
        return DecodedClips(self.encoder, self.decode, cache_bytes=self.clip_cache_bytes)


class FamilyLoader(ModelLoader):
    """Loads configuration, tokenizer and weights through a family's runtime; never any code of the folder.

    Modules that are trained wholly are loaded in fp32, like the adapter beside them: peft trains a copy of them, and makes no
    fp32 of it by itself. In bf16, small steps would be rounded away, and so would weights that training goes on from.
    """

    default_trust_remote_code = False

    def __init__(
        self,
        *args: Any,
        runtime: Runtime,
        how: Preprocessing,
        loading: Loading,
        folder: ModelFolder,
        trained_wholly: Sequence[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.runtime = runtime
        self.how = how
        self.loading = loading
        self.folder = folder
        self.trained_wholly = trained_wholly

    def get_config(self, model_dir: str) -> Any:
        """Builds the configuration; called by ms-swift."""
        assert Path(model_dir) == self.folder.path, "ms-swift opens the plan's folder"
        return self.runtime.config(self.folder)

    def get_processor(self, model_dir: str, config: Any) -> Any:
        """Loads the tokenizer; called by ms-swift, whose word for it is processor."""
        return self.runtime.tokenizer(self.folder)

    def get_model(self, model_dir: str, config: Any, processor: Any, model_kwargs: Mapping[str, Any]) -> Any:
        """Loads the weights; called by ms-swift, which decides where they go."""
        loading = replace(self.loading, device_map=model_kwargs.get("device_map"))
        model = self.runtime.load(self.folder, self.how, loading)
        for name in self.trained_wholly:
            model.get_submodule(name).float()
        return model


class FamilyTemplate(Template):
    """Encodes and collates rows exactly as evaluation does: through the family's encoder."""

    def __init__(self, *args: Any, settings: TemplateSettings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.clips = settings.open_clips()

    def _preprocess_inputs(self, inputs: Any) -> None:
        """Leaves the row as it is: ms-swift would load media and insert tags."""

    def _encode(self, inputs: Any) -> dict[str, Any]:
        turns = [message["content"] for message in inputs.messages]
        history = tuple(zip(turns[:-2:2], turns[1:-2:2], strict=True))
        videos = tuple(map(from_text, inputs.videos or ()))
        row = Row(turns[-2], turns[-1], history, videos, source=Path(), line=0, system=inputs.system)
        # ms-swift encodes under inference mode; a tensor made there could not take part in a backward pass
        with torch.inference_mode(False), torch.no_grad():
            clips = [self.clips.load(clip) for clip in videos]
            encoded = self.settings.encoder.encode(row, clips, with_response=True)
        return {**encoded, "input_ids": encoded["input_ids"].tolist(), "labels": encoded["labels"].tolist()}

    def _data_collator(
        self, batch: list[list[dict[str, Tensor]]], *, padding_to: int | None = None
    ) -> list[dict[str, Tensor]]:
        """Pads each micro-batch of a step."""
        assert padding_to is None, "cvft never asks ms-swift to pad to a fixed length"
        return [self.settings.encoder.collate(sequences, padding_side="right") for sequences in batch]

    def compute_sft_loss(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None, trainer: Any = None
    ) -> Any:
        """Runs the model on a micro-batch; called by ms-swift.

        The sum over the labels is divided by their number in the whole step. ms-swift would take the mean over the
        micro-batch and multiply it by its share, which is not a number where a rank has padding only.
        """
        settings = self.settings
        scored = settings.runtime.loss(
            model, inputs, num_items=num_items_in_batch, label_logits_only=settings.label_logits_only
        )
        return CausalLMOutput(loss=scored.loss)


class RowFileLoader(DatasetLoader):
    """Reads a row file for ms-swift with types that are stated: guessed from the first rows, they would be wrong for later ones.

    Where no row among the first has a clip, `videos` would become a list of nothing; where all texts are dates, dates.
    """

    def _load_dataset_path(self, dataset_path: str, dataset_meta: DatasetMeta) -> HfDataset:
        """Returns the rows as they are written, which is ms-swift's standard form; called by ms-swift."""
        raw = Path(dataset_path).read_bytes()
        longest = max(len(line) for _, line in split_lines(raw))
        table = pyarrow.json.read_json(
            io.BytesIO(raw),
            read_options=pyarrow.json.ReadOptions(block_size=max(ROW_BLOCK_BYTES, longest + 1)),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=ROW_TYPES, unexpected_field_behavior="error"),
        )
        return HfDataset(table)


class CvftCallback(TrainerCallback):
    """Tells the launcher how far training is, and stops it when somebody asks for that."""

    def _report(self, state: Any, **values: Any) -> None:
        if state.is_world_process_zero:
            line = {"time_s": time.time(), "step": state.global_step, "num_steps": state.max_steps, **values}
            with (Path(self.args.output_dir) / PROGRESS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reports the first step of this start, which is not 0 after a resume, and how the ranks talk."""
        if dist.is_initialized():
            LOG.info("ranks     %d of %d over %s", dist.get_rank(), dist.get_world_size(), dist.get_backend())
        for module in kwargs["model"].modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                # peft would copy every input to fp32 for autocast to copy it back to bf16
                module.cast_input_dtype_enabled = False
        self._report(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reports every step, and saves and stops after this one when asked to."""
        self.trainer.report_skipped()
        trainer = self.trainer
        self._report(
            state,
            waited_s=round(trainer.waited_s, 4),
            step_s=round(trainer.step_s, 4),
            step_waited_s=round(trainer.step_waited_s, 4),
            memory_bytes=_memory_bytes(),
        )
        if self.trainer.must_stop():
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the training, with a checkpoint, when it has not got better for as long as asked."""
        if self.trainer.ends_early():
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reports the memory of a GPU, and leaves the rest of the ending to others."""
        if torch.cuda.is_initialized():
            self._report(state, peak_gpu_bytes=torch.cuda.max_memory_reserved())

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Reports the losses."""
        losses = {key: logs[key] for key in ("loss", "eval_loss") if key in logs} if logs else {}
        if losses:
            self._report(state, **losses)


class CvftTensorBoard(TensorBoardCallback):
    """Writes curves and answers for TensorBoard; what goes wrong there ends the writing and not the training."""

    def __init__(self, trainer: CvftTrainer) -> None:
        super().__init__()
        self.trainer = trainer
        self.is_over = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Opens the file."""
        self._try(lambda: super(CvftTensorBoard, self).on_train_begin(args, state, control, **kwargs))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Writes the numbers."""
        self._try(lambda: super(CvftTensorBoard, self).on_log(args, state, control, logs=logs, **kwargs))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the answers to val rows, where there are any."""
        answers = self.trainer.answers
        if state.is_world_process_zero and answers is not None:
            self._try(lambda: self._write_answers(answers.last, step=state.global_step))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes the file."""
        self._try(lambda: super(CvftTensorBoard, self).on_train_end(args, state, control, **kwargs))

    def _write_answers(self, lines: Sequence[Mapping[str, Any]], *, step: int) -> None:
        for line in lines if self.tb_writer is not None else ():
            text = "\n\n".join(f"**{key}** {line[key]}" for key in ("query", "expected", "prediction"))
            self.tb_writer.add_text(f"answers/row {line['line']}", text, step)

    def _try(self, write: Callable[[], object]) -> None:
        if self.is_over:
            return
        try:
            write()
        except Exception as error:
            self.is_over = True
            LOG.warning("tensorboard: nothing more is written: %s: %s", type(error).__name__, error)


def _memory_bytes() -> int:
    """What this process takes: the most that torch has held on its GPU so far, or without one, of the host's memory now."""
    if torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_reserved())
    return int(psutil.Process().memory_info().rss)


def _find_store(worker: WorkerPlan) -> tuple[FeatureStore, Mapping[ClipRef, ClipRecord]] | None:
    """Returns the store that was filled before, with what is known of its clips."""
    if worker.cache_key is None:
        return None
    return FeatureStore(worker.features_root, worker.cache_key), read_records(RunFolder(worker.run_dir).clip_records)


def register(plan: Plan, *, signals: StopSignals) -> None:
    """Registers model, template, row files, trainer and callback with ms-swift, once per process.

    Args:
        plan: The plan that this worker carries out.
        signals: Notes signals that ask this worker to stop.
    """
    worker = plan.worker
    family = family_named(worker.family)
    runtime, folder = load_runtime(family), ModelFolder.of(worker.model_view)
    settings = TemplateSettings(
        runtime=runtime,
        encoder=runtime.encoder(folder, worker.preprocessing),
        decode=worker.preprocessing.decode,
        clip_cache_bytes=worker.clip_cache_bytes,
        cached=_find_store(worker),
        label_logits_only=worker.label_logits_only,
    )
    _register_family(
        family,
        loader=partial(
            FamilyLoader,
            runtime=runtime,
            how=worker.preprocessing,
            loading=worker.loading,
            folder=folder,
            trained_wholly=plan.swift.get("modules_to_save", ()),
        ),
        settings=settings,
    )
    for name, file in ((TRAIN_DATASET, "train.jsonl"), (VAL_DATASET, "val.jsonl")):
        path = worker.run_dir / "data" / "swift" / file
        register_dataset(DatasetMeta(dataset_name=name, dataset_path=str(path), loader=RowFileLoader))
    callbacks_map["cvft"] = CvftCallback
    callbacks_map["cvft_tensorboard"] = lambda args, trainer: CvftTensorBoard(trainer)
    # ms-swift names classes and constructs them itself: what they need to know waits on the class
    rows = RowFacts.from_json(RunFolder(worker.run_dir).row_shapes.read_text(encoding="utf-8"))
    CvftTrainer.plan, CvftTrainer.rows, CvftTrainer.signals = worker, rows, signals
    CvftTrainer.encoder, CvftTrainer.runtime = settings.encoder, runtime
    CvftTrainer.answers = _val_answers(worker, settings)
    TrainerFactory.TRAINER_MAPPING["causal_lm"] = f"{CvftTrainer.__module__}.{CvftTrainer.__name__}"


def _val_answers(plan: WorkerPlan, settings: TemplateSettings) -> ValAnswers | None:
    if plan.answers is None:
        return None
    run = RunFolder(plan.run_dir)
    rows = read_stored(run.val_rows)
    return ValAnswers(
        [rows[number] for number in spread_evenly(len(rows), plan.answers.num_rows)],
        plan.answers,
        runtime=settings.runtime,
        encoder=settings.encoder,
        clips=settings.open_clips(),
        file=run.answers_file,
    )


def _register_family(family: Family, *, loader: Any, settings: TemplateSettings) -> None:
    name, parts = registered_name(family), family.parts
    vision = parts.vision.removesuffix(".")
    projector = list(parts.projector)
    register_model_arch(MultiModelKeys(name, language_model=parts.layers, vision_tower=vision, aligner=projector))
    register_model(
        ModelMeta(
            name,
            [],
            loader=loader,
            template=name,
            model_arch=name,
            architectures=list(family.architectures),
            is_multimodal=True,
        )
    )
    # prefix, prompt and suffix are ms-swift's own way to a prompt; FamilyTemplate does not use them
    template_class = partial(FamilyTemplate, settings=settings)
    template_class.use_model = FamilyTemplate.use_model  # type: ignore[attr-defined]
    register_template(TemplateMeta(name, prefix=[], prompt=["{{QUERY}}"], chat_sep=None, template_cls=template_class))
