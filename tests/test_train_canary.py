"""What cvft relies on in ms-swift, transformers, accelerate, deepspeed and peft: names, parameters, who calls what.

When one fails after an update, look at the seam again before moving the pin.
"""

import inspect
import random
import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy
import peft
import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import GradientState
from accelerate.utils.deepspeed import DeepSpeedEngineWrapper
from swift import SftArguments
from swift.callbacks import TrainerCallback, callbacks_map
from swift.dataloader import DataLoaderShard
from swift.dataset import DatasetMeta, load_dataset, register_dataset
from swift.dataset.utils import LazyLLMDataset
from swift.model.register import ModelLoader
from swift.template import Template
from swift.trainers import Seq2SeqTrainer
from swift.trainers.mixin import DataLoaderMixin, SwiftMixin
from swift.trainers.trainer_factory import TrainerFactory
from transformers import set_seed
from transformers.integrations import TensorBoardCallback
from transformers.modeling_outputs import CausalLMOutput

from cvft.data.groups import RowShape
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.cogvlm2_video.network.load import load_model
from cvft.families.cogvlm2_video.tensors import PARTS
from cvft.families.parts import target_regex
from cvft.jsonl import to_jsonl
from cvft.plan.batching import RowFacts
from cvft.plan.job import open_job
from cvft.plan.machine import Machine
from cvft.plan.plan import compile_plan
from cvft.recipe import LoadedRecipe, recipe_from_dict
from cvft.train.seeds import derive_seed
from cvft.train.swift_plugin import CvftCallback, CvftTensorBoard, FamilyLoader, FamilyTemplate, RowFileLoader
from cvft.train.trainer import CvftTrainer
from cvft.train.watch import DEEPSPEED_OVERFLOW
from tests.tiny import TINY

HfTrainer = transformers.Trainer

