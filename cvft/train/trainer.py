"""ms-swift's trainer with five things done our way: order of rows, micro-batches, val loss, checkpoints, stopping.

Only the worker imports this file. `swift_plugin.register` puts `CvftTrainer` in ms-swift's place for it and hands it the plan.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from swift.dataloader import DataLoaderShard
from swift.trainers import Seq2SeqTrainer
from transformers import set_seed

from cvft.data.groups import FileShare, RowShape
from cvft.data.packing import BatchLimits
from cvft.families.family import IGNORED_LABEL
from cvft.families.runtime import Encoder, Runtime
from cvft.plan.batching import RowFacts
from cvft.plan.plan import WorkerPlan
from cvft.train.checkpoints import (
    ASIDE,
    disk_full_error,
    is_disk_full,
    prune,
    publish,
    remove_leftovers,
)
from cvft.train.marks import CheckpointMark
from cvft.train.sampler import GlobalBatchSampler, GroupedRows
from cvft.train.seeds import derive_seed
from cvft.train.selection import ends_early, read_measurements
from cvft.train.stop import STOP_FILE, StopSignals, forget_stop_signals
from cvft.train.val_answers import ValAnswers
from cvft.train.watch import SKIPPED_KEY, diverged_error, diverged_val_error, is_sound
from cvft.weights.finite import refuse_nonfinite
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE


def is_first_rank() -> bool:
    """Tells whether this is the rank that reports and publishes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def wait_for_all_ranks() -> None:
    """Returns when every rank has come here."""
    if dist.is_initialized():
        dist.barrier()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Adds up a tensor over all ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


