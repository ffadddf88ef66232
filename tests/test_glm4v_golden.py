"""GLM-4.1V against the makers' own code: ids, positions and pixels to the bit, logits and greedy answers.

`make_glm4v_goldens.py` wrote the vectors, with transformers 4.57.6, where the makers released the model, and with 5.19.0.
"""

import hashlib
import json
from functools import cache

import numpy as np
import pytest
import torch
import transformers

from cvft.errors import ValueProblem
from cvft.families.glm4v.inputs import MAX_IMAGE_TOKENS, ClipLayout
from cvft.families.glm4v.layout import build_layout
from cvft.families.glm4v.size_rule import grid_of
from cvft.families.glm4v.sizes import Sizes
from cvft.families.glm4v.tokenizer import load_encoder
from cvft.families.network.patches import preprocess_frames
from cvft.families.network.positions import next_positions, row_positions
from cvft.families.norms import CLIP_NORM
from tests.glm4v_cases import CASES, FACTOR, IMAGE_BUDGET, IMAGE_CASES, IMAGE_MODEL_CASES, draw_sizes, max_clip_tokens
from tests.glm4v_tiny import CLASS, config_of, make_glm4v_folder
from tests.golden_files import SHIPPED, golden_file
from tests.qwen_cases import MODEL_CASES, NUM_NEW_TOKENS, SHOWN_IDS

MAX_LOGIT_ERROR = 2e-5
BY_NAME = {case.name: case for case in (*CASES, *IMAGE_CASES)}
RELEASED, INSTALLED = "4.57.6", "5.19.0"
VERSIONS = (RELEASED, INSTALLED)
ALL = (*VERSIONS, *(f"images-{version}" for version in VERSIONS))
TOWER = Sizes.from_config(config_of()).tower


