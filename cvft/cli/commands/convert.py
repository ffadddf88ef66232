"""`cvft convert`: rows of another tool as native JSONL."""

from __future__ import annotations

import argparse
from pathlib import Path

from cvft.cli.arguments import add_format

SUMMARY = "write rows of another tool, a table, a parquet or a tar file as rows of cvft"
EXAMPLES = (
    "cvft convert llava_video.json train.jsonl",
    "cvft convert table.csv train.jsonl --video-root clips",
    "cvft convert shard-000000.tar train.jsonl",
    "cvft convert mixed.jsonl train.jsonl --format sharegpt",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    parser.add_argument("source", metavar="IN", type=Path, help="JSON, JSONL, CSV, parquet or tar")
    parser.add_argument("target", metavar="OUT.jsonl", type=Path, help="a new file for the rows")
    add_format(parser)
    parser.add_argument(
        "--video-root", metavar="DIR", type=Path, help="where relative clip paths start; else beside IN"
    )


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    from cvft.data.formats.convert import convert_file

    return convert_file(options.source, options.target, format=options.format, video_root=options.video_root)