class CvftTrainer(Seq2SeqTrainer):
    """Trains the same rows in the same steps for any number of ranks, and publishes whole checkpoints only."""

    plan: ClassVar[WorkerPlan]
    rows: ClassVar[RowFacts]
    signals: ClassVar[StopSignals]
    encoder: ClassVar[Encoder]
    runtime: ClassVar[Runtime]
    answers: ClassVar[ValAnswers | None]
    """All are set before ms-swift constructs the trainer."""

    control: Any
    _writes_aside = False
    _group_for_flags: Any = None
    _val_loader: Any = None
    waited_s = 0.0
    """Seconds that steps have waited for their rows."""
    step_waited_s = 0.0
    """The same of the last step alone."""
    _began_s = 0.0
    _losses: Sequence[torch.Tensor] = ()
    _skipped_now = False

    def must_stop(self) -> bool:
        """Tells whether any rank has been asked to stop; all ranks must call it together, and all get the same answer."""
        stop_file = Path(self.args.output_dir) / STOP_FILE
        asked = self._is_so_on_any_rank(self.signals.asked or (is_first_rank() and stop_file.exists()))
        if asked and is_first_rank():
            stop_file.touch()  # tells the launcher why training ends early
        return asked

    def _is_so_on_any_rank(self, is_so: bool) -> bool:
        """Tells all ranks alike whether something is so on any of them; all must call it together."""
        if not dist.is_initialized():
            return is_so
        flag = torch.tensor(int(is_so))
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._flag_group())
        return bool(flag)

    def _flag_group(self) -> Any:
        """The ranks as they talk on the host: a flag on the GPU would make every step wait for the device."""
        if self._group_for_flags is None:
            self._group_for_flags = dist.new_group(backend="gloo")
        return self._group_for_flags

    def get_train_dataloader(self, skip_batches: int = 0) -> Any:
        """Deals out shuffled rows; called by ms-swift, with `skip_batches` after a resume."""
        return self._make_loader(
            self.train_dataset,
            self.rows.train,
            limits=self.plan.limits,
            seed=self.args.data_seed,
            skip_batches=skip_batches,
            mix=self.rows.mix,
        )

    def _make_loader(
        self,
        rows: Any,
        shapes: Sequence[RowShape],
        *,
        limits: BatchLimits,
        seed: int | None,
        skip_batches: int = 0,
        mix: Sequence[FileShare] = (),
    ) -> Any:
        args = self.args
        sampler = self._make_sampler(shapes, limits=limits, seed=seed, skip_batches=skip_batches, mix=mix)
        return DataLoaderShard(
            GroupedRows(rows, encoder=self.encoder),
            device=self.accelerator.device,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            # without one of its own it draws from the generator that dropout draws from, once or in every epoch
            generator=torch.Generator(),
            worker_init_fn=partial(_start_loader_process, seed=args.seed, rank=args.process_index),
        )

    def _make_sampler(
        self,
        shapes: Sequence[RowShape],
        *,
        limits: BatchLimits,
        seed: int | None,
        skip_batches: int = 0,
        mix: Sequence[FileShare] = (),
    ) -> GlobalBatchSampler:
        return GlobalBatchSampler(
            shapes,
            limits=limits,
            num_ranks=self.args.world_size,
            rank=self.args.process_index,
            seed=seed,
            skip_batches=skip_batches,
            mix=mix,
        )

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Takes the rows of a step from the loader, and notes how long that took; called by transformers."""
        self._began_s = time.perf_counter()
        samples = super().get_batch_samples(*args, **kwargs)
        self.step_waited_s = time.perf_counter() - self._began_s
        self.waited_s += self.step_waited_s
        return samples

    @property
    def step_s(self) -> float:
        """Seconds since this step asked for its rows: neither a checkpoint nor a val pass is in it."""
        return time.perf_counter() - self._began_s

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        # what the loader yields is a whole step
        (step,) = batch_samples
        return super()._get_num_items_in_batch(step, device)

    def training_step(
        self, model: Any, inputs: Sequence[Mapping[str, Any]], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Passes through the micro-batches of a step; ranks exchange gradients in the last one only.

        Args:
            model: The model as the trainer has wrapped it.
            inputs: This rank's micro-batches, as many as on every other rank.
            num_items_in_batch: Label tokens of the step over all ranks.

        Returns:
            The sum of the losses, detached.
        """
        # whatever was drawn before, in this start or in an earlier one, this step draws the same numbers
        set_seed(derive_seed(self.args.seed, "step", self.state.global_step, self.args.process_index))
        losses = []
        for number, batch in enumerate(inputs, 1):
            is_last = number == len(inputs)
            self.accelerator.gradient_state._set_sync_gradients(is_last)
            # DeepSpeed learns from the line above which pass is the last
            waits = is_last or self.is_deepspeed_enabled
            with contextlib.nullcontext() if waits else self.accelerator.no_sync(model=model):
                losses.append(super().training_step(model, batch, num_items_in_batch))
        self._losses = losses
        return torch.stack(losses).sum()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Looks at a step's numbers before the optimizer takes them; called by transformers.

        ms-swift leaves a step whose gradient is nan out without a word, and infinity would make every weight nan. DeepSpeed has
        taken the step by now: its training ends before anything of it is saved.

        Returns:
            Norm of the gradient; None for a step that is left out.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        value = float(norm) if norm is not None else None
        is_bad = not is_sound(value) or not all(math.isfinite(loss.item()) for loss in self._losses)
        if not self._is_so_on_any_rank(is_bad):
            return norm
        num_skipped = self.num_skipped
        if num_skipped >= self.plan.max_skipped_steps:
            raise diverged_error(
                step=self.state.global_step + 1,
                num_steps=self.state.max_steps,
                loss=sum(loss.item() for loss in self._losses),
                norm=value,
                log=self.state.log_history,
                learning_rate=self._get_learning_rate(),
                dtype=self.plan.loading.dtype,
                rows=self._rows_without_loss(),
                num_skipped=num_skipped,
                max_skipped=self.plan.max_skipped_steps,
            )
        for parameter in model.parameters():
            parameter.grad = None  # without any, AdamW leaves weights and its own state as they are
        self._skipped_now = True
        return None

    @property
    def num_skipped(self) -> int:
        """Steps that were left out because their numbers were not finite, also before a resume."""
        return max((entry[SKIPPED_KEY] for entry in self.state.log_history if SKIPPED_KEY in entry), default=0)

    def report_skipped(self) -> None:
        """Logs that this step was left out, if it was."""
        if self._skipped_now:
            self._skipped_now = False
            will_log = self.control.should_log
            self.log({SKIPPED_KEY: self.num_skipped + 1})
            self.control.should_log = will_log  # a log clears it, and the step's own is still to come

    def _rows_without_loss(self) -> list[int]:
        """Train rows of this step, from 1, whose micro-batch has a loss that is not finite, of all ranks."""
        epoch, number = divmod(self.state.global_step, self.plan.steps_per_epoch)
        sampler = self._make_sampler(
            self.rows.train, limits=self.plan.limits, seed=self.args.data_seed, mix=self.rows.mix
        )
        sampler.set_epoch(epoch)
        batches = next(itertools.islice(sampler, number, None))
        bad = [batch for batch, loss in zip(batches, self._losses, strict=True) if not math.isfinite(loss.item())]
        rows = sorted({row + 1 for batch in bad for group in batch for row in group if row >= 0})
        if not dist.is_initialized():
            return rows
        of_ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(of_ranks, rows, group=self._flag_group())
        return sorted({row for rows in of_ranks for row in rows})

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measures the loss per label token over the val rows, however they are cut into batches and ranks.

        Args:
            eval_dataset: None; this and the next are part of the signature that transformers calls.
            ignore_keys: Not used.
            metric_key_prefix: Prefix of the names of the metrics.

        Returns:
            Loss and share of label tokens that are the likeliest ones.
        """
        assert eval_dataset is None, "cvft never gives ms-swift other val rows than those of the run"
        if self._val_loader is None:
            # kept, so that the decoded clips in its processes are
            self._val_loader = self._make_loader(self.eval_dataset, self.rows.val, limits=self.plan.limits, seed=None)
        model = self.model_wrapped if self.is_deepspeed_enabled else self.model
        model.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        for batch in (batch for step in self._val_loader for batch in step):
            inputs = self._prepare_inputs(batch)
            inputs.pop("compute_loss_func")
            with torch.no_grad(), self.compute_loss_context_manager(), self.template.forward_context(model, inputs):
                scored = self.runtime.loss(model, inputs, num_items=1)
            num_labels = (inputs["labels"][:, 1:] != IGNORED_LABEL).sum()
            sums += torch.stack([scored.loss.double(), scored.num_right, num_labels]).to(sums)
        loss_sum, num_right, num_labels = sum_over_ranks(sums).tolist()
        if not math.isfinite(loss_sum):
            step = self.state.global_step
            raise diverged_val_error(step=step, loss=loss_sum / num_labels, learning_rate=self._get_learning_rate())
        metrics = {
            f"{metric_key_prefix}_loss": loss_sum / num_labels,
            f"{metric_key_prefix}_token_acc": num_right / num_labels,
        }
        metrics |= {f"{metric_key_prefix}_{name}": value for name, value in self._answer_val_rows().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _answer_val_rows(self) -> dict[str, float]:
        """Answers the val rows that are asked for, and returns what the answers score; all ranks must call it together."""
        if self.answers is None:
            return {}
        # a generation passes by the forward that accelerate has wrapped, and with it by its autocast
        with self.accelerator.autocast():
            return self.answers.measure(
                self.accelerator.unwrap_model(self.model),
                step=self.state.global_step,
                share=(self.args.process_index, self.args.world_size),
                gather=self._join_over_ranks,
            )

    def _join_over_ranks(self, part: dict[int, Any]) -> dict[int, Any]:
        """Joins tables of all ranks; all must call it together."""
        if not dist.is_initialized():
            return part
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, part, group=self._flag_group())
        return {key: value for each in parts for key, value in each.items()}

    def ends_early(self) -> bool:
        """Tells whether the training ends with the last measurement; the same on every rank, and after a resume."""
        by = self.plan.select_by
        measured = read_measurements(self.state.log_history, by=by)
        return ends_early(measured, by=by, patience=self.plan.early_stop_evals)

    def _determine_best_metric(self, *args: Any, **kwargs: Any) -> bool:
        """Keeps no best one in the trainer's state: the marks of the checkpoints say which it is."""
        return False

    def _get_output_dir(self, trial: Any) -> str:
        # where transformers writes a checkpoint, and where it would prune
        folder = Path(self.args.output_dir)
        return str(folder / ASIDE if self._writes_aside else folder)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = Path(self.args.output_dir)
        if is_first_rank():
            remove_leftovers(folder)
            (folder / ASIDE).mkdir()
        wait_for_all_ranks()
        self._writes_aside = True
        try:
            super()._save_checkpoint(*args, **kwargs)
            wait_for_all_ranks()
            if is_first_rank():
                (weights,) = (folder / ASIDE).glob(f"*/{ADAPTER_WEIGHTS_FILE}")
                refuse_nonfinite(weights, subject=f"the adapter after step {self.state.global_step}")
                publish(folder, self._mark())
                plan = self.plan
                prune(folder, keep=plan.keep_checkpoints, by=plan.select_by, asked=plan.asked_checkpoint)
        except Exception as error:
            if is_disk_full(error, folder):
                remove_leftovers(folder)
                raise disk_full_error(folder) from error
            raise
        finally:
            self._writes_aside = False
        wait_for_all_ranks()

    def _mark(self) -> CheckpointMark:
        step = self.state.global_step
        measured = [entry for entry in self.state.log_history if entry["step"] == step and "eval_loss" in entry]
        numbers = {
            key: float(value)
            for key, value in (measured[-1] if measured else {}).items()
            if key.startswith("eval_") and isinstance(value, int | float)
        }
        loss = numbers.pop("eval_loss", None)
        return CheckpointMark(step, self.plan.strategy, self.plan.num_ranks, loss, numbers, self.ends_early())

    def _update_last_checkpoint_symlink(self, barrier: bool = True) -> None:
        """Makes no link: it would be a second name for what `find_last_checkpoint` finds."""


def _start_loader_process(worker_id: int, *, seed: int, rank: int) -> None:
    forget_stop_signals()
    set_seed(derive_seed(seed, "loader", worker_id, rank))
