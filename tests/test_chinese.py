"""Chinese from end to end: rows, names of files and folders, kinds of answers, a training, its report in a browser."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from cvft.evaluate.metrics.kinds import kind_of
from tests.browser import browsing, needs_driver
from tests.project import RECIPE, cvft_ok

DATASET = Path(__file__).parent.parent / "datasets" / "tiny_shapes_zh"
KINDS = {
    "时间段": "interval",
    "时刻": "seconds",
    "数量": "number",
    "有没有": "yes_no",
    "选择": "choice",
    "描述": "text",
}
"""Category of the rows -> the kind of their answers."""

ROWS = [
    json.loads(line)
    for name in ("train", "val")
    for line in (DATASET / f"{name}.jsonl").read_text("utf-8").splitlines()
]

HAS_CHINESE_FONT = bool(shutil.which("fc-list")) and bool(
    subprocess.run(["fc-list", ":lang=zh-cn"], capture_output=True, check=False).stdout
)


def test_the_dataset_is_what_its_program_makes(tmp_path):
    card = yaml.safe_load((DATASET / "card.yaml").read_text(encoding="utf-8"))
    for name, digest in card["sha256"].items():
        assert hashlib.sha256((DATASET / name).read_bytes()).hexdigest() == digest, name
    assert len(card["sha256"]) == 2 + sum(split["clips"] for split in card["splits"].values())
    subprocess.run([sys.executable, str(DATASET / "make.py"), "--out", str(tmp_path)], check=True)
    for name in ("train.jsonl", "val.jsonl"):  # clips are the same bytes with one build of PyAV alone
        assert (tmp_path / name).read_bytes() == (DATASET / name).read_bytes()


def test_right_answers_are_of_their_kind_and_score_as_right():
    seen = defaultdict(int)
    for row in ROWS:
        kind = kind_of(row["response"], query=row["query"])
        assert kind.name == KINDS[row["category"]], row
        reading = kind.read(row["response"], row["response"], row["query"])
        assert not any(score == 0 for name, score in reading.scores.items() if "error" not in name), (row, reading)
        seen[kind.name] += 1
    assert set(seen) == set(KINDS.values())


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with a Chinese name, whose recipe `中文.yaml` has learnt the rows of one clip by heart."""
    folder = tmp_path_factory.mktemp("项目") / "视频 问答"
    shutil.copytree(DATASET, folder / "数据")
    rows = [row for row in ROWS if row["videos"] == ["clips/训练_00.mp4"]]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "数据" / "训练.jsonl").write_text("\n".join(lines), encoding="utf-8")
    train = {"max_steps": 100, "save_steps": 100, "eval_steps": 100, "global_batch_rows": 13, "micro_batch_rows": 13}
    recipe = RECIPE | {
        "data": {"train": "数据/训练.jsonl", "val": "数据/val.jsonl"},
        "lora": {"targets": "all-linear", "rank": 8, "alpha": 16, "dropout": 0.0},
        "optim": {"learning_rate": 5e-3, "adam_beta2": 0.99, "weight_decay": 0.0},
        "train": RECIPE["train"] | train | {"max_rows_per_group": 13},
        "eval": {"max_new_tokens": 24, "batch_rows": 16, "num_rows": 14, "compare_base": False, "compare_blind": False},
        "export": {"verify_rows": 2},
        "output": {"root": "输出"},
    }
    (folder / "中文.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    done = cvft_ok("run", "中文.yaml", cwd=folder)
    (folder / "屏幕.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return folder


@pytest.mark.long
def test_a_whole_job_in_chinese(project):
    run = project / "输出" / "中文"
    said = (project / "屏幕.txt").read_text(encoding="utf-8")
    assert "Glyph" not in said, "a letter that no font of the plots has"
    assert "\\u" not in said
    assert "时间段" in said
    stored = (run / "eval" / "merged" / "predictions.jsonl").read_text(encoding="utf-8")
    asked = [json.loads(line) for line in stored.splitlines()]
    assert len(asked) == 14
    assert all(row["query"] in stored for row in asked), "escaped letters, which nobody can read or search"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert all(text in page for text in (asked[0]["query"], "验证_00.mp4", "时间段"))


@pytest.mark.long
def test_what_was_learnt_in_chinese_is_answered_in_chinese(project):
    words = ["--data", "数据/训练.jsonl", "--output", "回答.jsonl"]
    cvft_ok("infer", "--model", "输出/中文", *words, cwd=project)
    rows = [json.loads(line) for line in (project / "回答.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 13
    # 11 on the machine where it was written; the longest sentence may need more steps
    assert sum(row["prediction"] == row["response"] for row in rows) >= 9


@pytest.mark.long
@needs_driver
@pytest.mark.skipif(not HAS_CHINESE_FONT, reason="needs a font with Chinese letters, such as Debian's fonts-noto-cjk")
def test_a_browser_draws_different_letters_in_the_report(project, tmp_path):
    """Letters that no font has are drawn as one and the same box."""
    draw = """
        const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
        pen.font = `40px ${getComputedStyle(document.body).fontFamily}`;
        return [...arguments[0]].map((letter) => {
          pen.clearRect(0, 0, 300, 150); pen.fillText(letter, 10, 60); return canvas.toDataURL();
        });"""
    with browsing(tmp_path / "profile") as browser:
        browser.open((project / "输出" / "中文" / "report.html").as_uri())
        assert len(set(browser.run(draw, "红绿蓝第秒"))) == 5
        assert len(set(browser.run(draw, "\ue000\ue001"))) == 1, "letters for private use have no picture of their own"
        assert browser.complaints() == []
