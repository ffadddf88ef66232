"""Miniature copies of the datasets that have a name, in their real layouts: a few rows each, and tiny clips made from a seed."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow
import pyarrow.parquet

NUM_FRAMES = 8


def write_clip(path: Path, *, seed: int) -> None:
    """Writes two seconds of a square that moves over noise of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    codec = "libvpx" if path.suffix == ".webm" else "mpeg4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(NUM_FRAMES):
            picture = still.copy()
            picture[10:30, 6 * number : 6 * number + 16] = rng.integers(0, 255, 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def bench_row(name: str, question: str, answer: str, first: str = "None", second: str = "None") -> dict:
    return {"video_name": name, "question_1": first, "question_2": second, "question": question, "answer": answer}


def video_chatgpt(folder: Path, clip: Callable[[str], None], *, names: tuple[str, ...] = ("v_p1QG", "v_Dk-z")) -> None:
    """Four general questions about each clip, one about time, and a pair that asks for the same."""
    for number, name in enumerate(names):
        clip(f"Test_Videos/{name}.{'mkv' if number % 2 else 'mp4'}")
    general = [bench_row(name, f"What is seen {part}?", "A square.") for name in names for part in range(4)]
    write_parquet(folder / "Generic/test-00000-of-00001.parquet", general)
    timed = [bench_row(name, "What happens first?", "It moves.") for name in names]
    write_parquet(folder / "Temporal/test-00000-of-00001.parquet", timed)
    pairs = [bench_row(name, "None", "It moves.", "What does it do?", "What is it doing?") for name in names]
    write_parquet(folder / "Consistency/test-00000-of-00001.parquet", pairs)


def videoinstruct_100k(folder: Path, clip: Callable[[str], None]) -> None:
    clip("activitynet_videos/v_abc.mp4")
    clip("activitynet_videos/v_-de.mkv")
    rows = [{"q": "What moves?", "a": "A square moves.", "video_id": name} for name in ("v_abc", "v_-de")]
    write_json(folder / "VideoInstruct100K.json", rows)


def llava_video_178k(folder: Path, clip: Callable[[str], None]) -> None:
    for source in ("academic", "youtube"):
        for length in ("0_30_s", "30_60_s", "1_2_m", "2_3_m"):
            part = f"{length}_{source}_v0_1"
            clip(f"{part}/{source}_source/{length}.mp4")
            for name in (f"{part}_cap", f"{length}_{source}_oe_v0_1_qa", f"{length}_{source}_mc_v0_1_qa"):
                said = [
                    {"from": "human", "value": "<image>\nWhat moves?"},
                    {"from": "gpt", "value": "A square."},
                    {"from": "human", "value": "How?\nA. left\nB. right"},
                    {"from": "gpt", "value": "B"},
                ][: 2 if "cap" in name else 4]
                row = {"id": name, "conversations": said, "data_source": part, "video": f"{source}_source/{length}.mp4"}
                write_json(folder / part / f"{name}_processed.json", [row])


NEXT_QA = ("video", "frame_count", "width", "height", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4")


def next_qa(folder: Path, clip: Callable[[str], None]) -> None:
    places = {"4010069381": "1150/4010069381", "4882821564": "0101/4882821564"}
    write_json(folder / "dataset/nextqa/map_vid_vidorID.json", places)
    for place in places.values():
        clip(f"NExTVideo/{place}.mp4")
    options = ["left", "right", "up", "down", "not at all"]
    rows = [
        [video, 8, 64, 48, "how does the square move", 1, number, "CH", *options] for number, video in enumerate(places)
    ]
    for split in ("train", "val", "test"):
        with (folder / f"dataset/nextqa/{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([NEXT_QA, *rows])


def activitynet_qa(folder: Path, clip: Callable[[str], None]) -> None:
    for split in ("train", "val", "test"):
        names = [f"{split}-1_x", f"{split}_2"]
        clip(f"videos/v_{names[0]}.mp4")
        clip(f"videos/v_{names[1]}.webm")
        questions = [
            {"video_name": name, "question": "is the square moving", "question_id": f"v_{name}_1"} for name in names
        ]
        answers = [{"answer": "yes", "type": 3, "question_id": each["question_id"]} for each in questions]
        write_json(folder / f"dataset/{split}_q.json", questions)
        write_json(folder / f"dataset/{split}_a.json", answers[::-1])


def charades_sta(folder: Path, clip: Callable[[str], None]) -> None:
    for split, name in (("train", "AO8RW"), ("test", "3MSZA")):
        clip(f"Charades_v1_480/{name}.mp4")
        lines = [f"{name} 0.0 0.9##a square is on the left.", f"{name} 1.1 2.0##a square moves to the right."]
        (folder / f"charades_sta_{split}.txt").write_text("".join(f"{line}\r\n" for line in lines))


def msrvtt_qa(folder: Path, clip: Callable[[str], None]) -> None:
    for split, number in (("train", 0), ("val", 6513), ("test", 7010)):
        clip(f"{'TestVideo' if split == 'test' else 'TrainValVideo'}/video{number}.mp4")
        row = {"answer": "square", "category_id": 14, "id": number, "question": "what is moving?", "video_id": number}
        write_json(folder / f"{split}_qa.json", [row])


MAKE = {
    "video-chatgpt": video_chatgpt,
    "videoinstruct-100k": videoinstruct_100k,
    "llava-video-178k": llava_video_178k,
    "next-qa": next_qa,
    "activitynet-qa": activitynet_qa,
    "charades-sta": charades_sta,
    "msrvtt-qa": msrvtt_qa,
}


def make_miniatures(root: Path, *, seed: int = 0) -> Path:
    """Makes all of them, each in the folder of its name."""
    number = seed
    for name, make in MAKE.items():
        folder = root / name
        folder.mkdir(parents=True)

        def clip(path: str, folder: Path = folder) -> None:
            nonlocal number
            number += 1
            write_clip(folder / path, seed=number)

        make(folder, clip)
    return root
