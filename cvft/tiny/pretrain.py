"""Pre-trains the tiny models that ship with cvft: `python -m cvft.tiny.pretrain --help`.

First the tower alone (`train_tower`), then the language model behind it (`train_language`). The run resumes from its work
folder and writes a loadable checkpoint folder at every report.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvft.tiny.architecture import Architecture
from cvft.tiny.batches import Packer
from cvft.tiny.checkpoint_files import write_checkpoint
from cvft.tiny.cogvlm2_video import TinyCogVLM2Video
from cvft.tiny.qwen3_vl import TinyQwen3VL
from cvft.tiny.schedule import Settings
from cvft.tiny.train_language import LanguageStage, exact_match
from cvft.tiny.train_tower import train_tower

ARCHITECTURES: dict[str, Callable[..., Architecture]] = {each.name: each for each in (TinyCogVLM2Video, TinyQwen3VL)}


def _save_whole(value: Any, path: Path) -> None:
    torch.save(value, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def pretrain(
    model: str, settings: Settings, *, work_dir: Path, out_dir: Path, compile_layers: bool, report_every: int
) -> None:
    """Runs both stages, resuming from `work_dir`.

    Args:
        model: Name of the architecture, one of `ARCHITECTURES`.
        settings: All numbers.
        work_dir: Gets `tower.pt`, `lm.pt` and `log.txt`.
        out_dir: Gets the checkpoint folder, renewed at every report.
        compile_layers: Whether decoder layers are compiled (needs a C++ compiler; twice as fast on CPU).
        report_every: Steps between two reports.
    """
    work_dir.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        with (work_dir / "log.txt").open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    torch.manual_seed(settings.seed)
    architecture = ARCHITECTURES[model](seed=settings.seed)
    tower_path, lm_path = work_dir / "tower.pt", work_dir / "lm.pt"
    if not tower_path.exists():
        start = time.monotonic()
        train_tower(architecture, settings=settings, log=log)
        _save_whole({"model": architecture.model.state_dict(), "seconds_run": time.monotonic() - start}, tower_path)
    tower_state = torch.load(tower_path)
    architecture.model.load_state_dict(tower_state["model"])
    packer = Packer(architecture.writing, settings.questions)
    stage = LanguageStage(architecture, packer, settings=settings)
    if lm_path.exists():
        stage.load_state_dict(torch.load(lm_path))
        log(f"resumed at step {stage.step}")
    if compile_layers:
        # one version for each clip length
        torch._dynamo.config.recompile_limit = 64
        for layer in architecture.layers:
            layer.compile(dynamic=False)
    losses: list[tuple[float, float]] = []
    clock = time.monotonic()
    while stage.step < settings.lm_steps:
        losses.append(stage.train_step())
        if stage.step % report_every and stage.step < settings.lm_steps:
            continue
        stage.seconds_run += time.monotonic() - clock
        clock = time.monotonic()
        scores = exact_match(architecture, packer, stage.held_out, seed=3)
        answer_loss, dense_loss = np.mean(losses, axis=0)
        losses.clear()
        shown = " ".join(f"{category} {100 * right / asked:.0f}" for category, (right, asked) in scores.items())
        log(f"step {stage.step} {stage.seconds_run:.0f} s loss {answer_loss:.3f} dense {dense_loss:.3f} | {shown}")
        _save_whole(stage.state_dict(), lm_path)
        record = {
            "model": model,
            "settings": asdict(settings),
            "step": stage.step,
            "tower_seconds": round(tower_state["seconds_run"]),
            "language_model_seconds": round(stage.seconds_run),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores, torch {torch.__version__}",
            "held_out_exact_match": {category: round(right / asked, 4) for category, (right, asked) in scores.items()},
        }
        write_checkpoint(architecture, folder=out_dir, record=record)


def main() -> None:
    """Reads the command line and runs the pre-training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(ARCHITECTURES), default=TinyCogVLM2Video.name)
    parser.add_argument("--work-dir", type=Path, required=True, help="state for resuming, and log.txt")
    parser.add_argument("--out-dir", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="compile the decoder layers")
    parser.add_argument("--report-every", type=int, default=250, help="steps")
    for name, default in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    args = vars(parser.parse_args())
    torch.set_num_threads(args.pop("threads"))
    pretrain(
        args["model"],
        Settings(**{name: args[name] for name in asdict(Settings())}),
        work_dir=args["work_dir"],
        out_dir=args["out_dir"],
        compile_layers=args["compile"],
        report_every=args["report_every"],
    )


if __name__ == "__main__":
    main()
