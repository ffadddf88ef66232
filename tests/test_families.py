"""A family is one row of a table: what every family answers, which settings it claims, and a dummy that trains."""

import inspect
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from cvft.errors import ModelError, RecipeError
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.family import Family
from cvft.families.parts import count_parameters, linears_of, target_regex
from cvft.families.runtime import Encoder, Runtime, load_runtime
from cvft.families.settings import COMMON, COMMON_SECTIONS, check_settings, is_common
from cvft.families.table import FAMILIES, find_family
from cvft.recipe import recipe_from_dict
from cvft.recipe.names import iter_fields, section_names
from cvft.weights.folder import ModelFolder
from tests.opened import MAKERS
from tests.project import cvft, cvft_ok, files_under, make_project
from tests.tiny import TINY

DUMMY = """
from cvft.families import table
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.family import Capabilities


class Dummy:
    name, title, checkpoints, tags = "dummy", "Dummy", (), ()
    capabilities = Capabilities(groups=False, features=False, label_logits=False)
    settings = frozenset()
    architectures = ("DummyForVideo",)

    def recognises(self, config):
        return config.get("architectures") == ["DummyForVideo"]

    def tensors(self, config):
        return None

    def costs(self, config):
        return None

    def __getattr__(self, name):  # the network and its inputs are borrowed
        return getattr(COGVLM2_VIDEO, name)


table.FAMILIES = (*table.FAMILIES, Dummy())
"""
"""A family in twenty lines, as a `sitecustomize` that every process of a run imports."""


@pytest.fixture
def dummy(tmp_path) -> dict[str, str]:
    """An environment in which cvft has one more family."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DUMMY)
    paths = [str(tmp_path / "site"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture
def dummy_project(tmp_path) -> Path:
    """A project whose base is one of the dummy's."""
    folder = tmp_path / "base"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["DummyForVideo"]}))
    return make_project(
        tmp_path / "job",
        model={"path": str(folder)},
        train={"max_steps": 2, "save_steps": 2, "eval_steps": 2, "num_workers": 0},
    )


def test_a_dummy_family_trains_through_the_same_recipe(dummy, dummy_project):
    result = cvft_ok("train", dummy_project, env=dummy)
    run = dummy_project.parent / "runs" / "small"
    plan = json.loads((run / "plan.json").read_text())
    assert plan["worker"]["family"] == "dummy"
    assert plan["swift"]["model_type"] == plan["swift"]["template"] == "cvft_dummy"
    assert plan["worker"]["limits"]["max_rows_per_group"] == 1  # it cannot group
    assert plan["worker"]["features"] is None  # nor cache features
    assert "pixels    each clip is decoded once and cached" in result.stderr
    assert (run / "adapter" / "adapter_model.safetensors").is_file()


def test_what_a_family_does_not_model_is_said(dummy, dummy_project):
    result = cvft_ok("plan", dummy_project, env=dummy)
    assert "memory    by the model, per rank: not modelled for this family" in result.stdout
    assert "FLOPs     not modelled for this family" in result.stdout
    values = json.loads(cvft_ok("plan", dummy_project, "--json", env=dummy).stdout)
    assert values["memory_bytes"] is values["flops_per_epoch"] is None


def test_settings_without_effect_for_a_family_are_refused_all_at_once(dummy, dummy_project):
    asked = ["train.group_by_clip=on", "model.rope_precision=fp32", "video.cache_features=on", "model.template=vqa"]
    result = cvft("train", dummy_project, *asked, env=dummy)
    assert result.returncode == 2
    assert "train.group_by_clip: got `on`, need `auto` or `off`: Dummy has no such setting" in result.stderr
    assert "model.rope_precision: got `fp32`, need `checkpoint`: Dummy has no such setting" in result.stderr
    assert (
        "video.cache_features: got `on`, need `auto`, `pixels` or `off`: features of Dummy cannot be cached"
        in result.stderr
    )
    assert "model.template: got `vqa`, need `auto`" in result.stderr
    assert "hint: remove `model.template`" in result.stderr
    assert files_under(dummy_project.parent / "runs") == []


def test_settings_that_ask_for_nothing_are_taken(dummy, dummy_project):
    cvft_ok("plan", dummy_project, "train.group_by_clip=off", "video.cache_features=off", env=dummy)


@pytest.mark.parametrize("key", [key for key, _ in iter_fields()])
def test_every_setting_is_common_or_claimed_by_a_family(key):
    claiming = [family.name for family in FAMILIES if key in family.settings]
    assert is_common(key) != bool(claiming), claiming


def test_no_table_names_a_setting_that_does_not_exist():
    known = {key for key, _ in iter_fields()}
    assert known >= COMMON
    assert set(section_names()) >= set(COMMON_SECTIONS)
    for family in FAMILIES:
        assert known >= family.settings


def test_a_claimed_setting_is_not_refused():
    recipe = recipe_from_dict(
        {
            "name": "x",
            "model": {"path": "tiny", "rope_precision": "fp32", "template": "vqa"},
            "data": {"train": "t.jsonl"},
            "train": {"group_by_clip": "on"},
        }
    )
    check_settings(recipe, COGVLM2_VIDEO)
    with pytest.raises(RecipeError, match=r"model\.rope_precision"):
        check_settings(recipe, type("Bare", (), {"settings": frozenset(), "title": "Bare"})())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_answers_every_question(family, tmp_path):
    for protocol, answers in ((Family, family), (Runtime, load_runtime(family))):
        for name, asked in inspect.getmembers(protocol, inspect.isfunction):
            if not name.startswith("_"):
                given = inspect.signature(getattr(answers, name)).parameters
                assert list(given) == list(inspect.signature(asked).parameters)[1:], f"{protocol.__name__}.{name}"
    for name in Family.__annotations__:
        assert hasattr(family, name), name
    path = MAKERS[family.name](tmp_path / "model", family.name) if family.name in MAKERS else TINY
    folder = ModelFolder.of(path)
    assert find_family(folder) is family
    how = family.preprocessing(recipe_from_dict({"model": {"path": str(path)}, "data": {"train": "t"}}), folder)
    assert how.fields.keys() == family.fields
    encoder = load_runtime(family).encoder(folder, how)
    for name, _ in inspect.getmembers(Encoder, inspect.isfunction):
        assert name.startswith("_") or hasattr(encoder, name), name


def test_parts_cover_every_tensor_of_a_block_once():
    shapes, parts = COGVLM2_VIDEO.tensors(ModelFolder.of(TINY).config), COGVLM2_VIDEO.parts
    in_blocks = {name for name, shape in shapes.items() if re.match(rf"{parts.block}\.", name) and len(shape) == 2}
    assert {f"{name}.weight" for name in linears_of(shapes, target_regex(parts, "all-linear"))} == in_blocks
    assert count_parameters(parts, shapes).total > 1_000_000


def test_a_folder_of_no_family_is_refused_with_what_there_is(tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(
        ModelError, match=r"architectures: got .*LlamaForCausalLM.*need(.|\n)*cvft trains CogVLM2-Video"
    ):
        find_family(ModelFolder.of(folder))