EVENT = ["self", "args", "state", "control", "kwargs"]
HOOKS: dict[type, dict[str, tuple[type, list[str]]]] = {
    CvftTrainer: {
        "get_train_dataloader": (DataLoaderMixin, ["self", "skip_batches"]),
        "get_batch_samples": (HfTrainer, ["self", "epoch_iterator", "num_batches", "device"]),
        "_get_num_items_in_batch": (HfTrainer, ["self", "batch_samples", "device"]),
        "training_step": (HfTrainer, ["self", "model", "inputs", "num_items_in_batch"]),
        "_get_grad_norm": (HfTrainer, ["self", "model", "grad_norm"]),
        "evaluate": (HfTrainer, ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"]),
        "_determine_best_metric": (HfTrainer, ["self", "metrics", "trial"]),
        "_get_output_dir": (HfTrainer, ["self", "trial"]),
        "_save_checkpoint": (HfTrainer, ["self", "model", "trial"]),
        "_update_last_checkpoint_symlink": (SwiftMixin, ["self", "barrier"]),
    },
    FamilyTemplate: {
        "_preprocess_inputs": (Template, ["self", "inputs"]),
        "_encode": (Template, ["self", "inputs"]),
        "_data_collator": (Template, ["self", "batch", "padding_to"]),
        "compute_sft_loss": (Template, ["self", "model", "inputs", "num_items_in_batch", "trainer"]),
    },
    FamilyLoader: {
        "get_config": (ModelLoader, ["self", "model_dir"]),
        "get_processor": (ModelLoader, ["self", "model_dir", "config"]),
        "get_model": (ModelLoader, ["self", "model_dir", "config", "processor", "model_kwargs"]),
        "default_trust_remote_code": (ModelLoader, []),
    },
    CvftCallback: {
        "on_train_begin": (transformers.TrainerCallback, EVENT),
        "on_step_end": (transformers.TrainerCallback, EVENT),
        "on_evaluate": (transformers.TrainerCallback, EVENT),
        "on_train_end": (transformers.TrainerCallback, EVENT),
        "on_log": (transformers.TrainerCallback, EVENT),
    },
    CvftTensorBoard: {
        "on_train_begin": (TensorBoardCallback, EVENT),
        "on_evaluate": (transformers.TrainerCallback, EVENT),
        "on_train_end": (TensorBoardCallback, EVENT),
        "on_log": (TensorBoardCallback, ["self", "args", "state", "control", "logs", "kwargs"]),
    },
}
"""Everything of theirs that our classes override, where it is defined, and the names of its parameters."""


def test_every_argument_of_a_plan_exists():
    recipe = recipe_from_dict({"name": "x", "model": {"path": "tiny"}, "data": {"train": "t.jsonl"}})
    loaded = LoadedRecipe(recipe=recipe, path=Path("x.yaml"), chain_of_files=(), overrides=())
    job = open_job(loaded, trains=True, machine=Machine((), host_bytes=2**34))
    plan = compile_plan(job, RowFacts([RowShape((), 1, 9)], []))
    known = {field.name for field in fields(SftArguments)}
    assert set(plan.swift) <= known
    assert job.family is COGVLM2_VIDEO
    assert job.model.path == TINY


def test_defaults_that_the_plan_overrides_are_still_the_dangerous_ones():
    defaults = {field.name: field.default for field in fields(SftArguments)}
    assert defaults["strict"] is False  # a failing row would become another one
    assert defaults["add_version"] is True
    assert defaults["check_model"] is True  # calls a hub


HOOKS_BY_NAME = [(ours, name, *where) for ours, hooks in HOOKS.items() for name, where in hooks.items()]


@pytest.mark.parametrize(("ours", "name", "owner", "parameters"), HOOKS_BY_NAME, ids=lambda value: str(value)[-60:])
def test_what_we_override_is_there_and_takes_the_same(ours, name, owner, parameters):
    assert issubclass(ours, owner)
    assert name in vars(owner), f"{owner.__name__}.{name}"
    if parameters:
        assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


@pytest.mark.parametrize("ours", HOOKS, ids=lambda ours: ours.__name__)
def test_all_that_we_override_is_watched(ours):
    theirs = {name for base in ours.__mro__[1:-1] for name in vars(base)}
    overridden = {name for name in vars(ours) if name in theirs and not name.startswith(("__", "_abc_"))}
    assert overridden == set(HOOKS[ours])


def test_a_measurement_comes_before_a_checkpoint_and_both_before_the_end_that_it_asks_for():
    source = inspect.getsource(HfTrainer._maybe_log_save_evaluate)
    assert (
        source.index("self._evaluate(")
        < source.index("if self.control.should_save:")
        < source.index("_save_checkpoint(")
    )
    loop = inspect.getsource(HfTrainer)
    asked = "if self.control.should_epoch_stop or self.control.should_training_stop:"
    assert loop.index("self._maybe_log_save_evaluate(") < loop.index(asked)


def test_what_the_seam_calls_and_sets_exists():
    assert isinstance(callbacks_map, dict)
    assert list(inspect.signature(TrainerCallback).parameters) == ["args", "trainer"]
    assert hasattr(Template, "use_model")
    assert list(inspect.signature(Template.forward_context).parameters) == ["self", "model", "inputs"]
    for name in ("_prepare_inputs", "compute_loss_context_manager", "log"):
        assert hasattr(Seq2SeqTrainer, name), name


# --- who calls what


def test_the_factory_takes_our_trainer_by_its_dotted_name():
    assert TrainerFactory.TRAINER_MAPPING["causal_lm"] == "swift.trainers.Seq2SeqTrainer"
    mapping = {"causal_lm": f"{CvftTrainer.__module__}.{CvftTrainer.__name__}"}
    assert TrainerFactory.get_cls(SimpleNamespace(task_type="causal_lm"), mapping) is CvftTrainer
    assert "TRAINER_MAPPING" in inspect.getsource(TrainerFactory.get_trainer_cls)


def test_a_resume_asks_for_a_loader_that_skips():
    source = inspect.getsource(SwiftMixin._patch_skip_first_batches)
    assert "isinstance(dataloader, (DataLoaderShard" in source
    assert "self.get_train_dataloader(skip_batches=num_batches)" in source


def test_the_loader_takes_our_sampler_and_tells_it_the_epoch():
    class Sampler:
        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            yield from [["a", "b"], ["c"]]

    sampler = Sampler()

    loader = DataLoaderShard(
        {name: torch.tensor(ord(name)) for name in "abc"},
        device=torch.device("cpu"),
        batch_sampler=sampler,
        collate_fn=list,
        num_workers=0,
        pin_memory=False,
        persistent_workers=False,
        prefetch_factor=None,
        worker_init_fn=None,
        generator=torch.Generator(),
    )
    loader.set_epoch(3)
    assert sampler.epoch == 3
    state = torch.get_rng_state()
    assert [[int(item) for item in batch] for batch in loader] == [[97, 98], [99]]
    assert torch.equal(torch.get_rng_state(), state), "the loader draws from the generator that dropout draws from"


def test_one_call_seeds_all_that_a_step_may_draw_from():
    set_seed(derive_seed(42, "step", 3, 0))
    first = (random.random(), numpy.random.rand(), torch.rand(1).item())
    set_seed(derive_seed(42, "step", 3, 0))
    assert (random.random(), numpy.random.rand(), torch.rand(1).item()) == first
    set_seed(derive_seed(42, "step", 4, 0))
    assert all(a != b for a, b in zip(first, (random.random(), numpy.random.rand(), torch.rand(1).item()), strict=True))
    assert "torch.cuda.manual_seed_all(seed)" in inspect.getsource(set_seed)


def test_the_labels_of_a_step_are_counted_before_its_passes():
    told = []
    trainer = SimpleNamespace(_get_num_items_in_batch=lambda batches, device: told.append((batches, device)) or 7)
    assert HfTrainer.get_batch_samples(trainer, iter(["step", "next"]), 1, "cpu") == (["step"], 7)
    assert told == [(["step"], "cpu")]


def test_labels_are_counted_without_the_first_of_each_row():
    trainer = object.__new__(Seq2SeqTrainer)
    trainer.model_accepts_loss_kwargs, trainer.compute_loss_func, trainer._loss_shifts_labels = True, None, True
    trainer.args = SimpleNamespace(average_tokens_across_devices=True, world_size=1, n_gpu=0)
    trainer.model, trainer.is_deepspeed_enabled = None, False
    trainer.accelerator = SimpleNamespace(parallelism_config=None)
    batches = [{"labels": torch.tensor([[5, -100, 5], [-100, -100, 5]])}, {"labels": torch.tensor([[-100, 5, 5]])}]
    assert int(trainer._get_num_items_in_batch(batches, torch.device("cpu"))) == 4


def test_the_loss_of_an_output_without_logits_is_taken_as_it_is():
    """`FamilyTemplate.compute_sft_loss` returns `CausalLMOutput(loss=...)`; times the ranks, since they average gradients."""
    trainer = object.__new__(Seq2SeqTrainer)
    told = {}

    def compute_sft_loss(model, inputs, *, num_items_in_batch, trainer):
        told.update(inputs=inputs, num_items_in_batch=num_items_in_batch)
        return CausalLMOutput(loss=torch.tensor(3.0))

    trainer.template = SimpleNamespace(compute_sft_loss=compute_sft_loss, sequence_parallel_size=1)
    trainer.label_smoother, trainer.model_accepts_loss_kwargs = None, True
    trainer.accelerator = SimpleNamespace(num_processes=2)
    trainer.args = SimpleNamespace(
        enable_dft_loss=False, enable_channel_loss=False, average_tokens_across_devices=True, tuner_backend="peft"
    )
    model = trainer.model = torch.nn.Linear(1, 1)
    inputs = {"labels": torch.tensor([[-100, 1]]), "compute_loss_func": None}
    loss = trainer.compute_loss(model, inputs, num_items_in_batch=torch.tensor(9))
    assert float(loss) == 6
    assert set(told["inputs"]) == {"labels"}, "compute_loss_func is for the trainer only"
    assert told["num_items_in_batch"] == 9
    output = CausalLMOutput(loss=torch.tensor(3.0))
    assert output[0] == output["loss"] == 3


def test_prepared_inputs_carry_a_loss_function_that_evaluation_takes_out():
    assert "inputs['compute_loss_func'] = " in inspect.getsource(Seq2SeqTrainer._prepare_inputs)


def test_a_training_step_prepares_one_micro_batch_and_goes_backward():
    source = inspect.getsource(HfTrainer.training_step)
    assert "self._prepare_inputs(inputs)" in source
    assert "self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)" in source
    assert "self.accelerator.backward(loss, **kwargs)" in source
    assert "super().training_step(model, inputs, *args, **kwargs)" in inspect.getsource(Seq2SeqTrainer.training_step)


def test_whether_gradients_are_exchanged_is_ours_to_say():
    state = GradientState()
    try:
        for is_last in (False, True):
            state._set_sync_gradients(is_last)
            assert state.sync_gradients is is_last
    finally:
        state._set_sync_gradients(True)
    assert list(inspect.signature(Accelerator.no_sync).parameters) == ["self", "model"]
    # DeepSpeed learns from the same flag which pass is a step's last
    assert list(inspect.signature(DeepSpeedEngineWrapper.backward).parameters)[:3] == ["self", "loss", "sync_gradients"]
    assert "sync_gradients=self.sync_gradients" in inspect.getsource(Accelerator.backward)


def test_a_gradient_is_looked_at_before_the_optimizer_takes_it():
    source = inspect.getsource(HfTrainer._run_epoch)
    looks, steps = source.index("self._get_grad_norm(model, grad_norm=grad_norm)"), source.index("optimizer.step()")
    assert 0 < looks < steps
    # what we end is what ms-swift leaves out without a word
    assert "p.grad = None" in inspect.getsource(SwiftMixin._fix_grad_norm_nan)


def test_deepspeed_marks_a_gradient_that_is_not_finite():
    from deepspeed.runtime.zero import stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer, mask_nan_or_inf_with_val_inplace

    norm = torch.tensor(float("nan"))
    mask_nan_or_inf_with_val_inplace(norm, device=norm.device)
    assert norm.item() == DEEPSPEED_OVERFLOW
    assert "mask_nan_or_inf_with_val_inplace(" in inspect.getsource(DeepSpeedZeroOptimizer.get_grad_norm_direct)
    assert "err = torch.tensor(-1.0" in inspect.getsource(stage3)


def test_adamw_without_gradients_leaves_weights_and_state_alone():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], weight_decay=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()
    before, state = weight.detach().clone(), {k: v.clone() for k, v in optimizer.state[weight].items()}
    weight.grad = None
    optimizer.step()
    assert torch.equal(weight, before)
    assert all(torch.equal(optimizer.state[weight][key], value) for key, value in state.items())