@cache
def golden(version):
    path = golden_file(f"glm4v/glm4v-{version}.json")
    with np.load(path.with_suffix(".npz")) as file:
        return json.loads(path.read_text()), dict(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_glm4v_folder(tmp_path_factory.mktemp("glm4v"))


def clip_of(case):
    if not case.num_frames:
        return None
    if case.is_image:
        grid = grid_of(1, case.height, case.width, tower=TOWER, max_tokens=MAX_IMAGE_TOKENS)
        return ClipLayout(grid, (), is_image=True)
    grid = grid_of(case.num_frames, case.height, case.width, tower=TOWER, max_tokens=max_clip_tokens(case))
    return ClipLayout(grid, tuple(int(index / case.avg_fps) for index in case.frame_indices[::2]))


def lay_out(folder, case):
    encode, special = load_encoder(folder)
    texts = {"query": case.query, "history": case.history, "response": case.response, "system": case.system}
    return build_layout(encode, special=special, clip=clip_of(case), **texts)


def pixels_of(case):
    frames = case.draw_frames()
    return preprocess_frames(frames, grid=clip_of(case).grid, patch_px=14, temporal_patch=2, norm=CLIP_NORM)


def test_every_case_is_there():
    """One that is gone would make its tests vanish."""
    files = {path.name for path in (SHIPPED / "glm4v").iterdir()}
    assert files == {f"glm4v-{version}.{end}" for version in ALL for end in ("json", "npz")}
    small = {case.name for case in CASES if min(case.height, case.width) < FACTOR}
    assert len(small) == 1
    assert IMAGE_BUDGET["longest_edge"] == MAX_IMAGE_TOKENS * FACTOR**2 * 2
    for version in VERSIONS:
        about, arrays = golden(f"images-{version}")
        assert len(about["cases"]) == len(IMAGE_CASES) - (version == RELEASED)  # it refuses one smaller than a token
        assert {key.partition("/")[0] for key in arrays if key.endswith("/logits")} == set(IMAGE_MODEL_CASES)
        about, arrays = golden(version)
        assert set(about["cases"]) == {case.name for case in CASES} - (small if version == RELEASED else set())
        assert {key.partition("/")[0] for key in arrays if key.endswith("/logits")} == set(MODEL_CASES)
        assert len(about["sizes"]) == len(draw_sizes()) == 200


@pytest.mark.parametrize("version", ALL)
def test_ids_and_positions_equal_the_makers(version, folder):
    about, arrays = golden(version)
    for name in about["cases"]:
        layout = lay_out(folder, BY_NAME[name])
        ids = layout.input_ids
        if BY_NAME[name].response is not None:
            ids = ids[:-1]  # the makers' template ends with the answer; the next question's token ends it
        assert ids == arrays[f"{name}/ids"].tolist(), name
        clip = clip_of(BY_NAME[name])
        positions = row_positions(layout.token_type_ids, grids=[] if clip is None else [clip.grid])
        assert torch.equal(positions[: len(ids)], torch.from_numpy(arrays[f"{name}/positions"]).long()), name


@pytest.mark.parametrize("version", ALL)
def test_pixels_equal_the_makers_to_the_bit(version):
    about, _ = golden(version)
    clips = [name for name in about["cases"] if BY_NAME[name].num_frames]
    assert len(clips) > (8 if "images" in version else 25)
    for name in clips:
        grid, expected = clip_of(BY_NAME[name]).grid, about["cases"][name]
        assert [grid.num_grids, grid.num_rows, grid.num_columns] == expected["grid"], name
        assert hashlib.sha256(pixels_of(BY_NAME[name]).numpy().tobytes()).hexdigest() == expected["pixels"], name


@pytest.mark.parametrize("version", VERSIONS)
def test_sizes_equal_the_makers(version):
    about, _ = golden(version)
    for (frames, height, width, most), expected in zip(draw_sizes(), about["sizes"], strict=True):
        if expected is None and min(height, width) < FACTOR and version == RELEASED:
            continue  # this one refuses frames smaller than a token
        try:
            grid = grid_of(frames, height, width, tower=TOWER, max_tokens=most)
        except ValueProblem:
            assert expected is None
        else:
            assert [grid.num_rows * 14, grid.num_columns * 14] == expected


@pytest.mark.parametrize(("version", "names"), [(RELEASED, MODEL_CASES), (f"images-{RELEASED}", IMAGE_MODEL_CASES)])
def test_logits_and_greedy_answers_equal_the_makers(version, names, folder):
    """transformers' own model of today, fed with our ids, pixels and positions, against the release's.

    Pictures have the names of clips here: one token stands for both, and transformers could not tell them apart in one batch.
    """
    about, arrays = golden(version)
    model = getattr(transformers, CLASS).from_pretrained(folder, dtype=torch.float32).eval()
    for name in names:
        case = BY_NAME[name]
        layout = lay_out(folder, case)
        num_tokens = len(layout) - (case.response is not None)
        ids, clip = layout.input_ids[:num_tokens], clip_of(case)
        positions = row_positions(layout.token_type_ids[:num_tokens], grids=[] if clip is None else [clip.grid])
        tensors = {}
        if clip is not None:
            thw = torch.tensor([[clip.grid.num_grids, clip.grid.num_rows, clip.grid.num_columns]])
            tensors = {"pixel_values_videos": pixels_of(case), "video_grid_thw": thw}
        answer: list[int] = []
        with torch.no_grad():
            for step in range(NUM_NEW_TOKENS):
                where = torch.cat([positions, next_positions(positions[-1], step)]).T[:, None]
                logits = model(input_ids=torch.tensor([ids + answer]), position_ids=where, **tensors).logits[0]
                if step == 0:
                    shown, last = (torch.from_numpy(arrays[f"{name}/{key}"]) for key in ("logits", "last"))
                    assert (logits[:, list(SHOWN_IDS)] - shown).abs().max() <= MAX_LOGIT_ERROR, name
                    assert (logits[-1] - last).abs().max() <= MAX_LOGIT_ERROR, name
                answer.append(int(logits[-1].argmax()))
        assert answer == about["cases"][name]["greedy"], name
