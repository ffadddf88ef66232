"""What `docs/coming_from.md` promises: commands of ms-swift and LLaMA-Factory beside ours, word by word and number by number."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from cvft.data.rows import read_rows
from cvft.recipe import load_recipe
from cvft.recipe.foreign import FOREIGN_NAMES
from cvft.recipe.names import hint_for_unknown, iter_fields
from tests.docs_pages import DOCS, ROOT
from tests.real_clips import real_clip

(PAGE,) = [page for page in DOCS if page.name == "coming_from.md"]
BLOCK = re.compile(r"^```(sh|yaml)\n(.*?)^```$|^ {4}(cvft run recipes/[^\n]*)$", re.MULTILINE | re.DOTALL)
PATHS = {path for path, _ in iter_fields()}
OF_THE_MACHINE = {"cuda_visible_devices", "pytorch_cuda_alloc_conf"}
"""Variables that CUDA and torch read, under cvft as well."""
OF_COMMANDS = {
    "ckpt_dir",
    "load_dataset_config",
    "load_data_args",
    "merge_lora",
    "max_new_tokens",
    "model_type",
    "model",
}
"""Arguments of `swift infer` and `swift export` whose place a cvft command takes by its own."""
NO_SETTING = {"gradient_accumulation_steps", "per_device_eval_batch_size", "nproc_per_node", "dataset", "max_samples"}
"""Words whose numbers mean something else here; the first two are compared below, by what they come to."""


def trainings() -> list[tuple[str, str]]:
    """Each training command of the page with the recipe, or the command, that follows it."""
    found = [match.groups() for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]
    theirs = [
        number
        for number, (_, code, _) in enumerate(found)
        if code and re.search(r"swift sft|llamafactory-cli train", code)
    ]
    return [(str(found[number][1]), str(found[number + 1][1] or found[number + 1][2])) for number in theirs]


def said_in(command: str) -> dict[str, str]:
    """Flags and variables of a command, by their names in lower case."""
    words = shlex.split(command.replace("\\\n", " "))
    variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    flags = {words[i].removeprefix("--"): words[i + 1] for i in range(len(words)) if words[i].startswith("--")}
    return {name.lower(): value for name, value in (variables | flags).items()}


def recipe_of(ours: str, tmp_path: Path):
    if ours.startswith("cvft run "):
        _, _, path, *overrides = shlex.split(ours)
        return load_recipe(ROOT / path, overrides=overrides).recipe
    path = tmp_path / "mine.yaml"
    path.write_text(ours)
    return load_recipe(path).recipe


def value_of(recipe, path: str):
    for key in path.split("."):
        recipe = getattr(recipe, key)
    return recipe


def test_every_word_of_their_commands_is_answered():
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    words = {word for block in blocks for command in block.split("\n\n") for word in said_in(command)}
    assert len(words) >= 50
    unknown = words - OF_THE_MACHINE - OF_COMMANDS
    assert (
        sorted(word for word in unknown if not hint_for_unknown(f"train.{word}") and f"train.{word}" not in PATHS) == []
    )


def test_the_page_has_every_training_command():
    assert len(trainings()) == 4


@pytest.mark.parametrize(("theirs", "ours"), trainings(), ids=lambda code: " ".join(code.split())[:30])
def test_numbers_beside_each_other_are_the_same(theirs, ours, tmp_path):
    said, recipe = said_in(theirs), recipe_of(ours, tmp_path)
    own = {path.rpartition(".")[2]: path for path in PATHS}
    compared = 0
    for word, value in said.items():
        path = FOREIGN_NAMES.get(word, own.get(word))
        if path is None or word in NO_SETTING:
            continue
        try:
            number = float(value)
        except ValueError:
            continue
        assert value_of(recipe, path) == pytest.approx(number), word
        compared += 1
    assert compared >= 1
    # 16 rows a step are what ms-swift takes where nothing is said, on any number of cards
    steps = int(said.get("gradient_accumulation_steps", 0))
    cards = int(said.get("nproc_per_node", 1))
    rows = int(said.get("per_device_train_batch_size", 1)) * steps * cards if steps else 16
    assert recipe.train.global_batch_rows == rows


def test_rows_of_their_pages_are_read(tmp_path):
    (tmp_path / "mllm_demo_data").mkdir()
    for name in ("video_path", "x.mp4", "mllm_demo_data/1.mp4"):
        (tmp_path / name).write_bytes(real_clip("bikes.mp4").read_bytes())

    def read(text: str, name: str) -> list:
        (tmp_path / name).write_text(text)
        return read_rows(tmp_path / name, format="auto")

    tutorial = (
        '{"query": "55555", "response": "66666", "videos": ["video_path"]}\n'
        '{"query": "eeeee", "response": "fffff", "history": [], "videos": ["video_path"]}\n'
        '{"query": "EEEEE", "response": "FFFFF", "history": [["AAAAA", "BBBBB"], ["CCCCC", "DDDDD"]], "videos": ["video_path"]}\n'
    )
    rows = read(tutorial, "tutorial.jsonl")
    assert [(row.query, row.response, len(row.history)) for row in rows] == [
        ("55555", "66666", 0),
        ("eeeee", "fffff", 0),
        ("EEEEE", "FFFFF", 2),
    ]
    asked = [{"role": "user", "content": "<video>Who?"}, {"role": "assistant", "content": "A baby."}]
    (row,) = read(json.dumps({"messages": asked, "videos": ["x.mp4"]}), "messages.jsonl")
    assert (row.query, row.response) == ("Who?", "A baby.")
    demo = [{"messages": [dict(reversed(turn.items())) for turn in asked], "videos": ["mllm_demo_data/1.mp4"]}]
    (row,) = read(json.dumps(demo), "mllm_video_demo.json")
    assert (row.query, row.response, Path(row.videos[0]).name) == ("Who?", "A baby.", "1.mp4")


def test_their_entry_of_a_dataset_is_as_the_page_says():
    (block,) = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(block)["mllm_video_demo"]["formatting"] == "sharegpt"
