"""The tiny Qwen3-VL in the package: pre-training writes and encodes as the family does, plain transformers opens the folder."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import cvft
from cvft.data.rows import read_rows
from cvft.data.video.view import ClipView
from cvft.families.grid import Grid
from cvft.families.network.patches import preprocess_frames
from cvft.families.qwen_vl.network.load import load_tower
from cvft.families.qwen_vl.norms import HALF_NORM
from cvft.families.qwen_vl.runtime import RUNTIME
from cvft.families.table import find_family
from cvft.predict.infer import make_question
from cvft.recipe import load_recipe
from cvft.shipped import SHIPPED
from cvft.tiny.batches import Packer
from cvft.tiny.questions import BASE_CATEGORIES, CATEGORIES, HELD_OUT_CATEGORY, ask
from cvft.tiny.qwen3_vl import SIDE_PX, TinyQwen3VL, chosen_frames
from cvft.tiny.qwen3_vl_tokenizer import TIME_TAGS
from cvft.tiny.world import CLIP_FPS, MAX_SECONDS, sample_scene
from cvft.weights.folder import ModelFolder

ROOT = Path(__file__).parent.parent
FOLDER = SHIPPED["tiny-qwen3-vl"].folder
RECIPE = ROOT / "recipes" / "tiny_qwen3_vl.yaml"
ROWS = read_rows(ROOT / "datasets" / "tiny_shapes" / "val.jsonl")


@dataclass(frozen=True)
class Shown:
    view: ClipView
    tensors: dict = field(default_factory=dict)


@pytest.fixture(scope="module")
def tiny():
    """The pre-training's model with the shipped weights."""
    architecture = TinyQwen3VL(seed=0)
    architecture.model.load_state_dict(load_file(FOLDER / "model.safetensors"))
    architecture.model.eval()
    return architecture


@pytest.fixture(scope="module")
def encoder():
    """What feeds the demo."""
    folder = ModelFolder.of(FOLDER)
    return RUNTIME.encoder(folder, find_family(folder).preprocessing(load_recipe(RECIPE).recipe, folder))


def view_of(num_seconds):
    frames = tuple(chosen_frames(num_seconds))
    times = tuple(number / CLIP_FPS for number in frames)
    return ClipView(times, frames, CLIP_FPS * (num_seconds - 1) + 3, float(CLIP_FPS), 112, 112)


def scenes(num_seconds, num_scenes, seed=0):
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, num_seconds=num_seconds) for _ in range(num_scenes)]


