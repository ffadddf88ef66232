"""InternVL's video models against the makers' own code: ids, pixels and frames to the bit, logits and greedy answers.

`make_internvl_goldens.py` wrote the vectors with transformers 4.57.6; 5.19.0 says the same.
"""

import hashlib
import json
from functools import cache

import numpy as np
import pytest
import torch
import transformers

from cvft.data.video.sample import Sampling, choose_frames
from cvft.families.internvl.layout import build_layout
from cvft.families.internvl.network.encoder import preprocess_frames
from cvft.families.internvl.preprocessor_file import IMAGENET_MEAN, IMAGENET_STD
from cvft.families.internvl.tokenizer import load_encoder
from cvft.families.norms import PixelNorm
from tests.golden_files import SHIPPED, golden_file
from tests.internvl_tiny import CLASS, KINDS, SIDE_PX, TOKENS_PER_FRAME, make_internvl_folder
from tests.qwen_cases import MODEL_CASES, NUM_NEW_TOKENS, SHOWN_IDS
from tests.segment_cases import CASES, draw_lengths

MAX_LOGIT_ERROR = 2e-5
BY_NAME = {case.name: case for case in CASES}


@cache
def golden(kind):
    path = golden_file(f"internvl/{kind}-4.57.6.json")
    with np.load(path.with_suffix(".npz")) as file:
        return json.loads(path.read_text()), dict(file)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: make_internvl_folder(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def lay_out(folder, case):
    encode, special = load_encoder(folder)
    return build_layout(
        encode,
        special=special,
        num_frames=case.num_frames,
        tokens_per_frame=TOKENS_PER_FRAME,
        query=case.query,
        history=case.history,
        response=case.response,
        system=case.system,
    )


def pixels_of(case):
    return preprocess_frames(case.draw_frames(), side_px=SIDE_PX, norm=PixelNorm(IMAGENET_MEAN, IMAGENET_STD))


def test_every_case_is_there():
    """One that is gone would make its tests vanish."""
    files = {path.name for path in (SHIPPED / "internvl").iterdir()}
    assert files == {f"{kind}-4.57.6.{end}" for kind in KINDS for end in ("json", "npz")}
    for kind in KINDS:
        about, arrays = golden(kind)
        assert set(about["cases"]) == set(BY_NAME if kind == KINDS[0] else MODEL_CASES)
        assert {key.partition("/")[0] for key in arrays if key.endswith("/logits")} == set(MODEL_CASES)
    assert len(golden(KINDS[0])[0]["segments"]) == len(draw_lengths()) == 120


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_the_makers(kind, folders):
    about, arrays = golden(kind)
    for name in about["cases"]:
        expected = arrays[f"{name}/ids"].tolist()
        if BY_NAME[name].response is not None:
            expected.pop()  # the makers' template ends with a newline, which nothing would be trained on
        assert lay_out(folders[kind], BY_NAME[name]).input_ids == expected, name


def test_pixels_equal_the_makers_to_the_bit():
    about, _ = golden(KINDS[0])
    clips = [case for case in CASES if case.num_frames]
    assert len(clips) > 25
    for case in clips:
        pixels = hashlib.sha256(pixels_of(case).numpy().tobytes()).hexdigest()
        assert pixels == about["cases"][case.name]["pixels"], case.name


def test_segments_equal_the_makers():
    about, _ = golden(KINDS[0])
    for (total, number), expected in zip(draw_lengths(), about["segments"], strict=True):
        sampling = Sampling("segments", max_frames=number)
        assert choose_frames(np.arange(total, dtype=np.float32), avg_fps=1.0, sampling=sampling) == expected


def test_a_clip_of_fewer_frames_than_segments_is_shown_whole():
    sampling = Sampling("segments", max_frames=8)
    assert choose_frames(np.arange(3, dtype=np.float32), avg_fps=1.0, sampling=sampling) == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_greedy_answers_equal_the_makers(kind, folders):
    """transformers' own model of today, fed with our ids and pixels."""
    about, arrays = golden(kind)
    model = getattr(transformers, CLASS).from_pretrained(folders[kind], dtype=torch.float32).eval()
    for name in MODEL_CASES:
        case = BY_NAME[name]
        newline = arrays[f"{name}/ids"][-1:].tolist() if case.response is not None else []
        ids = lay_out(folders[kind], case).input_ids + newline
        clip = {"pixel_values": pixels_of(case)} if case.num_frames else {}
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).long(), **clip}
        with torch.no_grad():
            logits = model(**inputs).logits[0]
            new = model.generate(**inputs, do_sample=False, max_new_tokens=NUM_NEW_TOKENS, eos_token_id=None)
        shown, last = (torch.from_numpy(arrays[f"{name}/{key}"]) for key in ("logits", "last"))
        assert (logits[:, list(SHOWN_IDS)] - shown).abs().max() <= MAX_LOGIT_ERROR, name
        assert (logits[-1] - last).abs().max() <= MAX_LOGIT_ERROR, name
        assert new[0, len(ids) :].tolist() == about["cases"][name]["greedy"], name
