"""Recipes that nobody wrote in good faith, or that another program wrote: one clear error, at once, whatever they hold."""

import importlib.util
import json
import os
import re
import time
from pathlib import Path

import pytest
import yaml

from cvft.errors import RecipeError, quote
from cvft.recipe import load_recipe, recipe_from_dict
from cvft.recipe.foreign import FOREIGN_NAMES, NOT_SUPPORTED
from cvft.recipe.names import hint_for_unknown, iter_fields
from cvft.recipe.yaml_text import MAX_BYTES, MAX_VALUES, parse_yaml
from tests.mutations import mutations

BASE = "model: {path: tiny}\ndata: {train: t.jsonl}\n"

WHOLE = {
    "name": "x",
    "seed": 1,
    "model": {
        "path": "tiny",
        "revision": None,
        "template": "chat",
        "dtype": "fp32",
        "quantize": "none",
        "attention": "sdpa",
    },
    "data": {"train": "t.jsonl", "val": "v.jsonl", "video_root": "clips", "on_bad_clip": "error", "max_tokens": 100},
    "video": {"sampling": "chat", "max_frames": 8, "decoder": "pyav", "timeout_s": 5.0, "memory_gib": 1.0},
    "lora": {"targets": ["a"], "rank": 4, "alpha": 8, "dropout": 0.1, "dora": False, "rslora": True},
    "optim": {"learning_rate": 1e-3, "weight_decay": 0.1, "warmup_ratio": 0.1, "schedule": "linear", "adam_beta1": 0.5},
    "train": {"max_steps": 4, "global_batch_rows": 4, "micro_batch_rows": 2, "save_steps": 2, "num_workers": 0},
    "parallel": {"strategy": "ddp", "num_gpus": 2, "device": "cpu", "num_threads": 1},
    "export": {"merge": True, "dtype": "bf16", "verify_rows": 2},
    "eval": {"batch_rows": 2, "max_new_tokens": 8, "compare_base": False, "num_rows": 3},
    "output": {"root": "runs", "features": None},
}

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)