def test_the_shipped_files_are_those_that_the_program_writes(tiny, tmp_path):
    tiny.write_files(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_text() == (FOLDER / path.name).read_text(), path.name
    names = {"model.safetensors", "training_record.json", *(path.name for path in tmp_path.iterdir())}
    assert {path.name for path in FOLDER.iterdir()} == names
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10_000_000


def test_a_time_tag_and_a_number_are_one_token_each_and_any_text_survives(tiny):
    tokenizer = tiny.writing.tokenizer
    for text in (*TIME_TAGS, *map(str, range(100))):
        assert len(tokenizer.encode(text, add_special_tokens=False)) == 1, text
    for text in ("from 2 to 4", "<12.5 seconds>", "Grüße, 12345 ✓\n  tabs\tand spaces ", "What's that?"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("num_seconds", range(2, MAX_SECONDS + 1))
def test_every_second_is_the_last_frame_of_a_grid(tiny, num_seconds):
    assert set(tiny.frame_seconds(num_seconds)[1::2]) == set(range(num_seconds))


@pytest.mark.parametrize("num_seconds", [2, 5, 8])
def test_packed_rows_are_those_that_the_family_lays_out(tiny, encoder, num_seconds):
    packer = Packer(tiny.writing, num_questions=3)
    (scene,) = scenes(num_seconds, 1)
    weights = dict.fromkeys(BASE_CATEGORIES, 1.0)
    batch = packer.pack([scene], rng=np.random.default_rng(0), weights=weights)
    prefix = packer.prefix(num_seconds)
    num_prefix, num_block = len(prefix.ids), packer.writing.block_tokens
    asked = [
        (packer.prompt(question), question, answer)
        for category in BASE_CATEGORIES
        for question, answer in ask(scene, category=category)
    ]
    for slot in range(3):
        block = slice(num_prefix + slot * num_block, num_prefix + (slot + 1) * num_block)
        ids = batch.input_ids[0, block].tolist()
        found = [(question, answer) for prompt, question, answer in asked if ids[: len(prompt)] == prompt]
        row = {}
        for question, answer in found:
            asked_row = replace(make_question(None, question), response=answer)
            row = encoder.encode(asked_row, [Shown(view_of(num_seconds))], with_response=True)
            length = len(row["input_ids"]) - num_prefix
            if row["input_ids"].tolist() == [*prefix.ids, *ids[:length]]:
                break
        assert row["input_ids"].tolist() == [*prefix.ids, *ids[:length]]
        assert torch.equal(row["position_ids"][:num_prefix], batch.position_ids[0, :num_prefix])
        assert torch.equal(row["position_ids"][num_prefix:], batch.position_ids[0, block][:length])
        labels = batch.label_ids[batch.label_block == slot].tolist()
        assert labels == [number for number in row["labels"].tolist() if number != -100]
        seen = batch.mask[0, 0, block] == 0
        assert seen[:, :num_prefix].all()
        assert torch.equal(seen[:, block], torch.ones(num_block, num_block, dtype=torch.bool).tril())


def test_the_longest_question_with_its_answer_fills_a_block(tiny):
    longest = 0
    for scene in scenes(MAX_SECONDS, 40):
        for category in CATEGORIES:
            for question, answer in ask(scene, category=category):
                num_answer = len(tiny.writing.tokenizer.encode(answer, add_special_tokens=False)) + 1
                longest = max(longest, len(tiny.writing.prompt(question)) + num_answer)
    assert longest == tiny.writing.block_tokens


def test_pre_training_encodes_clips_as_the_family_does(tiny):
    frames = np.random.default_rng(0).integers(0, 256, (6, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    grid = Grid(3, 4, 4)
    patches = preprocess_frames(frames, grid=grid, patch_px=16, temporal_patch=2, norm=HALF_NORM)
    tower = load_tower(ModelFolder.of(FOLDER), dtype=torch.float32, device="cpu")
    with torch.no_grad():
        theirs = tower.encode(patches, torch.tensor([[3, 4, 4]]))
        pixels = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        ours = tiny.features(pixels[None])
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.fixture(scope="module")
def loaded():
    with cvft.load("tiny-qwen3-vl") as model:
        yield model


def test_it_answers_what_it_was_taught_and_not_what_was_left_out(loaded):
    rows = [row for row in ROWS if row.extra["category"] in ("colour", "shape", "count", "first_seen", "last_seen")][
        :40
    ]
    rows += [row for row in ROWS if row.extra["category"] == HELD_OUT_CATEGORY][:20]
    answers = loaded.answer([{"query": row.query, "videos": [str(row.videos[0])]} for row in rows], max_new_tokens=16)
    right = [answer == row.response for row, answer in zip(rows, answers, strict=True)]
    assert sum(right[:40]) >= 36
    assert sum(right[40:]) <= 4


def test_plain_transformers_opens_the_folder_and_scores_alike(loaded):
    model, info = transformers.Qwen3VLForConditionalGeneration.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    predictor = loaded._predictor
    row = next(row for row in ROWS if row.extra["category"] == "colour")
    batch = predictor.encoder.collate([predictor.encode(row, with_response=True)])
    inputs = predictor.encoder.model_inputs(batch)
    with torch.inference_mode():
        theirs, ours = model(**inputs).logits, predictor.model(**inputs).logits
    assert (ours - theirs).abs().max() < 1e-4
    answer = batch["labels"][0] != -100
    assert torch.equal(theirs[0, :-1][answer[1:]].argmax(-1), batch["labels"][0][answer])


def test_plain_transformers_opens_the_tokenizer_and_its_template_writes_the_same_prompt(tiny):
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    template = json.loads((FOLDER / "chat_template.json").read_text())["chat_template"]
    content = [{"type": "video"}, {"type": "text", "text": "What shape is the red object?"}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True, tokenize=False
    )
    before, _, after = text.partition("<|vision_start|><|video_pad|><|vision_end|>")
    prefix = tiny.writing.prefix(4)
    assert tokenizer(before).input_ids == list(prefix.ids[:3])
    assert tokenizer(after).input_ids == tiny.writing.prompt("What shape is the red object?")
    assert tokenizer("<0.1 seconds>").input_ids == [prefix.ids[3]]


def test_the_record_says_how_it_was_trained_and_what_it_reached():
    record = json.loads((FOLDER / "training_record.json").read_text())
    assert record["model"] == "qwen3_vl"
    assert set(record["held_out_exact_match"]) == set(BASE_CATEGORIES)
