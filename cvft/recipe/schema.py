"""The recipe: one frozen, typed value that says everything about a fine-tuning run.

A YAML file becomes a `Recipe` in `load.py`; a Python caller may build the same value directly. No field is read from
the machine, and validation touches no file: a recipe is right or wrong by itself. Each field says what it means, in
which unit, and what raising it costs; choices and bounds are in its type.

Refused are unknown keys, values of another type (a quoted number is text), and settings that would have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cvft.errors import Problem, RecipeError
from cvft.recipe.data_section import Data
from cvft.recipe.rules import ConflictError, find_conflicts
from cvft.recipe.training_rules import check_global_batch
from cvft.recipe.values import (
    HIGHEST_RANK,
    MANY,
    MANY_PROCESSES,
    MOST_FRAMES,
    FilePath,
    Files,
    RunName,
    Section,
    Targets,
    Text,
    WholeText,
    to_tuple,
)

DEFAULT_EPOCHS = 3.0
"""Epochs when a recipe states neither epochs nor steps.

Source: the published fine-tuning command for the first family in the ms-swift documentation.
"""

SelectBy = Literal[
    "eval_loss",
    "eval_token_acc",
    "eval_exact_match",
    "eval_token_f1",
    "eval_rouge_l",
    "eval_bleu",
    "eval_chrf",
    "eval_cider_d",
    "eval_label_accuracy",
    "eval_macro_f1",
    "eval_choice_accuracy",
    "eval_yes_no_accuracy",
    "eval_number_accuracy",
    "eval_interval_tiou",
    "eval_seconds_within_1_s",
]
"""What a checkpoint can be chosen by; of all but the first, more is better."""
Tracker = Literal["tensorboard", "wandb", "swanlab", "trackio", "mlflow"]


class Model(Section):
    """The checkpoint to start from, and how it computes."""

    path: Text
    """Model folder, relative to this recipe; `tiny` or `tiny-qwen3-vl` of the package; or `hf:owner/name`, `ms:owner/name`."""
    revision: Text | None = None
    """Branch, tag or commit of a hub id; without it, the main branch of today. The run's manifest holds its commit."""
    template: Literal["auto", "chat", "base", "vqa", "swift"] = "auto"
    """Token layout of a conversation. `auto` follows the checkpoint; `swift` is what ms-swift's own template feeds."""
    system: WholeText | None = None
    """What the model is told before each conversation. Without it, what it was released with; empty for nothing at all."""
    text_positions: Literal["released", "transformers5"] = "released"
    """Where the text after a clip goes on in Qwen2.5-VL: as its makers and vLLM count, or as transformers from 5.3 on does."""
    grid_seconds: Literal["exact", "truncated"] = "exact"
    """Seconds between frames in Qwen2.5-VL's positions: as they are, or cut to whole ones, as transformers before 5 did."""
    clip_tags: Literal["released", "transformers5"] = "released"
    """Tags around a clip in Qwen3-VL and its like: as released, or with the outer pair that transformers from 5.10 on writes."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Precision of the frozen weights and of the computation. fp32 takes twice the memory and more time."""
    rope_precision: Literal["checkpoint", "fp32"] = "checkpoint"
    """Precision of the rotary table: as in the published code, or exact, which changes the logits slightly."""
    quantize: Literal["none", "nf4", "int8"] = "none"
    """Hold the frozen decoder blocks in 4 or 8 bits, in training and in answers: less memory, slower, and a less exact model."""
    embeddings_on_cpu: bool = False
    """Keep the input embedding in the host's memory: 1 GB less on the GPU with the published model, a copy per micro-batch."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention kernel. `eager` is slow and keeps every weight in memory."""


