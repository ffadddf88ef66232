"""The whole text of every message about a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipe_errors import BASE, EVAL, told

TOP = "`name`, `seed`, `model`, `data`, `video`, `lora`, `optim`, `train`, `parallel`, `export`, `eval` or `output`"
MODEL = (
    "`path`, `revision`, `template`, `system`, `text_positions`, `grid_seconds`, `clip_tags`, `dtype`, `rope_precision`, "
    "`quantize`, `embeddings_on_cpu` or `attention`"
)
LORA = "`targets`, `rank`, `alpha`, `dropout`, `dora`, `rslora`, `train_vision_tower` or `train_projector`"
LEARN = "`learning_rate`, `weight_decay`, `warmup_ratio`, `schedule`, `max_grad_norm`, `adam_beta1` or `adam_beta2`"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SETTINGS: list[tuple[str, list[str]]] = [
    # another value than the type
    (
        "lora: {targets: qvk}",
        [
            "lora.targets: got `qvk`, need one of `qkv`, `all-linear` or a list of module names",
            "  hint: did you mean `qkv`?",
        ],
    ),
    (
        "lora: {targets: [1]}",
        ["lora.targets: got the list `[1]`, need one of `qkv`, `all-linear` or a list of module names"],
    ),
    (
        "model: {path: m, hub: modelscope}",
        [
            f"model.hub: got an unknown key, need one of {MODEL}",
            "  hint: write `hf:owner/name` or `ms:owner/name` as `model.path`",
        ],
    ),
    (
        "lora: {targets: []}",
        ["lora.targets: got an empty list, need one of `qkv`, `all-linear` or a list of module names"],
    ),
    ("video: {max_frames: 0}", ["video.max_frames: got `0`, need a whole number of at least 1 or `null`"]),
    ("video: {max_frames: 25000}", ["video.max_frames: got `25000`, need a whole number from 1 to 10000 or `null`"]),
    ("video: {max_frames: true}", ["video.max_frames: got `true`, need a whole number of at least 1 or `null`"]),
    ("video: {decoder: null}", ["video.decoder: got `null`, need `pyav` or `decord`"]),
    ("video: {timeout_s: 0}", ["video.timeout_s: got `0`, need a number above 0"]),
    (
        "lora: {rank: '8'}",
        ["lora.rank: got the text `8`, need a whole number of at least 1", "  hint: remove the quotes"],
    ),
    ("lora: {rank: 8.0}", ["lora.rank: got `8.0`, need a whole number of at least 1", "  hint: write `8`"]),
    ("lora: {rank: 8.5}", ["lora.rank: got `8.5`, need a whole number of at least 1"]),
    ("lora: {rank: {}}", ["lora.rank: got a mapping, need a whole number of at least 1"]),
    ("lora: {dropout: 1}", ["lora.dropout: got `1`, need a number of at least 0 and below 1"]),
    ("lora: {dropout: .nan}", ["lora.dropout: got `nan`, need a number of at least 0 and below 1"]),
    ("optim: {learning_rate: .inf}", ["optim.learning_rate: got `inf`, need a number above 0"]),
    ("optim: {learning_rate: fast}", ["optim.learning_rate: got the text `fast`, need a number above 0"]),
    ("lora: {dora: yes}", ["lora.dora: got `yes`, need `true` or `false`", "  hint: write `true`"]),
    ("lora: {dora: False}", ["lora.dora: got `False`, need `true` or `false`", "  hint: write `false`"]),
    ("lora: {dora: 1}", ["lora.dora: got `1`, need `true` or `false`"]),
    (
        "train: {group_by_clip: true}",
        ["train.group_by_clip: got `true`, need one of `auto`, `on` or `off`"],
    ),
    (
        "train: {group_by_clip: off, max_rows_per_group: 4}",
        [
            "train.max_rows_per_group: got `4` with `train.group_by_clip` off, need no such setting: no rows are grouped",
            "  hint: remove it, or set `train.group_by_clip: auto`",
        ],
    ),
    (
        "model: {path: m, attention: flash_attention_2}\ntrain: {group_by_clip: on}",
        [
            "train.group_by_clip: got `on` with `model.attention` flash_attention_2, need an attention that takes a mask, "
            "which that kernel does not",
            "  hint: set `model.attention: auto`",
        ],
    ),
    (
        "train: {max_rows_per_group: 40}",
        ["train.max_rows_per_group: got `40`, need at most the 16 rows of a step (train.global_batch_rows)"],
    ),
    (
        "train: {select_by: eval_token_f1}",
        [
            "train.select_by: got `eval_token_f1` without `train.eval_answers`, need `eval_loss` or `eval_token_acc`: no val "
            "row is answered while it trains",
            "  hint: set `train.eval_answers` to the number of val rows to answer each time",
        ],
    ),
    (
        "train: {eval_answers: 4}\nparallel: {strategy: zero3, num_gpus: 2}",
        [
            "train.eval_answers: got `4` with `parallel.strategy` zero3, need `null`: ZeRO-3 has no whole weights to answer "
            "with",
            "  hint: set `parallel.strategy: zero2`",
        ],
    ),
    (
        "train: {early_stop_evals: 2, max_steps: 9}\nexport: {checkpoint: 10}",
        [
            "export.checkpoint: got `10` with `train.early_stop_evals`, need `best` or `last`: the training may end before "
            "that step",
            "  hint: set `export.checkpoint: best`",
            "export.checkpoint: got `10`, need at most 9 (train.max_steps)",
        ],
    ),
    (
        "export: {checkpoint: newest}",
        [
            "export.checkpoint: got `newest`, need one of `best`, `last` or a whole number of at least 1",
            "  hint: did you mean `best`?",
        ],
    ),
    (
        "train: {report_to: wandb}",
        ["train.report_to: got `wandb`, need a list of `tensorboard`, `wandb`, `swanlab`, `trackio` or `mlflow`"],
    ),
    (
        "train: {report_to: [wandb, wandb]}",
        ["train.report_to: got `wandb` more than once, need each tracker once", "  hint: remove the second"],
    ),
    ("train: {epochs: 0}", ["train.epochs: got `0`, need a number above 0 or `null`"]),
    (
        "parallel: {num_gpus: all}",
        ["parallel.num_gpus: got the text `all`, need `auto` or a whole number of at least 1"],
    ),
    (
        "eval: {probes: a.jsonl}",
        [
            "eval.probes: got `a.jsonl`, need a list of paths",
            "  hint: a list is written `[a.jsonl]`",
        ],
    ),
    ("eval: {probes: [3]}", ["eval.probes: got the list `[3]`, need a list of paths"]),
    ("eval: {probes: 3}", ["eval.probes: got `3`, need a list of paths"]),
    (
        "eval: {probes: [a/x.jsonl, rows.jsonl, b/x.jsonl]}",
        [
            "eval.probes: got 2 files named `x`, need files of different names, which the report shows",
            "  hint: rename all but one",
            "eval.probes: got the file of `data.train`, need rows that this training is not about",
            "  hint: leave it out",
        ],
    ),
    ("output: {root: ''}", ["output.root: got an empty text, need a path"]),
    ("output: {root: 3}", ["output.root: got the number `3`, need a path", '  hint: quote it: `"3"`']),
    ("name: a/b", ["name: got `a/b`, need a folder name (letters, digits, `.`, `_`, `-`) or `null`"]),
    (
        "name: 2026",
        [
            "name: got the number `2026`, need a folder name (letters, digits, `.`, `_`, `-`) or `null`",
            '  hint: quote it: `"2026"`',
        ],
    ),
    ("lora: 8", ["lora: got `8`, need a section of settings, such as `targets`"]),
    ("lora: [rank]", ["lora: got the list `['rank']`, need a section of settings, such as `targets`"]),
    # unknown keys
    (
        "lora: {rnak: 8}",
        [f"lora.rnak: got an unknown key, need one of {LORA}", "  hint: did you mean `rank`?"],
    ),
    ("lroa: {rank: 8}", [f"lroa: got an unknown key, need one of {TOP}", "  hint: did you mean `lora`?"]),
    ("rank: 8", [f"rank: got an unknown key, need one of {TOP}", "  hint: that setting is `lora.rank`"]),
    (
        "eval: {learning_rate: 1}",
        [
            f"eval.learning_rate: got an unknown key, need one of {EVAL}",
            "  hint: that setting is `optim.learning_rate`",
        ],
    ),
    (
        "eval: {lerning_rate: 1}",
        [
            f"eval.lerning_rate: got an unknown key, need one of {EVAL}",
            "  hint: that setting is `optim.learning_rate`",
        ],
    ),
    (
        "optim: {lr: 1}",
        [
            f"optim.lr: got an unknown key, need one of {LEARN}",
            "  hint: that setting is called `optim.learning_rate` here",
        ],
    ),
    ("lora: {zzzzzz: 8}", [f"lora.zzzzzz: got an unknown key, need one of {LORA}"]),
    # rules between settings
    (
        "train: {epochs: 2, max_steps: 4}",
        [
            "train.max_steps: got `4` beside `train.epochs` 2, need one of `train.epochs` and `train.max_steps`",
            "  hint: remove one of the two",
        ],
    ),
    (
        "train: {epochs: null}",
        [
            "train.epochs: got `null` and no `train.max_steps`, need one of `train.epochs` and `train.max_steps`",
            "  hint: set `train.max_steps`, or remove `epochs: null`",
        ],
    ),
    (
        "train: {global_batch_rows: 10, micro_batch_rows: 4}",
        [
            "train.global_batch_rows: got `10`, need a multiple of 4 (train.micro_batch_rows 4)",
            "  hint: nearest: `8` or `12`",
        ],
    ),
    (
        "train: {global_batch_rows: 3, micro_batch_rows: 2}\nparallel: {strategy: ddp, num_gpus: 2}",
        [
            "train.global_batch_rows: got `3`, need a multiple of 4 (train.micro_batch_rows 2 x 2 ranks)",
            "  hint: nearest: `4`",
        ],
    ),
    (
        "lora: {targets: [qkv]}",
        [
            "lora.targets: got `qkv` in a list, need module names in a list, or that word alone",
            "  hint: write `targets: qkv`",
        ],
    ),
    (
        "model: {path: tiny}\ndata: {train: t.jsonl, allow_hosts: media.lan}",
        ["data.allow_hosts: got `media.lan`, need a list of hosts", "  hint: a list is written `[media.lan]`"],
    ),
    (
        "model: {path: tiny, system: 3}",
        ["model.system: got the number `3`, need text or `null`", '  hint: quote it: `"3"`'],
    ),
    (
        "lora: {targets: [a, b, a]}",
        ["lora.targets: got `a` more than once, need each module name once", "  hint: remove the second"],
    ),
    (
        "lora: {train_vision_tower: true}",
        [
            "lora.train_vision_tower: got `true` with `lora.targets` `qkv`, "
            "need `false`: it has an effect with `all-linear` only",
            "  hint: set `lora.targets: all-linear`",
        ],
    ),
    (
        "lora: {targets: [a], train_projector: true}",
        [
            "lora.train_projector: got `true` with `lora.targets` a list of modules, "
            "need `false`: it has an effect with `all-linear` only",
            "  hint: set `lora.targets: all-linear`",
        ],
    ),
    (
        "model: {path: tiny, attention: flash_attention_2, dtype: fp32}\nparallel: {device: cpu}",
        [
            "model.attention: got `flash_attention_2` with `model.dtype` fp32, "
            "need `auto`, `sdpa` or `eager`: that kernel computes in bf16 only",
            "  hint: set `model.attention: auto`",
            "model.attention: got `flash_attention_2` with `parallel.device` cpu, "
            "need `auto`, `sdpa` or `eager`: that kernel needs a GPU",
            "  hint: set `model.attention: auto`",
        ],
    ),
    (
        "parallel: {num_gpus: 3}",
        [
            "parallel.num_gpus: got `3` with `parallel.strategy` single, need 1, or a strategy of several ranks",
            "  hint: set `parallel.strategy: zero2`",
        ],
    ),
    (
        "parallel: {strategy: zero3, num_gpus: 1}",
        [
            "parallel.strategy: got `zero3` with `parallel.num_gpus` 1, need `single` or `zero2_offload` for one rank",
            "  hint: set `parallel.strategy: single`",
        ],
    ),
    (
        "parallel: {strategy: ddp, device: cpu}",
        [
            "parallel.num_gpus: got `auto` with `parallel.device` cpu, "
            "need the number of processes, for there are no GPUs to count",
            "  hint: set `parallel.num_gpus: 2`",
        ],
    ),
    (
        "export: {merge: false, verify_rows: 3, dtype: auto}",
        [
            "export.verify_rows: got `3` with `export.merge` false, need no such setting: nothing is merged",
            "  hint: remove `export.verify_rows`",
        ],
    ),
]


@pytest.mark.parametrize(("text", "lines"), SETTINGS, ids=[text for text, _ in SETTINGS])
def test_settings(text: str, lines: list[str]) -> None:
    base = "" if "data:" in text else "data: {train: rows.jsonl}\n" if text.startswith("model:") else BASE
    assert told(f"{base}{text}\n") == lines


def test_several_files_of_val_rows_are_to_be_joined() -> None:
    assert told("model: {path: tiny}\ndata: {train: [a.jsonl, b.jsonl], val: [c.jsonl]}") == [
        "data.val: got the list `['c.jsonl']`, need a path or `null`",
        "  hint: one file of rows: join several with `cat a.jsonl b.jsonl > all.jsonl`; clip paths start from its folder",
    ]


def test_each_of_several_files_of_rows_is_named_with_what_is_wrong_with_it() -> None:
    files = "a, {path: b, weight: 0}, {path: c, wieght: 2, weight: -1}, {weight: '2'}, 3, {path: d, format: lava}, '', {path: }"
    assert told(f"model: {{path: tiny}}\ndata: {{train: [{files}], on_bad_clip: x}}") == [
        "data.train[1].weight: got `0`, need a number above 0 and of at most 1000",
        "data.train[2].weight: got `-1`, need a number above 0 and of at most 1000",
        "data.train[2].wieght: got an unknown key, need one of `path`, `weight`, `format`, `video_root`, `max_frames` or `fps`",
        "  hint: did you mean `weight`?",
        "data.train[3].path: got nothing, need a path",
        "data.train[3].weight: got the text `2`, need a number above 0 and of at most 1000",
        "  hint: remove the quotes",
        "data.train[4]: got `3`, need a path, or `path`, `weight`, `format`, `video_root`, `max_frames` or `fps`",
        "data.train[5].format: got `lava`, need one of `auto`, `native`, `messages`, `sharegpt`, `alpaca`, `llava`, "
        "`video_chatgpt`, `csv`, `parquet`, `webdataset`, `next_qa`, `activitynet_qa`, `charades_sta`, `msrvtt_qa` or `null`",
        "  hint: did you mean `llava`?",
        "data.train[6]: got an empty text, need a path, or `path`, `weight`, `format`, `video_root`, `max_frames` or `fps`",
        "data.train[7].path: got `null`, need a path",
        "data.on_bad_clip: got `x`, need `error` or `quarantine`",
    ]
    assert told("model: {path: tiny}\ndata: {train: [a, {path: a}]}") == [
        f"data.train[1].path: got `{Path.cwd()}/a` a second time, need each file once",
        "  hint: give it a `weight` of 2",
    ]
    assert told("model: {path: tiny}\ndata: {train: []}") == [
        "data.train: got an empty list, need a path or a list of files"
    ]


def test_what_is_missing() -> None:
    assert told("seed: 1") == [
        "model.path: got nothing, need text without space at its ends",
        "data.train: got nothing, need a path or a list of files",
    ]


def test_a_bound_for_val_rows_without_rows_to_hold_out() -> None:
    hint = "  hint: remove `data.val_rows`; eval.num_rows asks fewer val rows"
    assert told("model: {path: tiny}\ndata: {train: a, val: b, val_rows: 7}\n") == [
        "data.val_rows: got `7` beside a val file, need `null`: nothing is held out of the train file",
        hint,
    ]
    assert told("model: {path: tiny}\ndata: {train: a, val_fraction: 0, val_rows: 7}\n") == [
        "data.val_rows: got `7` beside `data.val_fraction` 0, need `null`: nothing is held out of the train file",
        hint,
    ]


def test_val_file_and_fraction_at_once() -> None:
    assert told("model: {path: tiny}\ndata: {train: a, val: b, val_fraction: 0.1}\n") == [
        "data.val_fraction: got `0.1` beside a val file, need one of `data.val` and `data.val_fraction`",
        "  hint: a val file is used whole: remove `data.val_fraction`",
    ]


def test_measuring_a_val_loss_without_val_rows() -> None:
    assert told("model: {path: tiny}\ndata: {train: a, val_fraction: 0}\ntrain: {eval_steps: 5}\n") == [
        "train.eval_steps: got `5` with `data.val_fraction` 0, need `null`: there are no val rows",
        "  hint: remove `train.eval_steps`, or hold out some clips",
    ]
    head = "model: {path: tiny}\ndata: {train: a, val_fraction: 0}\n"
    assert told(f"{head}train: {{eval_answers: 2, early_stop_evals: 3}}\nexport: {{checkpoint: best}}\n") == [
        "train.eval_answers: got `2` with `data.val_fraction` 0, need `null`: there are no val rows",
        "  hint: remove `train.eval_answers`, or hold out some clips",
        "train.early_stop_evals: got `3` with `data.val_fraction` 0, need `null`: there are no val rows",
        "  hint: remove `train.early_stop_evals`, or hold out some clips",
        "export.checkpoint: got `best` with `data.val_fraction` 0, need `last` or a step: there are no val rows to tell which "
        "is best",
        "  hint: hold out some clips",
    ]


def test_all_problems_are_told_at_once() -> None:
    """Values, unknown keys and rules, and no rule about a setting that has already been told to be wrong."""
    train = "train: {epochs: 0, max_steps: 4, global_batch_rows: 3, micro_batch_rows: 2}\n"
    text = f"{BASE}lora: {{rank: 0, alhpa: 3}}\n{train}"
    assert told(text, "lora.train_projector=true", "sed=3") == [
        f"sed (command line): got an unknown key, need one of {TOP}",
        "  hint: did you mean `seed`?",
        "lora.rank: got `0`, need a whole number of at least 1",
        "train.epochs: got `0`, need a number above 0 or `null`",
        f"lora.alhpa: got an unknown key, need one of {LORA}",
        "  hint: did you mean `alpha`?",
        "lora.train_projector (command line): got `true` with `lora.targets` `qkv`, "
        "need `false`: it has an effect with `all-linear` only",
        "  hint: set `lora.targets: all-linear`",
        "train.global_batch_rows: got `3`, need a multiple of 2 (train.micro_batch_rows 2)",
        "  hint: nearest: `2` or `4`",
    ]


def test_no_rule_speaks_about_a_setting_that_is_wrong_already() -> None:
    assert told(f"{BASE}lora: {{targets: qvk, train_projector: true}}\n") == [
        "lora.targets: got `qvk`, need one of `qkv`, `all-linear` or a list of module names",
        "  hint: did you mean `qkv`?",
    ]


def test_a_problem_names_the_file_that_stated_it() -> None:
    Path("base.yaml").write_text(f"{BASE}lora: {{rank: 0, alpha: 0}}\n")
    assert told("extends: base.yaml\nlora: {alpha: -1}\n", "lora.dropout=2") == [
        "lora.rank (in base.yaml): got `0`, need a whole number of at least 1",
        "lora.alpha: got `-1`, need a whole number of at least 1",
        "lora.dropout (command line): got `2`, need a number of at least 0 and below 1",
    ]
