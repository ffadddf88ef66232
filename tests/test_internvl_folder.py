"""InternVL's folders and recipes: what is refused, in words; and what of a row is trained."""

import json
from pathlib import Path

import pytest

from cvft.data.rows import Row
from cvft.errors import CvftError
from cvft.families.settings import check_settings
from cvft.families.table import find_family
from cvft.recipe import Recipe
from cvft.weights.folder import ModelFolder
from tests.internvl_tiny import TOKENS_PER_FRAME, special_id, write_internvl_files


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **values}))


def refusal(path, **sections):
    """What a folder, a recipe about it or both are told."""
    recipe = Recipe(model={"path": str(path), **sections.pop("model", {})}, data={"train": Path("x")}, **sections)
    with pytest.raises(CvftError) as error:
        open_with(recipe, ModelFolder.of(path))
    return str(error.value)


def open_with(recipe, folder):
    family = find_family(folder)
    check_settings(recipe, family)
    family.preprocessing(recipe, folder)
    family.check_recipe(recipe, folder)


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        (
            "config.json",
            {"text_config": {"model_type": "llama"}},
            'config.json: text_config.model_type: got `"llama"`, need `qwen2` or `qwen3`',
        ),
        ("config.json", {"image_seq_length": 256}, "image_seq_length: got 256, need 4, the tokens of a frame of 56 px"),
        ("config.json", {"vision_feature_layer": -2}, "vision_feature_layer: got `-2`, need `-1`"),
        ("config.json", {"vision_config": {}}, "config.json: got no usable `num_hidden_layers`"),
        (
            "preprocessor_config.json",
            {"image_mean": [0.5, 0.5]},
            "preprocessor_config.json: image_mean: got `[0.5, 0.5]`, need three numbers",
        ),
        ("preprocessor_config.json", {"size": {"height": 384, "width": 384}}, "need 56 by 56, as config.json says"),
        ("preprocessor_config.json", {"resample": 2}, "preprocessor_config.json: resample: got `2`, need 3, bicubic"),
        ("video_preprocessor_config.json", {"do_resize": False}, "do_resize: got `false`, need `true`"),
        (
            "processor_config.json",
            {"video_processor": {"rescale_factor": 1}},
            "processor_config.json: video_processor: rescale_factor: got `1`, need 1/255",
        ),
        ("generation_config.json", {"eos_token_id": 600}, "eos_token_id: got `600`, need ids below vocab_size, 600"),
    ],
)
def test_files_that_cannot_be_carried_out_are_refused(tmp_path, name, changed, said):
    folder = write_internvl_files(tmp_path / "model", "internvl3_5")
    change(folder, name, **changed)
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"template": "vqa"}}, "model.template: got `vqa`, need `auto` or `chat`: InternVL3.5 has one"),
        ({"video": {"sampling": "fps"}}, "video.sampling: got `fps`, need `auto`, `segments` or `uniform`"),
        ({"video": {"fps": 2}}, "video.fps: got `2.0`, need"),
        ({"lora": {"targets": ["wq"]}}, "hint: `wq` is `q_proj` here"),
        (
            {"video": {"cache_features": "on"}, "lora": {"targets": "all-linear", "train_projector": True}},
            "the projector, which learns",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, sections, said):
    assert said in refusal(write_internvl_files(tmp_path / "model", "internvl3_5"), **sections)


def opened(path, **sections):
    folder = ModelFolder.of(write_internvl_files(path, "internvl3_5"))
    recipe = Recipe(model={"path": str(path), **sections}, data={"train": Path("x")})
    family = find_family(folder)
    how = family.preprocessing(recipe, folder)
    return folder, family, how


def test_pixels_are_normed_as_the_folder_says(tmp_path):
    _, _, how = opened(tmp_path)
    assert how.fields["pixel_mean"] == "0.485 0.456 0.406"
    change(tmp_path, "processor_config.json", video_processor={"image_mean": [0.5, 0.25, 1], "image_std": [1, 1, 1]})
    folder = ModelFolder.of(tmp_path)
    family = find_family(folder)
    how = family.preprocessing(Recipe(model={"path": str(tmp_path)}, data={"train": Path("x")}), folder)
    assert (how.fields["pixel_mean"], how.fields["pixel_std"]) == ("0.5 0.25 1.0", "1.0 1.0 1.0")
    assert family.check_preprocessing(how, folder) == []


def test_the_prefix_ends_with_the_last_frame_and_only_the_answer_is_trained(tmp_path):
    folder, family, how = opened(tmp_path, system="Be brief.")
    assert how.decode.sampling.max_frames == 8
    lay_out, clip = family.layouts(folder, how), family.longest_clip(folder, how)
    rows = [
        Row(query, response, history, (Path("a.mp4"),), source=Path(), line=1)
        for query, response, history in (
            ("What?", "Red.", ()),
            ("\n\n<img>Where?</img>", "<IMG_CONTEXT> left", (("How many?", "Two."),)),
        )
    ]
    first, other = (lay_out(row, [clip]) for row in rows)
    length = first.num_prefix_tokens
    assert first.input_ids[:length] == other.input_ids[:length]
    assert first.input_ids[length - 1] == special_id("</img>")
    for layout in (first, other):
        assert layout.input_ids.count(special_id("<IMG_CONTEXT>")) == sum(layout.token_type_ids) == 8 * TOKENS_PER_FRAME
        assert layout.input_ids.count(special_id("<img>")) == 8
        trained = [label for label in layout.labels if label != -100]
        assert trained[-1] == special_id("<|im_end|>")
        assert layout.input_ids[-len(trained) :] == trained
    assert lay_out(rows[0], ()).num_prefix_tokens < 30
