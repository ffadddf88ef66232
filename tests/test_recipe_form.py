"""The whole text of every message about the form of a recipe: overrides, YAML, files that extend others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipe_errors import BASE, EVAL, SECTIONS, told, told_of


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("override", "lines"),
    [
        ("lora.rank", ["override `lora.rank`: got no `=`, need `key.path=value`, such as `lora.rank=16`"]),
        ("=3", ["override `=3`: got no `=`, need `key.path=value`, such as `lora.rank=16`"]),
        ("lora=3", ["lora (command line): got a whole section, need one setting of it, such as `lora.targets=...`"]),
        (
            "lroa.rank=3",
            [
                f"lroa.rank (command line): got an unknown section, need one of {SECTIONS}",
                "  hint: did you mean `lora.rank`?",
            ],
        ),
        (
            "lora.rank.x=3",
            [
                f"lora.rank.x (command line): got an unknown section, need one of {SECTIONS}",
                "  hint: did you mean `lora.rank`?",
            ],
        ),
        (
            "eval.rank=3",
            [
                f"eval.rank (command line): got an unknown key, need one of {EVAL}",
                "  hint: that setting is `lora.rank`",
            ],
        ),
        ("lora.rank=", ["lora.rank (command line): got `null`, need a whole number of at least 1"]),
        (
            "name=[",
            [
                "name (command line): got `[`: expected the node content, but found '<stream end>', need a YAML value",
                "  hint: quote it",
            ],
        ),
    ],
)
def test_overrides(override: str, lines: list[str]) -> None:
    assert told(BASE, override) == lines


def test_an_override_given_twice() -> None:
    assert told(BASE, "seed=1", "seed=2") == [
        "seed (command line): got the setting twice, need each setting once",
        "  hint: remove one of the two",
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ["mine.yaml: got nothing in it, need sections such as `model:` and `data:`"]),
        ("# only a comment\n", ["mine.yaml: got nothing in it, need sections such as `model:` and `data:`"]),
        ("- a\n", ["mine.yaml: got a list, need sections such as `model:` and `data:`"]),
        ("hello\n", ["mine.yaml: got the text `hello`, need sections such as `model:` and `data:`"]),
        (
            "seed: 1\nlora:\n  rank: 8\n  rank: 9\nseed: 2\n",
            [
                "mine.yaml:4: got the key `rank` again (first in line 3), need each key once",
                "  hint: remove one of the two",
                "mine.yaml:5: got the key `seed` again (first in line 1), need each key once",
                "  hint: remove one of the two",
            ],
        ),
        ("1: x\n", ["mine.yaml:1: got the key `1`, need the name of a setting"]),
        ("? [a]\n: x\n", ["mine.yaml:1: got a key that is a list or a mapping, need the name of a setting"]),
        ("lora:\n\trank: 8\n", ["mine.yaml:2: got a tab, need spaces", "  hint: indent with two spaces per level"]),
        (
            "seed: 1\nlora: rank: 8\n",
            [
                "mine.yaml:2: got a second `:` in one line, need one `key: value` per line",
                "  hint: quote a text that holds `: `",
            ],
        ),
        (
            "seed: 1\n---\nseed: 2\n",
            ["mine.yaml:2: got a second document, need one document per file", "  hint: remove the line `---`"],
        ),
        (
            "seed: [1\n",
            [
                "mine.yaml:2: got expected ',' or ']', but got '<stream end>', need YAML text",
                "  hint: look at this line and the one before it",
            ],
        ),
        (
            "seed: !!python/object:os.system {}\n",
            [
                "mine.yaml:1: got the tag `!!python/object:os.system`, need a plain value",
                "  hint: remove the tag",
            ],
        ),
        (
            "a: \x00",
            [
                "mine.yaml: got unacceptable character #x0000: special characters are not allowed in "
                '"<unicode string>", position 3, need YAML text'
            ],
        ),
        (b"seed: \xff", ["mine.yaml: got the byte 0xff at 6, need UTF-8 text"]),
    ],
)
def test_the_form_of_the_file(text: str | bytes, lines: list[str]) -> None:
    assert told(text) == lines


def test_merge_keys_are_no_settings() -> None:
    assert told(f"{BASE}lora: &a {{rank: 4}}\noptim: {{<<: *a}}\n") == [
        "mine.yaml:4: got the merge key `<<`, need the name of a setting",
        "  hint: write the settings out, or start from another recipe with `extends`",
    ]


def test_no_such_recipe() -> None:
    Path("recipes").mkdir()
    for name in ("tiny_cpu.yaml", "other.yaml"):
        Path("recipes", name).write_text(BASE)
    assert told_of("recipes/tiny_cup.yaml") == [
        "recipes/tiny_cup.yaml: got no such file, need a recipe file",
        "  hint: did you mean `recipes/tiny_cpu.yaml`?",
    ]
    assert told_of("nowhere/x.yaml") == ["nowhere/x.yaml: got no such file, need a recipe file"]
    assert told_of("recipes") == [
        "recipes: got a folder, need a recipe file",
        "  hint: did you mean `recipes/other.yaml` or `recipes/tiny_cpu.yaml`?",
    ]
    assert told_of("recipes/other.yaml/x.yaml") == [
        "recipes/other.yaml/x.yaml: got Not a directory, need a file that can be read"
    ]


def test_extending_what_cannot_be_extended() -> None:
    assert told(f"{BASE}extends: [a]\n") == ["extends: got the list `['a']`, need the path of one recipe file"]
    assert told(f"{BASE}extends: nine.yaml\n") == [
        "mine.yaml: extends: got `nine.yaml`, no such file, need a recipe file",
        "  hint: did you mean `mine.yaml`?",
    ]
    Path("a.yaml").write_text("extends: mine.yaml\n")
    assert told("extends: a.yaml\n") == [
        "a.yaml: extends: got the circle `mine.yaml -> a.yaml -> mine.yaml`, need a chain of files that ends"
    ]
    Path("a.yaml").write_text("extends: 3\n")
    assert told("extends: a.yaml\n") == ["a.yaml: extends: got `3`, need the path of one recipe file"]
