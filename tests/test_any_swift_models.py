"""What is stated of models that ms-swift's templates feed, held to ms-swift, transformers and their code."""

import ast
import functools
import inspect
import re
from pathlib import Path

import pytest
import torch
import transformers
from swift.model import MODEL_MAPPING
from swift.template import TEMPLATE_MAPPING, Template

from cvft.errors import ModelError
from cvft.families.any_swift.models import MODELS, REFUSED, UNREGISTERED
from cvft.families.parts import count_parameters
from cvft.families.table import FAMILIES, describe_checkpoints, find_family
from cvft.weights.folder import ModelFolder
from tests.any_swift_tiny import config_of, name_in_files
from tests.opened import Opened

TAKES_CLIPS = ("inputs.videos", "load_video", "pixel_values_videos")
"""What stands in a template that takes clips, and not images alone."""

READS = re.compile(r"""(?:get_env_args|environ\.get|getenv)\(\s*['"](\w+)['"]""")
HARMLESS = {
    "ROOT_IMAGE_DIR": "where images lie that are named by their paths; ours are handed over",
    "sampling_rate": "of sound",
    "vllm_num_frames": "for vLLM alone",
    "SWIFT_DEBUG": "prints more",
    "MAX_POSITIVE_SAMPLES": "for embeddings alone",
    "MAX_NEGATIVE_SAMPLES": "for embeddings alone",
}
"""Variables that ms-swift's templates read, and why none of them decides what becomes of our frames."""


@functools.cache
def classes_in(file: str) -> dict[str, str]:
    """The code of each class of a file; `inspect.getsource` would parse the file anew for each."""
    text = Path(file).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    found = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    return {node.name: "".join(lines[node.lineno - 1 : node.end_lineno]) for node in found}


def source_of(kind: type) -> str:
    return classes_in(inspect.getfile(kind))[kind.__name__]


def code_of(template: str, *, with_base: bool = False) -> str:
    """The code of a template's classes; that of what all of them are built on only when asked."""
    classes = [each for each in TEMPLATE_MAPPING[template].template_cls.__mro__ if issubclass(each, Template)]
    return "".join(source_of(each) for each in classes if with_base or each is not Template)


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: model.name)
def stock(request):
    """A kind of model, and transformers' own class of it at tiny size, without numbers."""
    kind, values = request.param, config_of(request.param.name)
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        return kind, getattr(transformers, kind.architecture)(config)


def test_names_are_those_of_ms_swift_and_transformers(stock):
    kind, _ = stock
    meta = MODEL_MAPPING[kind.swift_type]
    assert kind.architecture in meta.architectures
    assert meta.candidate_templates == [kind.template]
    assert (TEMPLATE_MAPPING[kind.template].default_system or "") == kind.default_system
    assert hasattr(transformers, kind.processor)


def test_parts_name_every_matrix_of_the_model_once(stock):
    kind, model = stock
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    linear = {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2 and ".weight" in name}
    parts = kind.parts
    of_blocks = rf"{parts.block}\.({'|'.join(map(re.escape, parts.linear))})"
    for name in linear:
        homes = [each for each in (of_blocks, parts.tower_linear, parts.projector_linear) if re.fullmatch(each, name)]
        is_table = "embed" in name or name == "lm_head"
        assert len(homes) == (0 if is_table else 1), name
    assert parts.embedding in shapes
    counts = count_parameters(parts, shapes)
    assert counts.tower > 0
    assert counts.projector > 0
    assert model.get_decoder() is model.get_submodule(kind.decoder)


def test_names_in_files_lead_to_the_loaded_model(stock):
    kind, model = stock
    spell = name_in_files if kind.renamed else str
    for name in model.state_dict():
        assert kind.module_of(spell(name)) == kind.module_of(name) == name


def test_no_environment_variable_decides_what_becomes_of_frames(stock):
    kind, _ = stock
    assert set(READS.findall(code_of(kind.template, with_base=True))) <= HARMLESS.keys()


def test_a_shell_full_of_settings_changes_no_input(tmp_path, monkeypatch):
    it = Opened(tmp_path / "it", "llava_onevision")
    (before,) = it.rows(num_rows=1, clip=it.clip(num_frames=2), seed=0)
    names = (
        "MAX_PIXELS",
        "VIDEO_MAX_PIXELS",
        "IMAGE_FACTOR",
        "FPS",
        "FPS_MAX_FRAMES",
        "NUM_FRAMES",
        "NFRAMES",
        "MAX_NUM",
    )
    for name in (*names, "VIDEO_SEGMENTS", "INPUT_SIZE"):
        monkeypatch.setenv(name, "1")
    encoder = it.runtime.encoder(it.folder, it.how)
    it.encoder = encoder
    (after,) = it.rows(num_rows=1, clip=it.clip(num_frames=2), seed=0)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_every_video_model_of_ms_swift_is_trained_or_refused_with_a_reason():
    trained = {name for family in FAMILIES for name in family.architectures}
    found = set()
    for meta in MODEL_MAPPING.values():
        native = {name for name in meta.architectures if hasattr(transformers, name)}
        if meta.is_multimodal and native:
            codes = map(code_of, meta.candidate_templates)
            found |= {name for code in codes if any(word in code for word in TAKES_CLIPS) for name in native}
    assert len(found) > 15
    assert found - trained == REFUSED.keys()
    registered = {name for meta in MODEL_MAPPING.values() for name in meta.architectures}
    assert all(hasattr(transformers, name) for name in UNREGISTERED)
    assert registered.isdisjoint(UNREGISTERED)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            '{"architectures": ["Gemma4ForConditionalGeneration"]}',
            "hint: ms-swift leaves its clips to transformers' video",
        ),
        ('{"architectures": ["SmolVLMForConditionalGeneration"]}', "hint: ms-swift has no template for it"),
        (
            '{"architectures": ["Molmo2"], "auto_map": {"AutoModel": "m.M"}}',
            "hint: config.json points at code of its folder",
        ),
    ],
)
def test_a_model_that_is_not_trained_is_refused_with_the_reason(tmp_path, config, said):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=re.escape(said)):
        find_family(ModelFolder.of(tmp_path))


def test_the_list_of_models_says_how_to_name_one():
    assert "no checkpoint by name: write the folder or hub id of any LlavaOnevisionForConditionalGeneration" in (
        describe_checkpoints()
    )
