"""The names of the ways in which rows are written: for recipes, the command line's help and the readers alike."""

from __future__ import annotations

from typing import Literal, get_args

FormatName = Literal[
    "auto",
    "native",
    "messages",
    "sharegpt",
    "alpaca",
    "llava",
    "video_chatgpt",
    "csv",
    "parquet",
    "webdataset",
    "next_qa",
    "activitynet_qa",
    "charades_sta",
    "msrvtt_qa",
]
"""What `data.format` may say. `csv`, `parquet` and `webdataset` say what the file is; what stands in its columns is found."""

FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)
