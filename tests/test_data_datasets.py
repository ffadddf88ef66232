"""Datasets by name: cards, files in their real layouts, what is fetched, and what is said where something is missing."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import yaml

from cvft.cards import CARDS, describe_cards, read_card
from cvft.data.formats.benchmarks import ACTIVITYNET_TYPES
from cvft.data.formats.convert import convert_file
from cvft.data.rows import read_rows, survey_rows
from cvft.data.video.spec import ClipSpec
from cvft.errors import DataError, RecipeError
from cvft.plan.check import check_recipe
from cvft.plan.datasets import bring_datasets, note_datasets
from cvft.plan.job import open_job
from cvft.plan.prepare import prepare, read_sources
from cvft.recipe import Recipe, load_recipe
from tests.hub_server import Hub
from tests.miniatures import MAKE, make_miniatures, video_chatgpt
from tests.mutations import mutations
from tests.project import cvft, cvft_ok, make_project, write_jsonl

PART = "llava-video-178k:0_30_s_academic"

SPOILED = (
    "video-chatgpt:test is what models are compared on: training on it spoils the benchmark, and numbers of this model on it "
    "say nothing"
)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    return make_miniatures(tmp_path_factory.mktemp("miniatures"))


def recipe_of(folder: Path, datasets: Path, train: object, **data: object) -> Path:
    path = make_project(folder)
    values = yaml.safe_load(path.read_text())
    values["data"] = {"train": train, "datasets": str(datasets), "val_fraction": 0, **data}
    if "val" in data:
        values["data"].pop("val_fraction")
    values["train"] = {**values["train"], "max_steps": 1, "logging_steps": 1, "save_steps": 1}
    values["train"].pop("eval_steps")
    path.write_text(yaml.safe_dump(values))
    return path


READ = {
    "video-chatgpt": (14, 2, ("What is seen 0?", "A square.", "v_p1QG.mp4")),
    "videoinstruct-100k": (2, 2, ("What moves?", "A square moves.", "v_abc.mp4")),
    "llava-video-178k": (40, 8, ("What moves?", "A square.", "0_30_s.mp4")),
    "next-qa": (
        2,
        2,
        (
            "how does the square move?\nA. left\nB. right\nC. up\nD. down\nE. not at all\n"
            "Answer with the letter of the right option.",
            "B",
            "4010069381.mp4",
        ),
    ),
    "activitynet-qa": (2, 2, ("is the square moving", "yes", "v_train-1_x.mp4")),
    "charades-sta": (
        2,
        1,
        ("Between which seconds does this happen: a square is on the left.", "From 0.0 to 0.9 seconds.", "AO8RW.mp4"),
    ),
    "msrvtt-qa": (1, 1, ("what is moving?", "square", "video0.mp4")),
}


@pytest.mark.parametrize("name", MAKE)
def test_a_miniature_of_each_is_checked_and_planned(datasets, tmp_path, name):
    num_rows, num_clips, first = READ[name]
    loaded = load_recipe(recipe_of(tmp_path, datasets, name))
    found = check_recipe(loaded)
    assert not found.count("error"), [finding.to_dict() for finding in found.findings]
    prepared = prepare(open_job(loaded, needs_weights=False))
    row = prepared.train_rows[0]
    assert (row.query, row.response, row.videos[0].name) == first
    assert (len(prepared.train_rows), len(prepared.clips)) == (num_rows, num_clips)
    (named,) = loaded.recipe.data.named.values()
    counts = [
        f"{named} has {n:,} {what} here, and {due:,} as its makers publish it"
        for n, due, what in ((num_rows, named.split.num_rows, "rows"), (num_clips, named.split.num_clips, "clips"))
        if due is not None
    ]
    expected = [SPOILED] * (name == "video-chatgpt") + counts
    assert [note for note in prepared.notes if note.startswith(name)] == expected
    assert [finding.problem.got for finding in found.findings if finding.kind == "dataset_note"] == expected
    assert set(prepared.sources) == set(loaded.recipe.data.sources)


def test_rows_of_all_of_them_train_in_one_step(datasets, tmp_path):
    names = [PART if name == "llava-video-178k" else name for name in MAKE]
    recipe = recipe_of(tmp_path, datasets, [*names[:-1], {"path": names[-1], "weight": 2}], val="next-qa")
    values = yaml.safe_load(recipe.read_text())
    values["train"] |= {"global_batch_rows": 28, "micro_batch_rows": 4}
    recipe.write_text(yaml.safe_dump(values))
    result = cvft_ok("train", recipe)
    assert SPOILED.partition(":test")[0] in result.stderr
    run = tmp_path / "runs" / "small"
    manifest = json.loads((run / "manifest.json").read_text())
    assert {"data.train[0] (Generic/test-00000-of-00001.parquet)", "data.train[6]", "data.val"} <= set(
        manifest["sources"]
    )
    rows = [json.loads(line) for line in (run / "data" / "train.jsonl").read_text().splitlines()]
    assert {Path(row["videos"][0]).relative_to(datasets).parts[0] for row in rows} == set(MAKE)
    assert len(rows) == 14 + 2 + 5 + 2 + 2 + 2 + 1
    # a run knows its rows again
    cvft_ok("train", recipe)
    (datasets / "msrvtt-qa" / "train_qa.json").write_text((datasets / "msrvtt-qa" / "train_qa.json").read_text() + "\n")
    cvft_ok("train", recipe)


def test_what_is_whole_is_not_told(tmp_path):
    """499 clips, 1,996 general rows, 499 about time and 499 pairs are the 3,493 rows of the card."""
    folder = tmp_path / "video-chatgpt"
    folder.mkdir()

    def clip(path: str) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(b"looked at by nobody")

    video_chatgpt(folder, clip, names=tuple(f"v_{number}" for number in range(499)))
    data = {"train": "video-chatgpt", "datasets": str(tmp_path)}
    recipe = Recipe.model_validate({"model": {"path": "tiny"}, "data": data})
    bring_datasets(recipe)
    read = read_sources(recipe.data.sources, recipe=recipe)
    assert sum(map(len, read.values())) == 3493
    assert note_datasets(recipe, read) == [SPOILED]
    held_out = Recipe.model_validate({"model": {"path": "tiny"}, "data": {"train": "x.jsonl", "val": data["train"]}})
    assert str(held_out.data.named["data.val"]) == "video-chatgpt:test"
    assert note_datasets(held_out, {"data.val (x)": [row for rows in read.values() for row in rows]}) == []


def test_names_and_splits(tmp_path, datasets):
    def data_of(train: object, **more: object):
        return load_recipe(recipe_of(tmp_path, datasets, train, **more)).recipe.data

    data = data_of("next-qa", val="next-qa")
    assert [str(named) for named in data.named.values()] == ["next-qa:train", "next-qa:val"]
    assert str(data_of("next-qa:val", val="charades-sta").named["data.val"]) == "charades-sta:test"
    (file,) = data_of("charades-sta", video_root="elsewhere").sources.values()
    assert file.video_root == tmp_path / "elsewhere"
    assert load_recipe(recipe_of(tmp_path, datasets, "next-qa")).recipe.to_dict()["data"]["train"] == "next-qa"
    # a file of that name is one
    (tmp_path / "next-qa").write_text("")
    with pytest.raises(RecipeError, match=r"data\.datasets: got .* and no dataset by name"):
        data_of("next-qa")
    for train, message in (
        (
            "msrvtt-qa:dev",
            "data.train: got `msrvtt-qa:dev`, need `msrvtt-qa:train` or `msrvtt-qa:val` or `msrvtt-qa:test`",
        ),
        ([{"path": "msrvtt-qa", "format": "llava"}], "data.train[0].format: got `llava`, need no format"),
        (["msrvtt-qa", "msrvtt-qa"], "data.train[1].path: got `msrvtt-qa` a second time"),
    ):
        with pytest.raises(RecipeError) as caught:
            data_of(train)
        assert message in str(caught.value)


def test_a_name_that_is_nearly_one(tmp_path, datasets):
    with pytest.raises(DataError, match=r"hint: did you mean the dataset `next-qa`\? `cvft datasets` lists those"):
        prepare(open_job(load_recipe(make_project(tmp_path), overrides=["data.train=nextqa"]), needs_weights=False))


@pytest.mark.parametrize("format", ["next_qa", "activitynet_qa", "msrvtt_qa", "charades_sta"])
def test_mutated_rows_are_read_or_named(tmp_path, format):
    write_beside(tmp_path)
    path = tmp_path / "rows_q.json"
    if format == "charades_sta":
        lines = changed_lines(GOOD[format], count=2000, seed=1)
        path.write_text("".join(f"{line}\n" for line in lines), newline="")
    else:
        lines = [mutated for mutated, _ in mutations(GOOD[format], count=2000, seed=1)]
        write_jsonl(path, lines)
    read, problems = survey_rows(path, format=format)
    named = {int(problem.where.split(":")[1].split()[0]) for problem in problems}
    assert {row.line for row in read} | named == set(range(1, len(lines) + 1))
    assert len(read) > 50
    assert len(named) > 50


def changed_lines(line: str, *, count: int, seed: int) -> list[str]:
    """Lines that are nearly right: a piece of a right one left out, said twice, or exchanged."""
    dice = random.Random(seed)
    pieces = ["", " ", "#", "##", "0", "9", ".", "-1", "1e9", "nan", "/", "../", "\t", "\u2028", "\u6f22", "a" * 300]
    changed = []
    for _ in range(count):
        begin = dice.randrange(len(line) + 1)
        end = min(len(line), begin + dice.randrange(4))
        changed.append(line[:begin] + dice.choice([*pieces, 2 * line[begin:end]]) + line[end:])
    return changed


@pytest.mark.parametrize("format", ["next_qa", "activitynet_qa", "msrvtt_qa", "charades_sta"])
def test_convert_and_load_is_the_identity(tmp_path, format):
    write_beside(tmp_path)
    path, good = tmp_path / "rows_q.json", GOOD[format]
    if isinstance(good, str):
        path.write_text(f"{good}\nAO8RW 0.5 2.0##a square is gone.\n")
    else:
        write_jsonl(path, [good, {**good, "start": 1, "end": 2.5}])
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "rows.jsonl"
    done = convert_file(path, target, format=format)
    rows, again = read_rows(path, format=format), read_rows(target)
    assert [row.to_json() for row in again] == [row.to_json() for row in rows]
    assert (done.num_rows, done.num_objects, done.format) == (2, 2, format)
    assert all(row.files for row in again)
    if not isinstance(good, str):
        assert again[1].videos[0] == ClipSpec(again[0].videos[0], start_s=1.0, end_s=2.5)


def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}


def test_files_of_rows_are_fetched_and_what_cannot_be_is_told(datasets, tmp_path):
    hub = Hub(tmp_path / "hub")
    env = environment(hub, tmp_path)
    root = tmp_path / "datasets"
    recipe = recipe_of(tmp_path, root, ["videoinstruct-100k", "next-qa"])
    try:
        shutil.copytree(datasets / "videoinstruct-100k", tmp_path / "published")
        hub.publish("datasets/MBZUAI/VideoInstruct-100K", tmp_path / "published")
        result = cvft("plan", recipe, env=env)
        assert result.returncode == 2
        assert (root / "videoinstruct-100k" / "VideoInstruct100K.json").is_file()
        assert not (
            root / "videoinstruct-100k" / "activitynet_videos"
        ).exists()  # clips are large: nobody asked for them
        told = result.stderr.replace(f"{root}/", "")
        assert "data.train[0]: got no folder `videoinstruct-100k/activitynet_videos`" in told
        assert "ActivityNet's videos (http://activity-net.org/download.html)" in told
        assert "data.train[1]: got no `next-qa/dataset/nextqa/train.csv` and 1 more files of `next-qa:train`" in told
        assert "hint: git clone https://github.com/doc-doc/NExT-QA next-qa" in told
        shutil.rmtree(root / "videoinstruct-100k")
    finally:
        hub.close()
    result = cvft("plan", recipe, "data.train=videoinstruct-100k", env={**env, "HF_HUB_OFFLINE": "1"})
    assert result.returncode == 2
    told = result.stderr.replace(f"{root}/", "")
    assert (
        "got no `videoinstruct-100k/VideoInstruct100K.json` of `videoinstruct-100k:train`, and it cannot be fetched from"
        in told
    )
    assert "hint: hf download MBZUAI/VideoInstruct-100K --repo-type dataset --local-dir videoinstruct-100k" in told


def test_files_of_rows_come_from_modelscope_where_hugging_face_does_not_answer(datasets, tmp_path):
    hub = Hub(tmp_path / "hub")
    root = tmp_path / "datasets"
    env = {
        **environment(hub, tmp_path),
        **{"HF_HUB_OFFLINE": "1", "MODELSCOPE_ENDPOINT": hub.url, "MODELSCOPE_CACHE": str(tmp_path / "modelscope")},
    }
    recipe = recipe_of(tmp_path, root, "video-chatgpt")
    try:
        shutil.copytree(datasets / "video-chatgpt", tmp_path / "published")
        hub.publish("datasets/swift/VideoChatGPT", tmp_path / "published", branch="master")
        result = cvft("plan", recipe, env=env)
    finally:
        hub.close()
    assert result.returncode == 2
    published = tmp_path / "published" / "Generic" / "test-00000-of-00001.parquet"
    assert (root / "video-chatgpt" / "Generic" / published.name).read_bytes() == published.read_bytes()
    told = result.stderr.replace(f"{root}/", "")
    assert "data.train: got no folder `video-chatgpt/Test_Videos`" in told
    assert "cannot be fetched" not in told
    assert not (root / "video-chatgpt" / "Test_Videos").exists()
    shutil.rmtree(root / "video-chatgpt")
    result = cvft("plan", recipe, env=env)
    assert result.returncode == 2
    why = result.stderr.split("of `video-chatgpt:test`, and it cannot be fetched from hf:lmms-lab/VideoChatGPT (")[1]
    assert "), and it cannot be fetched from ms:swift/VideoChatGPT (" in why


BAD = [
    ("next_qa", {"answer": "5"}, "the answer `5`, which is none of the options"),
    ("next_qa", {"a1": ""}, "an empty text as `a1`"),
    ("next_qa", {"video": "1"}, "the clip `1`, which map_vid_vidorID.json lacks"),
    ("next_qa", {"video": "2"}, "the clip `../../etc/2`, which leads out of the folder of the clips"),
    ("activitynet_qa", {"question_id": "v_x"}, "the question `v_x`, which has no answer"),
    ("activitynet_qa", {"video_name": "/../../../x"}, "which leads out of the folder of the clips"),
    ("msrvtt_qa", {"video_id": "../0"}, "`../0` as `video_id`"),
    ("charades_sta", "AO8RW 2.0 1.0##a square moves.", "an end of 1.0 s after a start of 2.0 s"),
    ("charades_sta", "AO8RW 0.0 1.0 a square moves.", "need `CLIP START END##what happens`"),
    ("charades_sta", "../../x 0.0 1.0##a square moves.", "which leads out of the folder of the clips"),
]
GOOD = {
    "next_qa": {"video": "9", "question": "how", "answer": "right", "qid": "1", "type": "CH",
                **{f"a{number}": option for number, option in enumerate(("left", "right", "up", "down", "none"))}},
    "activitynet_qa": {"video_name": "9", "question": "is it", "question_id": "v_9_1"},
    "msrvtt_qa": {"video_id": 9, "question": "what?", "answer": "square", "id": 1},
    "charades_sta": "AO8RW 0.0 9999.0##a square moves.",
}  # fmt: skip


def write_beside(folder: Path) -> None:
    (folder / "map_vid_vidorID.json").write_text(json.dumps({"9": "00/9", "2": "../../etc/2"}))
    (folder / "rows_a.json").write_text(json.dumps([{"question_id": "v_9_1", "answer": "yes", "type": 3}]))
    for name in ("00/9.mp4", "v_9.mp4", "video9.mp4", "AO8RW.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"any")


@pytest.mark.parametrize(("format", "change", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_rows_of_a_layout_that_are_none_are_named(tmp_path, format, change, message):
    write_beside(tmp_path)
    good, path = GOOD[format], tmp_path / "rows_q.json"
    if isinstance(good, str):
        path.write_text(f"{good}\n\n{change}\n")
    else:
        write_jsonl(path, [good, {**good, **change}])
    rows, problems = survey_rows(path, format=format)
    assert len(rows) == 1
    (problem,) = problems
    assert message in str(problem)
    assert problem.where.endswith(":3" if isinstance(good, str) else ":2")


def test_files_beside_the_rows_are_needed(tmp_path):
    path = write_jsonl(tmp_path / "x_q.json", [GOOD["activitynet_qa"]])
    _, problems = survey_rows(path, format="activitynet_qa")
    assert "x_a.json: got No such file or directory, need the file that belongs to `x_q.json`" in str(problems[0])
    (tmp_path / "x_a.json").write_text("{")
    assert "x_a.json: got invalid JSON" in str(survey_rows(path, format="activitynet_qa")[1][0])
    (tmp_path / "x_a.json").write_text("{}")
    assert "got something else, need a list" in str(survey_rows(path, format="activitynet_qa")[1][0])


def test_cards_say_everything(tmp_path):
    assert set(CARDS) == set(MAKE)
    shown = describe_cards(tmp_path)
    for name in CARDS:
        card = read_card(name)
        assert all((card.summary, card.source.startswith("https://"), card.licence, card.get, card.get_clips))
        assert f"{name}:{card.default_split(is_held_out=True)}" in shown
        assert all(split.is_benchmark == (split_name == "test") for split_name, split in card.splits.items())
    assert f"git clone https://github.com/doc-doc/NExT-QA {tmp_path}/next-qa" in shown
    assert len(ACTIVITYNET_TYPES) == 9


def test_problems_of_all_datasets_are_one_error(tmp_path):
    data = {"train": "msrvtt-qa", "val": "charades-sta", "datasets": str(tmp_path)}
    with pytest.raises(DataError) as caught:
        bring_datasets(Recipe.model_validate({"model": {"path": "tiny"}, "data": data}))
    assert [problem.where for problem in caught.value.problems] == ["data.train"] * 2 + ["data.val"] * 2
