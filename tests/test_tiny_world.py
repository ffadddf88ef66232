"""The tiny world: scenes, questions with one answer, renderer, tokenizer, packed batches and the shipped checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cvft.families.cogvlm2_video.network.positions import position_ids_from_types
from cvft.shipped import SHIPPED
from cvft.tiny.batches import Packer, answer_topics, frame_targets, question_topic
from cvft.tiny.cogvlm2_video import CogVLM2VideoWriting
from cvft.tiny.questions import BASE_CATEGORIES, CATEGORIES, HELD_OUT_CATEGORY, SECONDS_CATEGORIES, ask, ask_some
from cvft.tiny.tokenizer import build_tokenizer
from cvft.tiny.world import (
    CLIP_FPS,
    COLOURS,
    MAX_SECONDS,
    PIXEL_MEAN,
    PIXEL_STD,
    SHAPES,
    Scene,
    SpriteBank,
    Thing,
    render_clip,
    sample_scene,
    scene_cells,
)

SCENE = Scene(
    num_seconds=6,
    things=(
        Thing(cell=0, shape="circle", colour="red", first_s=2, last_s=4),
        Thing(cell=3, shape="square", colour="blue", first_s=0, last_s=5, change_s=3, new_colour="green"),
    ),
)


def _scenes(num_scenes: int, *, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, num_seconds=int(rng.integers(2, MAX_SECONDS + 1))) for _ in range(num_scenes)]


def test_events_of_a_scene_have_distinct_seconds_in_order() -> None:
    for scene in _scenes(200, seed=0):
        seconds = [second for second, _, _ in scene.events()]
        assert 1 <= len(seconds) <= 4
        assert seconds == sorted(set(seconds))
        assert seconds[0] >= 1
        assert seconds[-1] < scene.num_seconds


def test_no_two_things_share_cell_or_look() -> None:
    for scene in _scenes(200, seed=1):
        cells = [thing.cell for thing in scene.things]
        looks = [(thing.shape, c) for thing in scene.things for c in (thing.colour, thing.new_colour) if c is not None]
        assert len(set(cells)) == len(cells)
        assert len(set(looks)) == len(looks)


def test_every_question_has_one_answer() -> None:
    for scene in _scenes(300, seed=2):
        for category in CATEGORIES:
            answers: dict[str, str] = {}
            for question, answer in ask(scene, category=category):
                assert answers.setdefault(question, answer) == answer


@pytest.mark.parametrize(
    ("category", "question", "answer"),
    [
        ("colour", "What colour is the circle?", "red"),
        ("shape", "What shape is the green object?", "square"),
        ("count", "How many objects are visible at second 1?", "1"),
        ("count", "How many objects are visible at second 2?", "2"),
        ("colour_at", "What colour is the square at second 2?", "blue"),
        ("what_at", "What is visible at second 5?", "green square"),
        ("visible_at", "Is the red circle visible at second 5?", "no"),
        ("appear", "At what second does the red circle appear?", "2"),
        ("disappear", "When does the red circle disappear?", "5"),
        ("change", "At what second does the blue square change colour?", "3"),
        ("first_seen", "At what second is the green square first visible?", "3"),
        ("last_seen", "At what second is the blue square last visible?", "2"),
        ("change_how", "How does the blue square change?", "from blue to green"),
        ("event_at", "What happens at second 3?", "blue square turns green"),
        ("event_order", "What happens first?", "red circle appears at 2"),
        ("event_order", "What happens last?", "red circle disappears at 5"),
        ("first_and_last", "When is the red circle first and last visible?", "at 2 then 4"),
        ("end", "At what second does the clip end?", "5"),
        ("interval", "When is the red circle visible?", "from 2 to 4"),
    ],
)
def test_answers_of_a_known_scene(category: str, question: str, answer: str) -> None:
    assert (question, answer) in ask(SCENE, category=category)


def test_ambiguous_questions_are_not_asked() -> None:
    questions = [question for question, _ in ask(SCENE, category="colour")]
    assert "What colour is the square?" not in questions


def test_held_out_category_is_not_in_pretraining() -> None:
    assert HELD_OUT_CATEGORY not in BASE_CATEGORIES
    assert set(SECONDS_CATEGORIES) < set(BASE_CATEGORIES)


def test_ask_some_never_repeats_a_question() -> None:
    rng = np.random.default_rng(3)
    for scene in _scenes(50, seed=3):
        asked = ask_some(scene, rng=rng, num_questions=8, weights=dict.fromkeys(BASE_CATEGORIES, 1.0))
        assert len({question for _, question, _ in asked}) == len(asked)


def test_clip_frames_show_the_state_half_a_second_early() -> None:
    frames = render_clip(SCENE, rng=np.random.default_rng(0)).astype(int)
    assert frames.shape == (CLIP_FPS * 5 + 3, 112, 112, 3)
    red = [frame[20:36, 20:36, 0].mean() > 120 for frame in frames]
    shown = [index / CLIP_FPS for index, is_red in enumerate(red) if is_red]
    assert (shown[0], shown[-1]) == (1.5, 4.5 - 1 / CLIP_FPS)


def test_rendering_is_a_function_of_the_seed() -> None:
    first, second = (render_clip(SCENE, rng=np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, second)
    cells = scene_cells([SCENE])
    assert np.array_equal(SpriteBank(1).render(cells), SpriteBank(1).render(cells))


def test_sprite_bank_puts_the_colours_where_the_cells_say() -> None:
    pixels = SpriteBank(2).render(scene_cells([SCENE]))
    assert pixels.shape == (1, 6, 3, 56, 56)
    assert pixels.dtype == np.float32
    rgb = pixels * np.array(PIXEL_STD)[:, None, None] + np.array(PIXEL_MEAN)[:, None, None]
    assert rgb[0, 2, :, 12:16, 12:16].mean((1, 2)).argmax() == 0
    assert rgb[0, 0, :, 40:44, 40:44].mean((1, 2)).argmax() == 2
    assert rgb[0, 5, :, 40:44, 40:44].mean((1, 2)).argmax() == 1


def test_frame_targets_mark_what_is_new_and_gone() -> None:
    num_kinds = len(SHAPES) * len(COLOURS)
    present, appeared, vanished = frame_targets(scene_cells([SCENE]), num_kinds=num_kinds)[0].split(num_kinds, dim=-1)
    red_circle = SHAPES.index("circle") * len(COLOURS) + COLOURS.index("red")
    assert present[:, red_circle].tolist() == [0, 0, 1, 1, 1, 0]
    assert appeared[:, red_circle].tolist() == [0, 0, 1, 0, 0, 0]
    assert vanished[:, red_circle].tolist() == [0, 0, 0, 0, 0, 1]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_every_time_index_is_one_token(tokenizer) -> None:
    for number in range(100):
        assert len(tokenizer.encode(str(number), add_special_tokens=False)) == 1


def test_the_shipped_tokenizer_is_the_one_that_the_script_builds(tokenizer) -> None:
    shipped = json.loads((SHIPPED["tiny"].folder / "tokenizer.json").read_text())["model"]
    built = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    assert built["vocab"] == shipped["vocab"]
    assert built["merges"] == shipped["merges"]


@pytest.mark.parametrize("text", ["from 2 to 4", "Grüße, 12345 ✓\n  tabs\tand spaces ", "What's that?"])
def test_any_text_survives_the_tokenizer(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_packed_rows_follow_the_published_layout(tokenizer) -> None:
    packer = Packer(CogVLM2VideoWriting(tokenizer, tokens_per_frame=6), num_questions=3)
    block_tokens = packer.writing.block_tokens
    batch = packer.pack([SCENE], rng=np.random.default_rng(0), weights={"colour": 1.0, "appear": 1.0, "change": 1.0})
    num_prefix = 1 + 6 * 7
    assert batch.input_ids.shape == (1, num_prefix + 3 * block_tokens)
    alone = torch.cat((batch.token_type_ids[:, :num_prefix], torch.zeros(1, block_tokens, dtype=torch.long)), dim=1)
    expected = position_ids_from_types(alone)[0]
    for slot in range(3):
        block = slice(num_prefix + slot * block_tokens, num_prefix + (slot + 1) * block_tokens)
        assert torch.equal(batch.position_ids[0, block], expected[num_prefix:])
        seen = batch.mask[0, 0, block] == 0
        assert seen[:, :num_prefix].all()
        assert seen[:, num_prefix:].sum() == block_tokens * (block_tokens + 1) // 2
        assert torch.equal(seen[:, block], torch.ones(block_tokens, block_tokens, dtype=torch.bool).tril())
    answers = [
        tokenizer.decode(batch.label_ids[batch.label_block == slot], skip_special_tokens=True) for slot in range(3)
    ]
    assert set(answers) <= {"red", "2", "3"}


def test_slots_of_an_answer_are_about_what_they_look_up() -> None:
    topics = answer_topics(
        "first_and_last", "When is the red circle first and last visible?", "at 2 then 4", second_places=[2, 5]
    )
    categories = [(place, BASE_CATEGORIES[topic[0]]) for place, topic in topics]
    assert categories == [(0, "first_seen"), (1, "first_seen"), (3, "last_seen"), (4, "last_seen")]
    assert {tuple(topic[1:]) for _, topic in topics} == {(SHAPES.index("circle") + 1, COLOURS.index("red") + 1, 0)}
    assert question_topic("count", "How many objects are visible at second 0?")[1:] == [0, 0, 1]


def test_shipped_checkpoint_is_small_and_complete() -> None:
    folder = SHIPPED["tiny"].folder
    names = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_record.json",
    }
    assert names <= {path.name for path in folder.iterdir()}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8 * 2**20
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
