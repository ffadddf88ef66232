"""The section `data` of a recipe: its files of rows, and what is said of all of them or of one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cvft.cards import Named, find_named
from cvft.recipe.values import MANY, MANY_PROCESSES, MOST_FRAMES, FilePath, Hosts, Section, to_tuple
from cvft.row_formats import FormatName

DEFAULT_VAL_FRACTION = 0.05
"""Share of the clips held out when a recipe names neither a val file nor a share."""

VAL_KEY = "data.val"
"""Key path of the file of rows that are held out."""


def is_val(key: str) -> bool:
    """Tells whether a key of `Data.sources` is that of rows that are held out."""
    return key == VAL_KEY or key.startswith(f"{VAL_KEY} ")


def _to_row_file(value: object) -> object:
    return {"path": value} if isinstance(value, str | Path) else value


class RowFile(Section):
    """One of several files of rows, with what differs from the others."""

    path: FilePath
    """The file, relative to this recipe."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """How often each of its rows comes in an epoch. With 0.5 half of them come, the others in the next epoch."""
    format: FormatName | None = None
    """How its rows are written; without it, what `data.format` says."""
    video_root: FilePath | None = None
    """Folder that its relative video paths start from; without it, what `data.video_root` says."""
    max_frames: Annotated[int, Field(ge=1, le=MOST_FRAMES)] | None = None
    """Most frames of the clips of its rows that say nothing of it; at most as many as `video.max_frames`."""
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Frames per second of the clips of its rows that say nothing of it, with sampling `fps`."""


class Data(Section):
    """The rows to learn from and to evaluate on."""

    # the list first: a path is written as text, whatever it is
    train: (
        Annotated[
            tuple[Annotated[RowFile, BeforeValidator(_to_row_file)], ...],
            BeforeValidator(to_tuple),
            Field(min_length=1),
        ]
        | FilePath
    )
    """File of rows (JSON, JSONL, CSV, parquet, tar), relative to this recipe; or a list, `{path, weight, format, ...}` each."""
    val: FilePath | None = None
    """Rows held out from training. Without it, clips of the train file are held out."""
    format: FormatName = "auto"
    """How the rows of these files are written. `auto` finds out for each file, and says so where it is not `native`."""
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Share of the train file's clips to hold out when there is no val file; 0 trains on all and evaluates nothing."""
    val_rows: Annotated[int, Field(ge=1, le=MANY)] | None = None
    """Most rows to hold out when there is no val file, whatever `val_fraction` asks for. Fewer are evaluated faster."""
    split_by: Literal["files", "looks"] = "files"
    """What stays on one side without a val file: a file, or all files that look alike, for which clips are decoded once more."""
    video_root: FilePath | None = None
    """Folder that relative video paths start from; without it, the folder of the rows' own file."""
    datasets: FilePath | None = None
    """Folder that has one for each dataset that is given by name; without it, `datasets` in the current folder."""
    on_bad_clip: Literal["error", "quarantine"] = "error"
    """What an unusable clip does: stop before training, or leave its rows out and list them with the reason."""
    check_workers: Annotated[int, Field(ge=1, le=MANY_PROCESSES)] | None = None
    """Processes that decode clips before training; without it, one per CPU and 8 at most. Each may take `video.memory_gib`."""
    cache: FilePath | None = None
    """Folder that clips named by URL are fetched to, once for all runs. Without it, `.urls` beside the runs."""
    allow_hosts: Hosts = ()
    """Hosts of URLs that may lie in an own network, and be asked at any port; all others must be public."""
    max_download_mib: int = Field(default=2048, ge=1, le=MANY)
    """Largest clip that is fetched, in MiB. A larger one is a bad clip."""
    download_timeout_s: float = Field(default=1800.0, gt=0, le=MANY)
    """Seconds that fetching one clip may take before it counts as bad."""
    max_tokens: Annotated[int, Field(ge=1, le=MANY)] | None = None
    """Longest row allowed, in tokens. A longer one is an error and never cut; memory grows with the longest row."""

    @model_validator(mode="before")
    @classmethod
    def _hold_out_by_default(cls, values: object) -> object:
        if isinstance(values, Mapping) and values.get("val") is None and values.get("val_fraction") is None:
            return {**values, "val_fraction": DEFAULT_VAL_FRACTION}
        return values

    @property
    def named(self) -> dict[str, Named]:
        """The datasets that are given by name, by their key paths."""
        said = {key: find_named(str(file.path), is_held_out=is_val(key)) for key, file in self._stated.items()}
        return {key: named for key, named in said.items() if named is not None}

    @property
    def datasets_dir(self) -> Path:
        """Folder that has one for each dataset that is given by name."""
        return Path(os.path.abspath(self.datasets or "datasets"))

    @property
    def sources(self) -> dict[str, RowFile]:
        """Every file of rows by its key path, those of `val` last, with what `data` says of all of them filled in.

        A dataset that is given by name stands for its files.
        """
        named = self.named
        return {
            place: file.model_copy(
                update={"format": file.format or self.format, "video_root": file.video_root or self.video_root}
            )
            for key, stated in self._stated.items()
            for place, file in (self._expand(key, stated, named[key]) if key in named else {key: stated}).items()
        }

    def _expand(self, key: str, stated: RowFile, named: Named) -> dict[str, RowFile]:
        """Returns the files of a dataset; the clips of all of them may lie elsewhere."""
        folder, files = self.datasets_dir / named.card.name, named.split.files
        places = [key] if len(files) == 1 else [f"{key} ({file.path})" for file in files]
        clips = [None if file.clips is None else folder / file.clips for file in files]
        return {
            place: stated.model_copy(
                update={
                    "path": folder / file.path,
                    "format": file.format,
                    "video_root": stated.video_root or self.video_root or root,
                }
            )
            for place, file, root in zip(places, files, clips, strict=True)
        }

    @property
    def _stated(self) -> dict[str, RowFile]:
        if isinstance(self.train, tuple):
            files = {f"data.train[{number}]": file for number, file in enumerate(self.train)}
        else:
            files = {"data.train": RowFile(path=self.train)}
        return files | ({} if self.val is None else {VAL_KEY: RowFile(path=self.val)})