class Video(Section):
    """How a clip becomes frames."""

    sampling: Literal["auto", "chat", "base", "uniform", "fps", "segments"] = "auto"
    """Which frames are taken. `chat`: one per second; `base`: of a minute; `uniform`, `segments`: of it all; `fps`: at a rate."""
    max_frames: Annotated[int, Field(ge=1, le=MOST_FRAMES)] | None = None
    """Most frames of a clip; without it, as many as the model was made for. Each costs tokens, and so memory and time."""
    min_frames: Annotated[int, Field(ge=1, le=MOST_FRAMES)] | None = None
    """Fewest frames of a clip with sampling `fps`, where it has so many; without it, the model's own."""
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Frames per second with sampling `fps`; without it, the model's own."""
    min_frame_tokens: Annotated[int, Field(ge=1, le=MANY)] | None = None
    """Fewest tokens of two frames, which some models take as one; smaller frames are scaled up. Without it, the model's own."""
    max_frame_tokens: Annotated[int, Field(ge=1, le=MANY)] | None = None
    """Most tokens of two frames, which some models take as one; larger frames are scaled down. Without it, the model's own."""
    max_clip_tokens: Annotated[int, Field(ge=1, le=MANY)] | None = None
    """Most tokens of a whole clip, for models that scale frames; those of a longer one are scaled down further."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """Library that decodes; never replaced by another behind your back."""
    cache_features: Literal["auto", "on", "pixels", "off"] = "auto"
    """Keep each clip's features on disk, or its `pixels`. `auto`: features if the tower is frozen and they fit; else pixels."""
    cache_limit_gb: Annotated[float, Field(gt=0, le=MANY)] | None = None
    """Most disk for the features or pixels of a run's clips, in GB. Without it, `auto` takes up to half of what is free."""
    timeout_s: float = Field(default=60.0, gt=0, le=MANY)
    """Seconds one clip may take to decode before it counts as bad."""
    memory_gib: float = Field(default=4.0, gt=0, le=MANY)
    """Memory that decoding may take per process, in GiB. Higher lets larger clips in, and hostile ones."""


class Lora(Section):
    """The adapter."""

    targets: Targets = "qkv"
    """Modules that get an adapter. `all-linear` learns more than `qkv` and costs several times its parameters."""
    rank: int = Field(default=8, ge=1, le=HIGHEST_RANK)
    """Rank of each update. Adapter weights and optimizer state grow in proportion."""
    alpha: int = Field(default=32, ge=1, le=MANY)
    """Numerator of the scale alpha/rank of each update. Raising it acts like a higher learning rate."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of adapter inputs zeroed in training. Higher resists overfitting and learns more slowly."""
    dora: bool = False
    """Learn each update's magnitude and direction apart. Often better at low rank; slower steps."""
    rslora: bool = False
    """Scale by alpha/sqrt(rank), so that a high rank keeps its effect."""
    train_vision_tower: bool = False
    """Put adapters on the vision tower too. Costs its activations; features can no longer be cached, pixels can."""
    train_projector: bool | Literal["full"] = False
    """Put adapters on the layers between vision tower and language model too. `full` trains all of their own weights."""


