"""Recipe files: what loads, how layers merge, where paths start, and what identifies a recipe."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pydantic
import pytest

from cvft.errors import RecipeError
from cvft.recipe import (
    Data,
    Model,
    Parallel,
    Recipe,
    Train,
    default_name,
    differing_settings,
    dump_recipe,
    fingerprint,
    load_recipe,
    recipe_from_dict,
    schema_json,
    weights_fingerprint,
    with_absolute_output,
)
from cvft.recipe.names import FOREIGN_NAMES, iter_fields

BASE = "model: {path: tiny}\ndata: {train: rows.jsonl}\n"
REPO = Path(__file__).parent.parent


def write(folder: Path, text: str, *, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, *overrides: str) -> Recipe:
    return load_recipe(write(folder, text), overrides=overrides).recipe


def test_a_beginners_recipe_is_two_sections(tmp_path: Path) -> None:
    recipe = load(tmp_path, BASE)
    assert recipe == Recipe(name="mine", model=Model(path="tiny"), data=Data(train=tmp_path / "rows.jsonl"))
    assert (recipe.train.epochs, recipe.train.max_steps, recipe.data.val_fraction) == (3.0, None, 0.05)
    assert recipe.run_dir == Path("runs/mine")


def test_the_schema_stays_small_and_every_field_is_described() -> None:
    fields = dict(iter_fields())
    assert 40 <= len(fields) <= 110
    for path, field in fields.items():
        assert field.description, path
        assert field.description.endswith("."), path
        assert "\n" not in field.description, path
        assert "default" not in field.description.lower(), path
    assert set(FOREIGN_NAMES.values()) <= set(fields)


def test_a_recipe_is_frozen(tmp_path: Path) -> None:
    recipe = load(tmp_path, BASE)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        setattr(recipe.lora, "rank", 3)  # noqa: B010 -- a plain assignment would not pass the type checker
    assert hash(recipe) == hash(load(tmp_path, BASE))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1.5E-5", 1.5e-5), (".5", 0.5), ("1.", 1.0), ("2", 2.0), ("1e+2", 100.0)],
)
def test_floats_in_every_usual_spelling(tmp_path: Path, text: str, value: float) -> None:
    assert load(tmp_path, f"{BASE}optim: {{learning_rate: {text}}}\n").optim.learning_rate == value
    assert load(tmp_path, BASE, f"optim.learning_rate={text}").optim.learning_rate == value


def test_words_that_yaml_1_1_would_read_as_something_else_stay_text(tmp_path: Path) -> None:
    for word in ("no", "on", "010", "2026-01-01", "0x10", "1_000"):
        assert load(tmp_path, f"{BASE}name: {word}\n").name == word


def test_a_section_whose_lines_are_all_commented_out_states_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, f"{BASE}lora:\n  # rank: 16\n") == load(tmp_path, BASE)


def test_extends_merges_sections_and_replaces_lists(tmp_path: Path) -> None:
    write(tmp_path, f"{BASE}lora: {{targets: [a, b], rank: 4}}\nseed: 1\n", name="far/root.yaml")
    write(tmp_path, "extends: far/root.yaml\nlora: {alpha: 5}\nseed: 2\n", name="middle.yaml")
    path = write(tmp_path, "extends: middle.yaml\nlora: {targets: [c]}\n")
    loaded = load_recipe(path, overrides=["lora.dropout=0.5"])
    lora = loaded.recipe.lora
    assert (lora.targets, lora.rank, lora.alpha, lora.dropout, loaded.recipe.seed) == (("c",), 4, 5, 0.5, 2)
    assert loaded.chain_of_files == (path, tmp_path / "middle.yaml", tmp_path / "far/root.yaml")
    assert loaded.overrides == ("lora.dropout=0.5",)
    assert loaded.subject == f"recipe {path}"


def test_relative_paths_belong_to_the_file_that_states_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(tmp_path, "model: {path: ./m}\ndata: {train: a.jsonl, video_root: ../v}\n", name="far/root.yaml")
    path = write(tmp_path, "extends: far/root.yaml\ndata: {val: b.jsonl}\neval: {probes: [p.jsonl, ../q.jsonl]}\n")
    monkeypatch.chdir(elsewhere)
    data = load_recipe(path).recipe.data
    assert (data.train, data.val, data.video_root) == (
        tmp_path / "far/a.jsonl",
        tmp_path / "b.jsonl",
        tmp_path / "v",
    )
    assert load_recipe(path).recipe.eval.probes == (tmp_path / "p.jsonl", tmp_path.parent / "q.jsonl")
    words = ["data.train=c.jsonl", "model.path=./n", "output.root=out", "eval.probes=[p.jsonl]"]
    changed = load_recipe(path, overrides=words).recipe
    assert changed.eval.probes == (elsewhere / "p.jsonl",)
    assert (changed.data.train, changed.model.path) == (elsewhere / "c.jsonl", str(elsewhere / "n"))
    assert changed.run_dir == Path("out/mine")


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = load(tmp_path, "model: {path: ~/m}\ndata: {train: ~/a.jsonl}\n")
    assert (recipe.model.path, recipe.data.train) == (str(tmp_path / "m"), tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("stated", "resolved"),
    [
        ("tiny", "tiny"),
        ("./tiny", "JOB/tiny"),
        ("here", "JOB/here"),
        ("missing", "JOB/missing"),
        ("here/missing", "JOB/here/missing"),
        ("cwd/missing", "JOB/cwd/missing"),  # `cwd` is in the current folder: a path, but still the recipe's
        ("a/b/missing", "JOB/a/b/missing"),
        ("a/missing/", "JOB/a/missing"),
        ("./a/missing", "JOB/a/missing"),
        ("../up", "up"),
        (".", "JOB"),
        ("/abs", "/abs"),
        ("hf:zai-org/cogvlm2-video-llama3-chat", "hf:zai-org/cogvlm2-video-llama3-chat"),
        ("hf:here/name", "hf:here/name"),
        ("ms:here/name", "ms:here/name"),
        ("zai-org/cogvlm2-video-llama3-chat", "zai-org/cogvlm2-video-llama3-chat"),
    ],
)
def test_a_model_is_a_path_from_the_recipes_folder_unless_it_can_be_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: str, resolved: str
) -> None:
    for folder in ("JOB/here", "JOB/tiny", "elsewhere/cwd"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = load(tmp_path / "JOB", f"model: {{path: '{stated}'}}\ndata: {{train: a}}\n").model.path
    is_name = stated == resolved
    assert path == (resolved if is_name else str(tmp_path / resolved))


def test_a_later_layer_replaces_the_other_of_an_either_or(tmp_path: Path) -> None:
    text = f"{BASE}train: {{epochs: 2}}\n".replace("rows.jsonl}", "rows.jsonl, val_fraction: 0.1}")
    recipe = load(tmp_path, text, "train.max_steps=40", "data.val=v.jsonl")
    assert (recipe.train.epochs, recipe.train.max_steps, recipe.data.val_fraction) == (None, 40, None)
    kept = load(tmp_path, text, "train.max_steps=null")
    assert (kept.train.epochs, kept.data.val_fraction) == (2.0, 0.1)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(BASE, encoding="utf-8-sig")
    assert load_recipe(path).recipe.model.path == "tiny"


def test_offloading_has_an_effect_with_one_rank(tmp_path: Path) -> None:
    recipe = load(tmp_path, BASE, "parallel.strategy=zero2_offload", "parallel.num_gpus=1")
    assert recipe.parallel == Parallel(strategy="zero2_offload", num_gpus=1)


def test_overrides_are_typed_like_the_file(tmp_path: Path) -> None:
    recipe = load(tmp_path, BASE, "lora.targets=[a, b]", "lora.dora=true", "name=x")
    assert (recipe.lora.targets, recipe.lora.dora, recipe.name) == (("a", "b"), True, "x")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a b.yaml", "a-b"),
        (".hidden.yaml", "hidden"),
        ("v1.2.yaml", "v1.2"),
        ("ü.yaml", "ü"),
        ("配方.yaml", "配方"),
        ("u\u0308.yaml", "ü"),
        ("配" * 90, "配" * 66),
        ("हिन्दी.yaml", "हिन्दी"),
        ("🙂.yaml", "run"),
        ("x" * 120, "x" * 100),
    ],
)
def test_the_run_is_named_after_the_file(file: str, name: str) -> None:
    assert default_name(Path(file)) == name


def test_a_snapshot_loads_back_to_an_equal_recipe_anywhere(tmp_path: Path) -> None:
    text = f"{BASE}name: '1e-4'\nlora: {{targets: ['no', '010', 'null', 'true', 'ü: #']}}\ntrain: {{max_steps: 5}}\n"
    recipe = load(tmp_path, text)
    assert (recipe.name, recipe.lora.targets) == ("1e-4", ("no", "010", "null", "true", "ü: #"))
    again = load_recipe(write(tmp_path / "deep/er", dump_recipe(recipe), name="recipe.yaml")).recipe
    assert again == recipe
    assert fingerprint(again) == fingerprint(recipe)


def test_the_fingerprint_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, BASE)
    here = load_recipe(path).fingerprint
    monkeypatch.chdir(tmp_path)
    assert load_recipe("mine.yaml").fingerprint == here
    assert (
        load_recipe("mine.yaml", overrides=["name=other", "output.root=x", "optim.max_grad_norm=1"]).fingerprint == here
    )
    assert len(here) == 64


def test_every_other_setting_changes_the_fingerprint(tmp_path: Path) -> None:
    base = load_recipe(write(tmp_path, BASE))
    changes = ["seed=1", "lora.rank=4", "eval.num_rows=3", "train.num_workers=0", "model.dtype=fp32"]
    prints = {load_recipe(base.path, overrides=[change]).fingerprint for change in changes}
    assert len(prints | {base.fingerprint}) == len(changes) + 1


def test_the_weights_fingerprint_lets_what_comes_after_training_change(tmp_path: Path) -> None:
    base = load(tmp_path, BASE)
    answers = ("train.eval_answers=9", "eval.max_new_tokens=9", "eval.batch_rows=9")
    for same in (
        *("eval.num_rows=3", "export.dtype=fp32", "export.checkpoint=best", "train.num_workers=0"),
        *("train.logging_steps=1", "train.report_to=[wandb]", "train.select_by=eval_token_acc", "name=x", *answers),
    ):
        assert weights_fingerprint(load(tmp_path, BASE, same)) == weights_fingerprint(base), same
    for other in ("seed=1", "lora.rank=4", "train.global_batch_rows=8", "video.sampling=base", "model.dtype=fp32"):
        assert weights_fingerprint(load(tmp_path, BASE, other)) != weights_fingerprint(base), other
    # where answers say when the training ends, how they are given decides its weights
    early = ("train.early_stop_evals=2", "train.eval_answers=2", "train.select_by=eval_token_f1")
    ends = load(tmp_path, BASE, *early)
    for other in ("train.early_stop_evals=3", "train.select_by=eval_rouge_l", *answers):
        kept = [each for each in early if each.partition("=")[0] != other.partition("=")[0]]
        changed = load(tmp_path, BASE, *kept, other)
        assert weights_fingerprint(changed) != weights_fingerprint(ends), other
        assert [path for path, _, _ in differing_settings(ends, changed)] == [other.partition("=")[0]]
    assert weights_fingerprint(load(tmp_path, BASE, *early, "eval.num_rows=3")) == weights_fingerprint(ends)


def test_python_callers_build_the_same_value(tmp_path: Path) -> None:
    values = {"model": {"path": "tiny"}, "data": {"train": "a.jsonl"}, "lora": {"targets": ["x"]}}
    recipe = recipe_from_dict(values)
    assert recipe.lora.targets == ("x",)
    assert (recipe.name, recipe.data.train) == (None, Path("a.jsonl"))
    assert values["data"] == {"train": "a.jsonl"}  # the caller's own values stay as they are
    with pytest.raises(RecipeError) as caught:
        _ = recipe.run_dir
    assert str(caught.value) == "recipe has 1 problem\n  name: got nothing, need the name of the run's folder"


def test_accumulation_steps(tmp_path: Path) -> None:
    recipe = Recipe(
        name="r",
        model=Model(path="tiny"),
        data=Data(train=Path("a")),
        train=Train(global_batch_rows=16, micro_batch_rows=2),
        parallel=Parallel(strategy="ddp"),
    )
    assert [recipe.accumulation_steps(num_ranks=n) for n in (1, 2, 4, 8)] == [8, 4, 2, 1]
    with pytest.raises(RecipeError) as caught:
        recipe.accumulation_steps(num_ranks=3)
    assert str(caught.value) == (
        "recipe r has 1 problem\n"
        "  train.global_batch_rows: got `16`, need a multiple of 6 (train.micro_batch_rows 2 x 3 ranks)\n"
        "    hint: nearest: `12` or `18`; or 2 or 4 ranks"
    )


def test_the_schema_file_for_editors_is_up_to_date() -> None:
    text = (REPO / "cvft/recipe/recipe.schema.json").read_text(encoding="utf-8")
    assert text == schema_json(), "write it again: cvft schema > cvft/recipe/recipe.schema.json"
    schema = json.loads(text)
    assert schema["additionalProperties"] is False
    assert "extends" in schema["properties"]


def test_all_shipped_recipes_load() -> None:
    paths = sorted((REPO / "recipes").rglob("*.yaml"))
    assert len(paths) >= 3, "the search for recipes found too few"
    for path in paths:
        recipe = load_recipe(path).recipe
        assert recipe.name == path.stem
        text = path.read_text(encoding="utf-8")
        first, *comments = text.splitlines()
        target = first.removeprefix("# yaml-language-server: $schema=")
        assert target != first, path
        assert Path(os.path.normpath(path.parent / target)).is_file(), path
        assert f"cvft run {path.relative_to(REPO)}" in text, path
        assert any(line.startswith("# Needs ") for line in comments), path


def test_the_four_gpu_recipe_trains_like_the_one_gpu_recipe() -> None:
    one = load_recipe(REPO / "recipes/cogvlm2_video_lora_1gpu.yaml").recipe
    four = load_recipe(REPO / "recipes/cogvlm2_video_lora_zero2_4gpu.yaml").recipe
    assert four == one.model_copy(update={"name": four.name, "parallel": Parallel(strategy="zero2", num_gpus=4)})
    published = (one.lora.targets, one.lora.rank, one.lora.alpha, one.optim.learning_rate, one.train.epochs)
    assert published == ("qkv", 8, 32, 1e-4, 3.0)
    assert (one.accumulation_steps(num_ranks=1), one.model.dtype, one.train.gradient_checkpointing) == (
        16,
        "bf16",
        "auto",
    )


def test_a_run_that_was_made_from_another_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = write(project / "recipes", f"{BASE}output: {{features: features}}\n")
    monkeypatch.chdir(elsewhere)
    assert load_recipe(path).recipe.run_dir == Path("runs/mine")
    snapshot = dump_recipe(load_recipe(path).recipe)
    write(project / "runs" / "mine", snapshot, name="recipe.yaml")
    found = load_recipe(path).recipe
    assert (found.run_dir, found.output.features) == (project / "runs" / "mine", project / "features")
    assert load_recipe(path, overrides=["eval.num_rows=3"]).recipe.run_dir == found.run_dir
    # another training, other data, another name or place, a broken snapshot: not its run
    for words in (["lora.rank=3"], ["data.train=x"], ["name=other"], ["output.root=runs"]):
        assert not load_recipe(path, overrides=words).recipe.run_dir.is_absolute(), words
    write(elsewhere / "runs" / "mine", snapshot, name="recipe.yaml")  # the one at hand comes first
    assert load_recipe(path).recipe.run_dir == Path("runs/mine")
    (elsewhere / "runs" / "mine" / "recipe.yaml").unlink()
    write(project / "runs" / "mine", "model: [", name="recipe.yaml")
    assert load_recipe(path).recipe.run_dir == Path("runs/mine")


def test_a_snapshot_means_the_same_run_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load(tmp_path, BASE, "output.features=f")
    placed = with_absolute_output(recipe)
    assert (placed.run_dir, placed.output.features) == (tmp_path / "runs" / "mine", tmp_path / "f")
    assert fingerprint(placed) == fingerprint(recipe)


@pytest.mark.parametrize("name", ["我的 配方", "Ünïcode", "हिन्दी", "a.b_c-d", "7", "x" * 200, "e\u0301"])
def test_names_of_any_script_are_taken(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, BASE, f"name={json.dumps(name, ensure_ascii=False)}").name == unicodedata.normalize(
        "NFC", name
    )


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", ".a", "..", "-a", " a", "a ", "a\nb", "a\0", "a:b", "🙂", "x" * 201, "配" * 67]
)
def test_names_that_no_folder_should_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=r"name \(command line\): got .*") as caught:
        load(tmp_path, BASE, f"name={json.dumps(name, ensure_ascii=False)}")
    assert ("of at most 200" in str(caught.value)) == (len(name.encode()) > 200)
