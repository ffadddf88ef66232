"""What every test shares: one thread, tiers, and skips that a machine may forbid.

One thread for every test and its subprocesses: the models are tiny, and more threads only wait for each other.

Each test file belongs to a tier of `TIERS`; a marker on a test takes it to another one. `make quick` runs `pure` and `cpu`,
`make test` everything but `long`, and `make long` that. `CVFT_REQUIRE=gpu` makes a test that needs a GPU fail where there is
none, for machines meant to have one.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = (
    "1"  # cvft compiles nothing, and an import of bitsandbytes loads the compiler for a second
)

TIERS = {
    "pure": "values and text: no model, no process of its own",
    "cpu": "small models, clips and single commands, a few seconds each",
    "dist": "whole jobs, trainings, several processes, kills",
    "long": "other forms of jobs that `dist` runs: before a release",
    "gpu": "needs a GPU",
}

PURE = {
    "data_clip_names",
    "data_rows",
    "data_rows_fuzz",
    "data_split",
    "data_tags",
    "doctests",
    "dtypes",
    "errors",
    "evaluate_metrics",
    "evaluate_metrics_captions",
    "evaluate_metrics_kinds",
    "data_times",
    "evaluate_metrics_words",
    "evaluate_uncertainty",
    "families_costs",
    "families_layout",
    "families_targets",
    "habits",
    "internvl_folder",
    "jsonl",
    "layering",
    "plan",
    "plan_notes",
    "plan_parallel",
    "predict_batches",
    "predict_placement",
    "qwen_grid",
    "qwen_layout",
    "qwen_positions",
    "qwen_preprocess",
    "readme",
    "recipe_hostile",
    "recipe_load",
    "recipe_messages",
    "tables",
    "train_sampler",
    "weights_checkpoints",
    "weights_header",
}
DIST = {
    "api",
    "chinese",
    "clips",
    "demo",
    "docs_commands",
    "evaluate_judge",
    "evaluate_probes",
    "evaluate_run",
    "export",
    "families",
    "families_training",
    "glm4v_job",
    "imports",
    "internvl_job",
    "odd_rows",
    "official_job",
    "pipeline",
    "predict_ranks",
    "qwen_job",
    "real_footage",
    "recipes",
    "serve",
    "serve_limits",
    "serve_refusals",
    "serve_page",
    "serve_slow",
    "serve_urls",
    "data_fetch_rows",
    "train_interruptions",
    "train_kills",
    "train_ranks",
    "train_run",
    "train_watch",
    "tutorials",
    "weights_hub",
    "train_projector",
    "export_logits",
}
"""Files of each tier, by their name without `test_`; those in neither set are `cpu`."""

FIRST = (
    "train_watch",
    "train_interruptions",
    "train_kills",
    "cli_interrupts",
    "train_ranks",
    "predict_ranks",
    "recipes",
    "demo",
    "families_training",
    "qwen_job",
    "serve",
    "export",
    "weights_hub",
    "train_run",
    "clips",
    "official_job",
    "families_groups",
    "serve_page",
    "stock_costs",
    "glm4v_job",
    "internvl_job",
    "finished_runs",
    "data_catalog",
    "data_similar",
    "network_quantization",
    "api",
    "pipeline",
)
"""Files that take longest, so that two processes that share the files out end together."""


def tier_of(path: Path) -> str:
    name = path.stem.removeprefix("test_")
    return "pure" if name in PURE else "dist" if name in DIST else "cpu"


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in TIERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    files = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    unknown = (PURE | DIST | set(FIRST)) - files
    assert not unknown, unknown


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(name) for name in TIERS):
            item.add_marker(tier_of(item.path))
    rank = {f"test_{name}": number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if torch.cuda.is_available():
        return
    if "gpu" in os.environ.get("CVFT_REQUIRE", "").split(","):
        pytest.fail("CVFT_REQUIRE=gpu, and this machine shows no GPU")
    pytest.skip("needs a GPU; CVFT_REQUIRE=gpu makes this a failure")


@pytest.fixture(autouse=True)
def _same_numbers_whatever_ran_before():
    """No test leaves its random state or its default precision to the next."""
    yield
    import sys

    torch = sys.modules.get("torch")
    if torch is not None:
        assert torch.get_default_dtype() == torch.float32


@pytest.fixture(scope="session")
def full_size(tmp_path_factory) -> list[str]:
    """Settings for a model of the published sizes of which config.json and a tokenizer are there, and no weights."""
    from cvft.families.cogvlm2_video.tensors import PUBLISHED_SIZES
    from cvft.shipped import SHIPPED

    folder, tiny = tmp_path_factory.mktemp("model"), SHIPPED["tiny"].folder
    config = json.loads((tiny / "config.json").read_text())
    vision = {**PUBLISHED_SIZES["vision_config"], "image_size": 224}
    config |= {**PUBLISHED_SIZES, "vision_config": vision, "architectures": ["CogVLMVideoForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(tiny / "tokenizer.json", folder)
    shapes = Path(__file__).parent.parent / "datasets" / "tiny_shapes"
    rows = [f"data.{name}={shapes / f'{name}.jsonl'}" for name in ("train", "val")]
    return [f"model.path={folder}", *rows]