def test_checkpoints_are_written_where_we_say():
    assert "self._get_output_dir(trial=trial)" in inspect.getsource(HfTrainer._save_checkpoint)
    source = inspect.getsource(SwiftMixin._save_checkpoint)
    assert "super()._save_checkpoint(*args, **kwargs)" in source
    assert "self._update_last_checkpoint_symlink()" in source
    assert "self._determine_best_metric(metrics=metrics, trial=trial)" in inspect.getsource(
        HfTrainer._maybe_log_save_evaluate
    )


def test_deepspeed_asks_its_table_before_it_compiles_an_operator():
    import deepspeed
    from deepspeed.comm.torch import build_shm_op
    from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder

    assert ShareMemCommBuilder.NAME == "deepspeed_shm_comm"
    assert "deepspeed.ops.__compatible_ops__.get(builder.NAME" in inspect.getsource(build_shm_op)
    table = deepspeed.ops.__compatible_ops__
    assert isinstance(table, dict)
    assert deepspeed.ops.__compatible_ops__ is table, "what is written into it stays"


def test_a_strict_dataset_raises_instead_of_replacing_the_row():
    def fail(row, **kwargs):
        raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        LazyLLMDataset([1, 2, 3], fail, strict=True)[0]


def test_peft_matches_the_whole_module_name():
    model = load_model(TINY, dtype=torch.float32)
    expression = target_regex(PARTS, "all-linear", train_vision_tower=True, train_projector=True)
    wanted = {name for name, module in model.named_modules() if re.fullmatch(expression, name)}
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert wanted == linear - {"lm_head"}
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=expression, r=2))
    found = {name.removeprefix("base_model.model.") for name, m in adapted.named_modules() if hasattr(m, "lora_A")}
    assert found == wanted


