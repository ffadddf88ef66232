"""Qwen's video families against the makers' own code: ids, positions and pixels to the bit, logits and greedy answers.

`make_qwen_goldens.py` wrote the vectors: with the transformers that the makers released their models with, and with 5.19.0, which
disagrees with them in three places.
"""

import hashlib

import pytest
import torch
import transformers

from cvft.families.network.positions import next_positions
from tests.golden_files import SHIPPED
from tests.qwen_cases import CASES, IMAGE_CASES, MODEL_CASES, NUM_NEW_TOKENS, SEVERAL_CASES, SHOWN_IDS
from tests.qwen_golden import (
    BY_NAME,
    IMAGE_NAMES,
    MODEL_NAMES,
    NAMES,
    SEVERAL_NAMES,
    golden,
    grids_of,
    lay_out,
    pixels_of,
    positions_of,
)
from tests.qwen_tiny import CLASSES, KINDS, MOE_KINDS, make_qwen_folder

MAX_LOGIT_ERROR = 2e-5
ENDS = ("json", "npz")


@pytest.fixture(scope="session")
def qwen_folders(tmp_path_factory):
    return {kind: make_qwen_folder(tmp_path_factory.mktemp(kind), kind) for kind in (*KINDS, *MOE_KINDS)}


def test_every_case_is_there():
    """One that is gone would make its tests vanish."""
    names = {*NAMES, *MODEL_NAMES, *IMAGE_NAMES, *SEVERAL_NAMES}
    assert {path.name for path in (SHIPPED / "qwen_vl").iterdir()} == {
        f"{name}.{end}" for name in names for end in ENDS
    }
    for name in names:
        of_several = SEVERAL_CASES if name in SEVERAL_NAMES else CASES
        cases = [case.name for case in (IMAGE_CASES if name in IMAGE_NAMES else of_several)]
        has_all = name in (*NAMES, *IMAGE_NAMES, *SEVERAL_NAMES)
        assert set(golden(name).cases) == set(cases if has_all else MODEL_CASES)
        assert len(golden(name).sizes) == (0 if name in (*IMAGE_NAMES, *SEVERAL_NAMES) else 300)
        with_logits = {key.partition("/")[0] for key in golden(name).arrays if key.endswith("/logits")}
        assert with_logits == set(golden(name).model_cases)


@pytest.mark.parametrize("name", [*NAMES, *IMAGE_NAMES, *SEVERAL_NAMES])
def test_ids_equal_the_makers(name, qwen_folders):
    it = golden(name)
    for case in map(BY_NAME.get, it.cases):
        layout = lay_out(qwen_folders[it.kind], case, it.generation, clip_tags=it.variant["clip_tags"])
        expected = it.arrays[f"{case.name}/ids"].tolist()
        if case.response is not None:
            expected.pop()  # the makers' template ends with a newline, which nothing would be trained on
        assert layout.input_ids == expected, case.name


@pytest.mark.parametrize("name", [*NAMES, *IMAGE_NAMES, *SEVERAL_NAMES])
def test_positions_equal_the_makers(name, qwen_folders):
    it = golden(name)
    rules = {key: it.variant[key] for key in ("text_positions", "grid_seconds")}
    for case in map(BY_NAME.get, it.cases):
        layout = lay_out(qwen_folders[it.kind], case, it.generation, clip_tags=it.variant["clip_tags"])
        expected = torch.from_numpy(it.arrays[f"{case.name}/positions"]).long()[: len(layout)]
        assert torch.equal(positions_of(layout.token_type_ids, case, it.generation, **rules), expected), case.name


@pytest.mark.parametrize("name", [*NAMES, *IMAGE_NAMES, *SEVERAL_NAMES])
def test_pixels_equal_the_makers_to_the_bit(name):
    it = golden(name)
    clips = [BY_NAME[name] for name in it.cases if BY_NAME[name].num_frames]
    assert len(clips) == (9 if it.name in IMAGE_NAMES else 6 if it.name in SEVERAL_NAMES else 33)
    for case in clips:
        grids = grids_of(case, it.generation)
        assert (grids if case.beside else grids[0]) == it.cases[case.name]["grid"], case.name
        pixels = pixels_of(case, it.generation)
        assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == it.cases[case.name]["pixels"], case.name


@pytest.mark.parametrize("name", [*MODEL_NAMES, *IMAGE_NAMES, *SEVERAL_NAMES])
def test_logits_and_greedy_answers_equal_the_makers(name, qwen_folders):
    """transformers' own model of today, fed with our ids, pixels and positions; one step at a time without a cache."""
    it = golden(name)
    folder = qwen_folders[it.kind]
    model = getattr(transformers, CLASSES[it.kind]).from_pretrained(folder, dtype=torch.float32).eval()
    rules = {"text_positions": it.variant["text_positions"], "grid_seconds": it.variant["grid_seconds"]}
    for name in it.model_cases:
        case = BY_NAME[name]
        layout = lay_out(folder, case, it.generation, clip_tags=it.variant["clip_tags"])
        newline = it.arrays[f"{name}/ids"][-1:].tolist() if case.response is not None else []
        ids, types = layout.input_ids + newline, layout.token_type_ids + [0] * len(newline)
        clip = {}
        if case.num_frames:
            thw = torch.tensor(grids_of(case, it.generation))
            names = ("pixel_values", "image_grid_thw") if case.is_image else ("pixel_values_videos", "video_grid_thw")
            clip = dict(zip(names, (pixels_of(case, it.generation), thw), strict=True))
        positions = positions_of(types, case, it.generation, **rules)
        answer: list[int] = []
        with torch.no_grad():
            for step in range(NUM_NEW_TOKENS):
                where = torch.cat([positions, next_positions(positions[-1], step)]).T[:, None]
                logits = model(input_ids=torch.tensor([ids + answer]), position_ids=where, **clip).logits[0]
                if step == 0:
                    shown = torch.from_numpy(it.arrays[f"{name}/logits"])
                    last = torch.from_numpy(it.arrays[f"{name}/last"])
                    assert (logits[:, list(SHOWN_IDS)] - shown).abs().max() <= MAX_LOGIT_ERROR, name
                    assert (logits[-1] - last).abs().max() <= MAX_LOGIT_ERROR, name
                answer.append(int(logits[-1].argmax()))
        assert answer == it.cases[name]["greedy"], name