FORMS = {
    "seed: !!int abc": "mine.yaml:3: got `abc` with the tag `!!int`, need a plain value",
    "seed: !!int 0x10": "got `0x10` with the tag `!!int`",
    "optim: {learning_rate: !!float abc}": "got `abc` with the tag `!!float`",
    "export: {merge: !!bool abc}": "got `abc` with the tag `!!bool`",
    "name: !!timestamp abc": "got the tag `!!timestamp`",
    "name: !!timestamp 2020-01-01": "got the tag `!!timestamp`",
    'name: !!binary "@@@"': "got the tag `!!binary`",
    "lora: {targets: !!set {a, b}}": "got the tag `!!set`",
    "lora: {targets: !!omap [a: 1]}": "got the tag `!!omap`",
    "lora: !!map [a]": "got the tag `!!map`",
    "lora: !!python/object/apply:os.system [id]": "got the tag `!!python/object/apply:os.system`",
    "name: !foo x": "got the tag `!foo`",
    LAUGHS: f"got more than {MAX_VALUES} values",
    "lora: {targets: &a [*a]}": "got an alias that stands for itself",
    "lora: {targets: " + "[" * 5000 + "]" * 5000 + "}": "got more than 12 levels of nesting",
    "lora: " + "{a: " * 5000 + "1" + "}" * 5000: "got more than 12 levels of nesting",
    "seed: " + "9" * 5000: "got a number of 5,000 characters, need at most 100",
    "model2: {<<: {path: x}}": "got the merge key `<<`",
    'name: "a\\0b"': "got the character U+0000",
    'name: "\\ud800"': "got the character U+D800",
    "".join(f"k{number}: 1\n" for number in range(20_000)): f"got more than {MAX_VALUES} values",
    "name: " + "a" * 20_000: "got a text of 20,000 characters, need at most 8,192",
    "#" * MAX_BYTES: "bytes, need a recipe: at most 1,048,576",
    "lora: {rank: 100000000000000000000}": "lora.rank: got `100000000000000000000`, need a whole number from 1 to 16384",
    "train: {epochs: 1e300}": "train.epochs: got `1e+300`, need a number above 0 and of at most 1000000000",
    "parallel: {num_threads: 1000000}": "parallel.num_threads: got `1000000`, need a whole number from 1 to 1024",
    "output: {root: " + "a" * 300 + "}": "output.root: got `aaaa",
    "model: {path: x}": "got the key `model` again (first in line 1)",
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refusal(text: str, *overrides: str) -> str:
    Path("mine.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    start = time.process_time()
    with pytest.raises(RecipeError) as raised:
        load_recipe("mine.yaml", overrides=overrides)
    assert time.process_time() - start < 20  # none of them takes a second on an idle machine
    return str(raised.value)


@pytest.mark.parametrize("text", FORMS, ids=[text[:30] for text in FORMS])
def test_what_no_recipe_is_is_one_clear_error(text):
    told = refusal(f"{BASE}{text}\n")
    assert FORMS[text] in told
    assert told.startswith("recipe mine.yaml has 1 problem\n")


@pytest.mark.parametrize(
    "value", ["!!int abc", "9" * 5000, "[" * 5000, "&a [*a]", "!!python/object/apply:os.system [id]"]
)
def test_an_override_goes_through_the_same_door(value):
    assert refusal(BASE, f"seed={value}").startswith("recipe mine.yaml has 1 problem\n  seed (command line): got `")


@pytest.mark.parametrize("kind", ["pipe", "device", "long", "circle"])
def test_what_cannot_be_read_ends_nothing(kind):
    path = "x/" * 5000 if kind == "long" else "other.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind != "long":
        os.symlink("/dev/zero" if kind == "device" else path, path)
    told = refusal(f"{BASE}extends: {path if kind != 'long' else 'x' * 3000}\n")
    assert "mine.yaml: extends: got " in told


def test_a_chain_of_recipes_ends():
    for number in range(40):
        Path(f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    assert "need a chain of at most 32 files" in refusal("extends: 0.yaml\n")


def test_a_home_that_nobody_has_is_a_folder_like_any_other():
    assert recipe_from_dict({"model": {"path": "~no-such-user/x"}, "data": {"train": "~no-such-user/t.jsonl"}})
    Path("mine.yaml").write_text("model: {path: ~no-such-user/x}\ndata: {train: ~no-such-user/t.jsonl}\n")
    assert load_recipe("mine.yaml").recipe.data.train == Path.cwd() / "~no-such-user" / "t.jsonl"


def names_key(message: str, key: str) -> bool:
    return quote(key).strip("`").removesuffix("...") in message


def test_two_thousand_recipes_load_or_say_which_key_is_wrong():
    num_loaded = 0
    for values, key in mutations(WHOLE, count=2000, seed=13):
        try:
            recipe = recipe_from_dict(values)
        except RecipeError as error:
            if names_key(str(error), key):
                continue
            raise AssertionError(f"the message does not name {key!r}") from error
        num_loaded += 1
        assert recipe_from_dict(recipe.to_dict()) == recipe
        json.dumps(recipe.to_dict(), allow_nan=False)
    assert 200 < num_loaded < 1500, num_loaded


def test_two_hundred_files_load_or_say_which_key_is_wrong():
    """The same through a file, which takes ten times as long to read."""
    for number, (values, key) in enumerate(mutations(WHOLE, count=200, seed=14)):
        Path("mine.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        try:
            loaded = load_recipe("mine.yaml")
        except RecipeError as error:
            if not names_key(str(error), key) and not re.search(r"mine\.yaml:\d+: got ", str(error)):
                raise AssertionError(f"{number}: the message does not name {key!r}") from error
        else:
            assert parse_yaml(Path("mine.yaml").read_text(), where="")[0]
            assert loaded.recipe.name


def test_foreign_names_lead_to_settings_that_exist():
    paths = {path for path, _ in iter_fields()}
    assert set(FOREIGN_NAMES.values()) <= paths
    assert FOREIGN_NAMES.keys().isdisjoint(NOT_SUPPORTED)
    our_words = {path.rpartition(".")[2] for path in paths}
    assert our_words.isdisjoint(NOT_SUPPORTED), "one of ours is not supported"
    assert [name for name in FOREIGN_NAMES if name in our_words and FOREIGN_NAMES[name] not in paths] == []
    mentioned = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", " ".join(NOT_SUPPORTED.values())))
    assert mentioned <= paths, mentioned - paths


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("report_to", "that setting is `train.report_to`"),
        ("wandb.project", "that setting is called `train.report_to` here"),
        ("train.wandb_project", "not supported: `train.report_to` names trackers"),
        ("early_stop", "that setting is called `train.early_stop_evals` here"),
        ("train.early_stopping_patience", "that setting is called `train.early_stop_evals` here"),
        ("train.load_best_model_at_end", "not supported: `train.select_by` says by what; `export.checkpoint: best`"),
        ("train.per_device_train_batch_size", "that setting is called `train.micro_batch_rows` here"),
        ("gradient_accumulation_steps", "that setting is called `train.global_batch_rows` here"),
        ("lora_target_modules", "that setting is called `lora.targets` here"),
        ("lora.lora_rank", "that setting is called `lora.rank` here"),
        ("num_train_epochs", "that setting is called `train.epochs` here"),
        ("cutoff_len", "that setting is called `data.max_tokens` here"),
        ("lora.rnak", "did you mean `rank`?"),
        ("learning_rate", "that setting is `optim.learning_rate`"),
        ("train.zzz", ""),
        ("qqqq.wwww", ""),
    ],
)
def test_words_of_other_trainers(name, hint):
    assert hint_for_unknown(name).startswith(hint)
    assert bool(hint_for_unknown(name)) == bool(hint)


def test_no_setting_of_other_trainers_is_taken_for_one_that_means_something_else():
    """All arguments of the installed transformers that are in no table: one has a near name, and all others no guess."""
    spec = importlib.util.find_spec("transformers")
    text = Path(spec.origin).with_name("training_args.py").read_text()
    names = set(re.findall(r"^    ([a-z_0-9]+): .*(?:field|=)", text, flags=re.M))
    assert len(names) > 80
    ours = {path.rpartition(".")[2] for path, _ in iter_fields()}
    hints = {name: hint_for_unknown(f"train.{name}") for name in names - ours}
    guesses = {name: hint for name, hint in hints.items() if hint.startswith("did you mean") or "setting is `" in hint}
    assert guesses == {"gradient_checkpointing_kwargs": "did you mean `gradient_checkpointing`?"}
