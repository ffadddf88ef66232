"""What cvft relies on in ms-swift and peft. When one fails after an update, look at the seam again before moving the pin."""

import inspect
import re
from dataclasses import fields

import peft
import pytest
import torch
from swift import SftArguments
from swift.callbacks import TrainerCallback, callbacks_map
from swift.dataset.utils import LazyLLMDataset
from swift.model.register import ModelLoader
from swift.template import Template

from cvft.data.groups import RowShape
from cvft.families.cogvlm2_video.network.load import load_model
from cvft.families.cogvlm2_video.targets import target_regex
from cvft.plan.batching import ModelFacts, RowFacts
from cvft.plan.plan import compile_plan
from cvft.plan.prepare import inspect_model
from cvft.recipe import recipe_from_dict
from tests.test_engine_plan import feature_key
from tests.tiny import TINY


def test_every_argument_of_a_plan_exists():
    recipe = recipe_from_dict({"name": "x", "model": {"path": "tiny"}, "data": {"train": "t.jsonl"}})
    plan = compile_plan(
        recipe,
        model=inspect_model(TINY),
        rows=RowFacts([RowShape(None, 1, 9)], []),
        num_gpus_present=0,
        feature_key=feature_key,
    )
    known = {field.name for field in fields(SftArguments)}
    assert set(plan.swift_arguments) <= known
    assert isinstance(inspect_model(TINY), ModelFacts)


def test_defaults_that_the_plan_overrides_are_still_the_dangerous_ones():
    defaults = {field.name: field.default for field in fields(SftArguments)}
    assert defaults["strict"] is False  # a failing row would become another one
    assert defaults["add_version"] is True
    assert defaults["check_model"] is True  # calls a hub


def test_hooks_that_the_plugin_overrides_exist():
    for owner, names in (
        (ModelLoader, ("get_config", "get_processor", "get_model", "default_trust_remote_code")),
        (Template, ("_preprocess_inputs", "_encode", "_data_collator", "use_model")),
        (TrainerCallback, ("on_train_begin", "on_step_end", "on_log", "on_save")),
    ):
        for name in names:
            assert hasattr(owner, name), f"{owner.__name__}.{name}"
    assert isinstance(callbacks_map, dict)


def test_a_strict_dataset_raises_instead_of_replacing_the_row():
    def fail(row, **kwargs):
        raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        LazyLLMDataset([1, 2, 3], fail, strict=True)[0]


def test_peft_matches_the_whole_module_name():
    model = load_model(TINY, dtype=torch.float32)
    expression = target_regex("all-linear", train_vision_tower=True, train_projector=True)
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