class Optim(Section):
    """AdamW and the learning-rate schedule."""

    learning_rate: float = Field(default=1e-4, gt=0, le=MANY)
    """Peak learning rate. Too high diverges, too low learns nothing in the epochs given."""
    weight_decay: float = Field(default=0.1, ge=0, le=MANY)
    """Pull of the adapter weights towards zero per step, relative to the learning rate."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from zero to its peak."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after warm-up."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=MANY)
    """Gradients are scaled down to this norm when they exceed it."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the running mean of gradients; higher smooths more."""
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the running mean of squared gradients; higher adapts more slowly."""


class Train(Section):
    """How long and in which portions."""

    epochs: Annotated[float, Field(gt=0, le=MANY)] | None = None
    """Passes over the train rows; time grows in proportion."""
    max_steps: Annotated[int, Field(ge=1, le=MANY)] | None = None
    """Optimizer steps, instead of epochs."""
    resume_from: FilePath | None = None
    """Finished run, or a checkpoint of one, whose adapter this run starts from. Optimizer and schedule start anew."""
    global_batch_rows: int = Field(default=16, ge=1, le=MANY)
    """Rows per optimizer step over all ranks. More gives smoother and fewer steps."""
    micro_batch_rows: int = Field(default=1, ge=1, le=MANY)
    """Rows one rank computes at a time, or groups of as many tokens. Activation memory grows in proportion."""
    group_by_clip: Literal["auto", "on", "off"] = "auto"
    """Train rows of one clip as one sequence that holds the clip once: the same loss, several times faster."""
    max_rows_per_group: Annotated[int, Field(ge=2, le=MANY)] | None = None
    """Most rows of a group. Without it, up to 8, and so few that a step holds rows of four clips. More is faster."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Recompute activations in the backward pass: less memory, a third more time. `auto` does when they would not fit."""
    logging_steps: int = Field(default=5, ge=1, le=MANY)
    """Steps between two points of the loss curve."""
    save_steps: Annotated[int, Field(ge=1, le=MANY)] | None = None
    """Steps between checkpoints; without it, an epoch, or as many as are 10 steps. Fewer steps lose less when killed."""
    eval_steps: Annotated[int, Field(ge=1, le=MANY)] | None = None
    """Steps between measurements of the val loss; without it, an epoch, or as many as are 10 steps."""
    keep_checkpoints: int = Field(default=2, ge=1, le=MANY)
    """Newest checkpoints kept on disk; the best one by `select_by` stays as well, and one that `export.checkpoint` names."""
    eval_answers: Annotated[int, Field(ge=1, le=MANY)] | None = None
    """Val rows that are answered whenever the val loss is measured, for curves and examples. Takes the time of the answers."""
    select_by: SelectBy = "eval_loss"
    """What makes a checkpoint the best one: the val loss, or a metric of the val rows that `eval_answers` has answered."""
    early_stop_evals: Annotated[int, Field(ge=1, le=MANY)] | None = None
    """Measurements in a row that are not better by `select_by`, after which the training ends. Without it, all steps are done."""
    report_to: Annotated[tuple[Tracker, ...], BeforeValidator(to_tuple)] = ("tensorboard",)
    """Where curves and answers are sent while it trains; `[]` is nowhere. Addresses and keys come from the environment."""
    max_skipped_steps: int = Field(default=0, ge=0, le=MANY)
    """Steps that may be left out, all together, because their loss or gradient is not finite. One more ends the training."""
    num_workers: int = Field(default=1, ge=0, le=MANY_PROCESSES)
    """Processes per rank that prepare rows; 0 prepares them in the training process. Each takes memory."""

    @model_validator(mode="before")
    @classmethod
    def _epochs_by_default(cls, values: object) -> object:
        if isinstance(values, Mapping) and "epochs" not in values and values.get("max_steps") is None:
            return {**values, "epochs": DEFAULT_EPOCHS}
        return values


class Parallel(Section):
    """How the work is spread over ranks."""

    strategy: Literal["single", "ddp", "zero1", "zero2", "zero2_offload", "zero3"] = "single"
    """One process, copies of the model, or DeepSpeed stages; a higher stage shards more memory and talks more."""
    num_gpus: Annotated[int, Field(ge=1, le=MANY_PROCESSES)] | Literal["auto"] = "auto"
    """Ranks on each machine: one per GPU, or processes on a CPU. `auto` takes every GPU, or one with `single`."""
    num_nodes: int = Field(default=1, ge=1, le=MANY_PROCESSES)
    """Machines that train together, all with the same number of GPUs and one shared file system."""
    node_rank: Annotated[int, Field(ge=0, le=MANY)] | None = None
    """Which of them this one is, from 0; best given on the command line of each."""
    rendezvous: Text | None = None
    """`host:port` at which the first of several machines is reached by the others."""
    rendezvous_timeout_s: float = Field(default=600, gt=0, le=MANY)
    """Seconds that the machines wait for each other."""
    deepspeed_config: FilePath | None = None
    """DeepSpeed configuration of your own (JSON) in place of ms-swift's preset for the strategy."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` takes a GPU where there is one."""
    num_threads: int = Field(default=1, ge=1, le=MANY_PROCESSES)
    """CPU threads per rank; another count rounds sums differently. Small models gain nothing from more."""