def test_peft_passes_what_our_forward_takes():
    source = inspect.getsource(peft.PeftModelForCausalLM.forward)
    for name in ("output_attentions", "output_hidden_states", "return_dict"):
        assert f"{name}={name}" in source


def test_peft_leaves_inputs_as_they_are_when_told():
    model = peft.get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(2, 2, dtype=torch.bfloat16)), peft.LoraConfig(target_modules=["0"])
    )
    (layer,) = (module for module in model.modules() if hasattr(module, "cast_input_dtype_enabled"))
    assert layer.lora_A["default"].weight.dtype == torch.float32
    inputs = torch.ones(1, 2, dtype=torch.bfloat16)
    assert layer.cast_input_dtype_enabled is True
    assert layer._cast_input_dtype(inputs, torch.float32).dtype == torch.float32
    layer.cast_input_dtype_enabled = False
    assert layer._cast_input_dtype(inputs, torch.float32).dtype == torch.bfloat16
    assert "self._cast_input_dtype(x, lora_A.weight.dtype)" in inspect.getsource(peft.tuners.lora.Linear.forward)


def messages_of(query, response, *videos):
    messages = [{"role": "user", "content": query}, {"role": "assistant", "content": response}]
    return {"messages": messages, "videos": list(videos)}


def test_rows_reach_ms_swift_as_they_are_whatever_the_first_ones_look_like(tmp_path):
    """Types were guessed from the first rows: no clip among 36,000 of them ended the training that came to one."""
    odd = "\u2028\x85\r\n\x00\x1f\U0001f600 <video>"
    dates = [messages_of("2020-01-01", "2020-01-01 10:00:00")] * 40_000
    rows = [*dates, messages_of(odd, "yes", "/a.mp4"), messages_of("x" * 3_000_000, "no")]
    for name, written in (("all", rows), ("dates", dates[:3])):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(to_jsonl(written).encode())
        register_dataset(DatasetMeta(dataset_name=name, dataset_path=str(path), loader=RowFileLoader))
        dataset, _ = load_dataset([name], strict=True, shuffle=False, seed=0)
        assert len(dataset) == len(written)
        for index in {0, 2, len(written) - 2, len(written) - 1}:
            assert dataset[index] == {**written[index], "dataset": str(path)}
