"""Plans of published checkpoints without their files: what is known of them, and how near the estimated lengths come."""

import json
import re
from pathlib import Path

import pytest

from cvft.families.cogvlm2_video.checkpoints import PUBLISHED, PUBLISHED_CONFIG
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.cogvlm2_video.layout import TEMPLATES, build_layout, special_tokens
from cvft.families.cogvlm2_video.tensors import published_shapes
from cvft.families.estimate import estimate_ids
from cvft.families.parts import count_parameters
from tests.llama3 import llama3_encode
from tests.official_folder import CONFIG
from tests.project import ROWS, cvft, cvft_ok, files_under, make_project, with_real_clips

ROOT = Path(__file__).parent.parent

SENTENCES = {
    "zh": "视频中的男子正在车里说话。他穿着深色西装，系着领带，背景可以看到车窗外移动的风景。",
    "ja": "男性が車の中で話しています。彼は暗いスーツを着ています。",
    "ru": "В видео мужчина сидит в машине и разговаривает с кем-то за кадром. За окном видны деревья и дома.",
    "hi": "वीडियो में एक आदमी कार में बैठा है और किसी से बात कर रहा है।",
    "ar": "رجل يجلس في السيارة ويتحدث مع شخص ما. يرتدي بدلة داكنة.",
    "es": "El hombre está sentado en el coche y habla con alguien. Lleva un traje oscuro y una corbata.",
    "de": "Die Frau öffnet langsam die Fensterläden und schaut hinaus auf die Straße.",
}


def total_ratio(texts: list[str]) -> float:
    return sum(len(estimate_ids(text)) for text in texts) / sum(len(llama3_encode()(text)) for text in texts)


def test_what_is_shipped_is_what_the_published_config_says():
    assert {key: CONFIG[key] for key in PUBLISHED_CONFIG} == PUBLISHED_CONFIG
    assert count_parameters(COGVLM2_VIDEO.parts, published_shapes(PUBLISHED_CONFIG)).total == 12_507_530_496
    assert all(checkpoint.config == PUBLISHED_CONFIG for checkpoint in PUBLISHED)


def test_english_is_estimated_within_a_tenth_on_the_whole():
    rows = [json.loads(line) for line in (ROOT / "datasets" / "tiny_shapes" / "train.jsonl").read_text().splitlines()]
    assert total_ratio([row[key] for row in rows for key in ("query", "response")]) == pytest.approx(1, abs=0.1)
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    parts = [part for page in pages for part in page.read_text(encoding="utf-8").split("\n\n")]
    prose = [part for part in parts if len(part) > 60 and not re.search(r"[`|\[{]", part)]
    assert len(prose) > 30
    assert total_ratio(prose) == pytest.approx(1, abs=0.1)


def test_the_golden_layouts_are_estimated_within_a_few_tokens():
    cases = json.loads((ROOT / "tests" / "golden" / "token_layout.json").read_text())["cases"]
    assert len(cases) == 90
    for case in cases:
        layout = build_layout(
            estimate_ids,
            template=TEMPLATES[case["template"]],
            special=special_tokens(PUBLISHED_CONFIG),
            num_tokens_per_frame=66,
            time_indices=range(case["num_frames"]),
            query=case["query"],
            history=case["history"],
            response=case["answer"],
        )
        num_tokens = sum(count for _, count in case["input_ids_rle"])
        num_text = num_tokens - 67 * case["num_frames"]
        assert abs(len(layout) - num_tokens) <= max(5, 0.2 * num_text), case["query"]


@pytest.mark.parametrize("language", SENTENCES)
def test_other_languages_are_estimated_within_half(language):
    assert 0.75 < total_ratio([SENTENCES[language]]) < 1.5


def test_odd_texts_have_an_estimate():
    assert estimate_ids("") == []
    for text in ("\ud800", "\0", " \n\t", "🙂" * 9, "x" * 10_000, "1" * 1000):
        assert 0 < len(estimate_ids(text)) <= len(text.encode(errors="surrogatepass"))


@pytest.mark.parametrize("name", ["hf:THUDM/cogvlm2-video-llama3-base", "ms:ZhipuAI/VisionReward-Video"])
def test_a_published_name_is_planned_without_a_file_and_without_a_network(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "empty"))
    rows = [row for row in with_real_clips(ROWS) if "history" not in row]
    recipe = make_project(
        tmp_path / "job",
        rows=rows,
        model={"path": name, "dtype": "bf16"},
        eval={"max_new_tokens": 64},
        parallel={"device": "auto"},
    )
    before = files_under(tmp_path / "job")
    result = cvft("plan", recipe, "--gpu", "A100-40GB")
    assert result.returncode == 0, result.stderr
    assert f"no file of {name.removeprefix('hf:').removeprefix('ms:')} is here" in result.stdout
    for part in (
        "tokens    about ",
        "12,507,530,496 of which 1,310,720",
        "per rank: about ",
        "time      by the model: about ",
    ):
        assert part in result.stdout, part
    assert f"template {'base' if 'base' in name else 'chat'}" in result.stdout
    assert files_under(tmp_path / "job") == before
    refused = cvft("train", recipe)  # a training needs the files
    assert refused.returncode == 2
    assert "need a folder here, or a hub that answers" in refused.stderr


def test_an_estimate_refuses_no_row(tmp_path):
    rows = [{"query": "word " * 3000, "response": "r"}] * 5
    model = {"path": "zai-org/cogvlm2-video-llama3-chat", "dtype": "bf16"}
    train = {"gradient_checkpointing": True, "micro_batch_rows": 1}
    recipe = make_project(
        tmp_path, rows=rows, val_rows=ROWS[-1:], model=model, train=train, parallel={"device": "auto"}
    )
    said = cvft_ok("plan", recipe, "--gpu", "H200").stdout
    assert said.count("probably refused: ") == 3
    assert "and 2 more rows" in said
    assert '"is_estimated": true' in cvft_ok("plan", recipe, "--gpu", "H200", "--json").stdout