class Export(Section):
    """The merged model and its verification."""

    checkpoint: Literal["best", "last"] | Annotated[int, Field(ge=1, le=MANY)] = "last"
    """Which checkpoint becomes the adapter, and is merged and evaluated: the last, the best by `train.select_by`, or a step."""
    merge: bool = True
    """Write base and adapter as one model folder, as large as the base."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the merged weights; `auto` keeps the model's."""
    verify_rows: int = Field(default=8, ge=1, le=MANY)
    """Val rows on which adapter and merged model must agree; time grows in proportion."""
    keep_remote_code: bool = False
    """Take the base's code files and `auto_map` along, for tools that run them; without, transformers needs cvft."""


class Eval(Section):
    """Generation on the val rows, and its comparison with the base model."""

    batch_rows: int = Field(default=4, ge=1, le=MANY)
    """Rows answered at a time. Faster; cache memory grows in proportion."""
    max_new_tokens: int = Field(default=128, ge=1, le=MANY)
    """Longest answer, in tokens. A longer one is cut there and counted as it stands."""
    compare_base: bool = True
    """Answer with the base model too, which takes the same time again."""
    compare_blind: bool = True
    """Ask without the clips too: what can be guessed from the questions alone. Prompts are short, so it takes less time."""
    num_rows: Annotated[int, Field(ge=1, le=MANY)] | None = None
    """Only this many rows, from the head of the val file; the metrics state the count. Fewer is faster and noisier."""
    probes: Files = ()
    """Files of rows that training is not about: base and tuned model answer them, and the report says what was unlearnt."""


class Output(Section):
    """Where runs go."""

    root: FilePath = Path("runs")
    """Folder that holds one folder per run, relative to the current directory."""
    features: FilePath | None = None
    """Folder that keeps features or pixels for all runs: 5.5 or 14 MB per clip of the published model. Without it, in `root`."""


class Recipe(Section):
    """Everything about one run; the sections hold the settings."""

    name: RunName | None = None
    """Name of the run's folder, in letters of any script; without it, the recipe's file name."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Decides the adapter's first weights, the order of rows, dropout and the val split."""
    model: Model
    data: Data
    video: Video = Video()
    lora: Lora = Lora()
    optim: Optim = Optim()
    train: Train = Train()
    parallel: Parallel = Parallel()
    export: Export = Export()
    eval: Eval = Eval()
    output: Output = Output()

    @model_validator(mode="after")
    def _no_conflicts(self) -> Recipe:
        conflicts = find_conflicts(self)
        if conflicts:
            raise ConflictError("recipe", conflicts)
        return self

    @property
    def run_dir(self) -> Path:
        """Folder of this run. A recipe built in Python needs a `name` for it; a loaded one has it."""
        if self.name is None:
            raise RecipeError("recipe", [Problem("name", "nothing", "the name of the run's folder")])
        return self.output.root / self.name

    def accumulation_steps(self, *, num_ranks: int) -> int:
        """Micro batches that each rank adds up into one optimizer step.

        Args:
            num_ranks: Ranks that really run; known only on the machine when `parallel.num_gpus` is `auto`.

        Raises:
            RecipeError: the global batch cannot be shared out evenly.
        """
        problem = check_global_batch(self, num_ranks=num_ranks)
        if problem is not None:
            raise RecipeError(f"recipe {self.name}" if self.name else "recipe", [problem])
        return self.train.global_batch_rows // (self.train.micro_batch_rows * num_ranks)

    @property
    def merged_dtype(self) -> str:
        """Precision of the merged weights."""
        return self.model.dtype if self.export.dtype == "auto" else self.export.dtype

    @property
    def attention(self) -> str | None:
        """Transformers' name of the attention implementation, or None for its choice."""
        return None if self.model.attention == "auto" else self.model.attention

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values that JSON and YAML can hold, every setting stated."""
        return self.model_dump(mode="json")
