"""A merged model in a serving engine: the command, the template, the requests, and a script that finds what differs.

The engine is `tests/vllm_like.py`, which follows vLLM's code up to the model: no engine runs here. Goldens of that code hold it.
"""

import dataclasses
import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import cvft
from cvft.cli.main import main
from cvft.data.video.decode import decode_clip
from cvft.errors import CvftError, ModelError
from cvft.families.engines import ENGINES
from cvft.families.family import IGNORED_LABEL
from cvft.families.processor_files import PROCESSOR_FILES
from cvft.handover import run as handing
from cvft.handover.parity import whole_text
from cvft.weights.folder import ModelFolder
from tests.golden_files import golden_file
from tests.opened import MAKERS, Opened
from tests.project import write_jsonl
from tests.random_adapter import write_served_adapter
from tests.vllm_cases import CASES, make_case, write_processor_files
from tests.vllm_like import Refused, VllmLike, listening

CLIPS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips"
ASKED = [
    {"query": "What shape is the white object?", "response": "circle", "videos": [str(CLIPS / "val_000.mp4")]},
    {
        "query": "At what second does the white square appear?",
        "response": "3",
        "videos": [str(CLIPS / "val_001.mp4")],
        "history": [["What is shown?", "a white square"]],
    },
    {"query": "Say yes.", "response": "yes"},
]


def hand_over(folder, model):
    """The folder that the command has written, and the arguments that its script starts the engine with."""
    rows = write_jsonl(folder / "rows.jsonl", ASKED)
    output = folder / "it's here"
    words = ["--data", str(rows), "--max-new-tokens", "8", "--name", "my model", "--output", str(output)]
    assert main(["handover", "vllm", str(model), *words]) == 0
    return output, argv_of(output, folder / "bin")


@pytest.fixture(scope="module")
def handed(tmp_path_factory):
    return hand_over(tmp_path_factory.mktemp("handed"), "tiny-qwen3-vl")


def argv_of(output, bin_folder, *more):
    """What `serve.sh` calls: the first `vllm` of the path, which here writes down its arguments."""
    bin_folder.mkdir(exist_ok=True)
    fake = bin_folder / "vllm"
    fake.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "import json, sys; print(json.dumps(sys.argv[1:]))" "$@"\n'
    )
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    done = subprocess.run([output / "serve.sh", *more], env=environment, capture_output=True, text=True, check=True)
    serve, *argv = json.loads(done.stdout)
    assert serve == "serve"
    return argv


@pytest.fixture(scope="module")
def predictor():
    model = cvft.load("tiny-qwen3-vl")
    yield model._predictor
    model.close()


def parity(output, engine, *words, **server):
    """Runs the script as where cvft is not installed: with the standard library alone."""
    with listening(engine, **server) as url:
        command = [sys.executable, "-I", "-S", str(output / "parity.py"), url, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_engine_that_is_started_as_told_answers_the_same(handed, predictor):
    output, argv = handed
    done = parity(output, VllmLike(argv, predictor))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "3 of 3 answers are equal; all prompts are, id by id\n"
    head, *rows = map(json.loads, (output / "reference.jsonl").read_text().splitlines())
    assert (head["engine"], head["version"]) == ENGINES["vllm"]
    assert [row["row"].rpartition(":")[2] for row in rows] == ["1", "2", "3"]
    assert rows[1]["request"]["messages"][1] == {"role": "assistant", "content": "a white square"}


@pytest.mark.parametrize(
    ("kind", "published"), [("internvl3_5", "InternVL3_5-1B-HF"), ("glm4v", "GLM-4.1V-9B-Thinking")]
)
def test_engines_of_other_families_answer_the_same(tmp_path, kind, published):
    model = MAKERS[kind](tmp_path / published, kind)  # a name that tells how it is asked, as a contract would
    write_processor_files(model)
    output, argv = hand_over(tmp_path, model)
    opened = cvft.load(str(model))
    engine = VllmLike(argv, opened._predictor)
    done = parity(output, engine)
    assert (done.returncode, done.stderr) == (0, "")
    head, *_ = map(json.loads, (output / "reference.jsonl").read_text().splitlines())
    ours, theirs = head["clip_id"], head["engine_clip_id"]
    named = {"internvl3_5": f", with {theirs} for {ours} under clips, which the model does not see", "glm4v": ""}
    assert done.stdout == f"3 of 3 answers are equal; all prompts are, id by id{named[kind]}\n"
    assert (ours == theirs) == (kind == "glm4v")

    class Other(VllmLike):  # another id in the place of one of the clip's
        def ask(self, request):
            ids, shown = super().ask(request)
            return [*ids[: ids.index(theirs)], ours + 1, *ids[ids.index(theirs) + 1 :]], shown

    done = parity(output, Other(argv, opened._predictor))
    assert (done.returncode, "rows.jsonl:1: prompt ids differ at" in done.stderr) == (1, True)
    opened.close()


SMALLER = '{"do_sample_frames": false, "size": {"shortest_edge": 1024, "longest_edge": 20000}}'


def test_an_engine_that_differs_is_caught(handed, predictor, tmp_path):
    output, argv = handed
    # smaller frames: fewer tokens of the clip
    done = parity(output, VllmLike([*argv, "--mm-processor-kwargs", SMALLER], predictor))
    assert done.returncode == 1
    assert "rows.jsonl:1: prompt ids differ at" in done.stderr
    assert "of them are the clip's: other frames, or another size" in done.stderr
    # the folder's own template
    template = tmp_path / "own.jinja"
    text = (output / "chat_template.jinja").read_text()
    template.write_text(text.replace("<|video_pad|>", "<|vision_start|><|video_pad|><|vision_end|>"))
    done = parity(output, VllmLike([*argv, "--chat-template", str(template)], predictor))
    assert done.returncode == 1
    assert "rows.jsonl:1: prompt ids differ at" in done.stderr

    class Fewer(VllmLike):
        def _load(self, *args):
            frames, numbers, *rest = super()._load(*args)
            return frames[:-2], numbers[:-2], *rest

    done = parity(output, Fewer(argv, predictor))
    assert done.returncode == 1
    assert "other frames, or another size" in done.stderr

    class Blurred(VllmLike):  # the same ids, other pixels
        def _load(self, *args):
            frames, *rest = super()._load(*args)
            return frames // 255 * 255, *rest

        def complete(self, request):
            said = super().complete(request)
            if request["messages"][-1]["content"] == "Say yes.":
                said["choices"][0]["message"]["content"] = "no"
            return said

    done = parity(output, Blurred(argv, predictor))
    assert done.returncode == 1
    assert "answers differ\n  cvft " in done.stderr
    assert "of 3 answers are equal; all prompts are" in done.stderr
    assert parity(output, Blurred(argv, predictor), "--answers", "0").returncode == 0


def test_an_engine_that_cannot_be_asked_is_said(handed, predictor):
    output, argv = handed
    done = parity(output, VllmLike(argv, predictor), version="0.34.0")
    assert (done.returncode, "version: got 0.34.0, need 0.33.0" in done.stderr) == (2, True)
    distrustful = VllmLike([word for word in argv if word != "--trust-request-mm-kwargs"], predictor)
    done = parity(output, distrustful, "--any-version", version="0.34.0")
    assert (done.returncode, "media_io_kwargs are disabled" in done.stderr) == (2, True)
    other = VllmLike([*argv, "--served-model-name", "other"], predictor)
    done = parity(output, other)
    assert (done.returncode, "need my model" in done.stderr) == (2, True)


GOLDEN = json.loads(golden_file("vllm.json").read_text())


@pytest.mark.parametrize("golden", GOLDEN["cases"], ids=lambda golden: "-".join(map(str, golden["case"])))
def test_prompts_and_pixels_are_what_vllm_makes_of_requests(tmp_path, golden):
    """Goldens of vLLM's own code: ours say the same, and so does `VllmLike`. With clips, colours may differ by decoders."""
    kind, model, sends = golden["case"]
    case = make_case(tmp_path, kind, model, sends)
    opened, told, engine = case.opened, case.told, VllmLike(case.argv)
    lay_out = opened.family.layouts(opened.folder, opened.how)
    num_clip_tokens = set()
    for row, request, prompt in zip(case.rows, case.requests, golden["prompts"], strict=True):
        theirs = [number for number, count in prompt["ids"] for _ in range(count)]
        shown = [case.clips[clip] for clip in row.videos]
        layout = lay_out(row, shown)
        ours = layout.input_ids[: layout.labels.count(IGNORED_LABEL)]
        assert theirs == [told.engine_clip_id if number == told.clip_id else number for number in ours], row.query
        num_clip_tokens.add(theirs.count(told.engine_clip_id))
        ids, arrived = engine.ask(request)
        assert ids == theirs
        for clip in shown:
            (pixels,) = (values for values in opened.encoder.clip(clip).values() if values.is_floating_point())
            frames, numbers, *facts = arrived
            assert facts == [clip.num_frames_total, clip.avg_fps]
            assert tuple(numbers[: len(clip.frame_indices)]) == clip.frame_indices
            if sends == "frames":  # bit for bit
                assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == prompt["pixels"]
                assert (frames[: len(clip.frames)] == opened.encoder.frames_to_keep(clip)).all()
                assert len(frames) > 32 or kind == "glm4v"  # the engine's own limit
    assert len(num_clip_tokens) > 1


def test_goldens_are_those_of_the_release_that_is_named():
    assert GOLDEN["versions"]["vllm"] == ENGINES["vllm"].version
    assert [tuple(golden["case"]) for golden in GOLDEN["cases"]] == list(CASES)


@pytest.mark.parametrize("kind", ["qwen3_vl", "glm4v"])
def test_a_single_frame_is_sent_twice_where_the_engine_needs_two(tmp_path, kind):
    opened = Opened(tmp_path / "model", kind, video={"sampling": "uniform", "max_frames": 1})
    write_processor_files(opened.folder.path)
    told = opened.family.handover(ENGINES["vllm"], opened.folder, opened.how, sends="frames")
    clip = decode_clip(CLIPS / "val_000.mp4", sampling=opened.how.decode.sampling)
    url, media = handing.write_frames(clip, opened.encoder, told)
    first, second = url.partition(",")[2].split(",")
    assert first == second
    assert media["frames_indices"] == [0, 0]
    whole = dataclasses.replace(clip, num_frames_total=1)  # the engine refuses more frames than a clip has
    assert handing.write_frames(whole, opened.encoder, told)[1]["total_num_frames"] == 2


REFUSED = (
    ("qwen2_5_vl", "vllm", "frames", {"text_positions": "transformers5", "grid_seconds": "truncated"}, {}, 2),
    ("qwen2_5_vl", "vllm", "clips", {}, {}, 1),
    ("qwen3_vl", "vllm", "clips", {}, {"sampling": "uniform", "max_frames": 5, "max_clip_tokens": 40}, 2),
    ("qwen3_vl", "sglang", "frames", {}, {}, 3),
    ("qwen3_vl", "sglang", "clips", {}, {"sampling": "uniform"}, 2),
    ("internvl3_5", "vllm", "clips", {}, {}, 1),
    ("internvl3_5", "sglang", "frames", {}, {}, 3),
    ("glm4v", "vllm", "clips", {}, {}, 1),
    ("glm4v", "vllm", "clips", {}, {"sampling": "uniform"}, 1),
    ("glm4v", "sglang", "clips", {}, {"sampling": "uniform"}, 2),
)


@pytest.mark.parametrize(("kind", "engine", "sends", "model", "video", "num_reasons"), REFUSED)
def test_what_an_engine_cannot_reproduce_is_refused_with_every_reason(
    tmp_path, kind, engine, sends, model, video, num_reasons
):
    opened = Opened(tmp_path / "model", kind, model=model, video=video)
    write_processor_files(opened.folder.path)
    with pytest.raises(ModelError) as caught:
        opened.family.handover(ENGINES[engine], opened.folder, opened.how, sends=sends)
    assert str(ENGINES[engine]) in str(caught.value)
    assert len(caught.value.problems) == num_reasons
    assert all(problem.hint for problem in caught.value.problems)


def test_a_folder_that_the_engine_cannot_open_is_refused(tmp_path):
    opened = Opened(tmp_path / "model", "qwen3_vl")
    for path in opened.folder.path.glob("*processor*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"video_preprocessor_config\.json: got no such file"):
        opened.family.handover(ENGINES["vllm"], opened.folder, opened.how, sends="frames")


TOKENS = {"context_image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>"}
JOINED = {"type": "Replace", "pattern": {"String": "user\nFrame"}, "content": "users"}
OTHER_FILES = (
    ("internvl3_5", "tokenizer.json", {"normalizer": JOINED}, "tokenizer.json: got one that joins `user"),
    (
        "glm4v",
        "preprocessor_config.json",
        {"processor_class": "Glm46VProcessor"},
        "processor_class: got `Glm46VProcessor`",
    ),
    ("glm4v", "preprocessor_config.json", {"size": {"height": 1}}, "preprocessor_config.json: size: got `{"),
    (
        "glm4v",
        "preprocessor_config.json",
        {"image_std": [1, 1, 1]},
        "preprocessor_config.json: image_std: got `[1, 1, 1]`",
    ),
    ("glm4v", "config.json", {"video_end_token_id": 475}, "got `<|begin_of_video|>` and `<|video|>`, need `<|begin"),
    ("internvl3_5", "preprocessor_config.json", {"image_mean": [0, 0, 0]}, "image_mean: got `[0, 0, 0]`, need `[0.485"),
    ("internvl3_5", "preprocessor_config.json", {"image_std": None}, "image_std: got nothing, need `[0.229"),
    ("internvl3_5", "processor_config.json", {"image_seq_length": None}, "image_seq_length: got `256`, need 4"),
    ("internvl3_5", "config.json", {"tie_word_embeddings": True}, "got `false`, need `true`, as at the top"),
    (
        "internvl3_5",
        "tokenizer_config.json",
        {"extra_special_tokens": {**TOKENS, "video_token": "a"}},
        "got `a`, need an",
    ),
    ("internvl3_5", "tokenizer_config.json", {"extra_special_tokens": {}, "video_token": None}, "got nothing, need an"),
    (
        "internvl3_5",
        "tokenizer_config.json",
        {"extra_special_tokens": {"start_image_token": "<"}},
        "got `<`, need `<img>`",
    ),
)


@pytest.mark.parametrize(("kind", "file", "changes", "said"), OTHER_FILES)
def test_a_folder_of_which_the_engine_would_make_something_else_is_refused(tmp_path, kind, file, changes, said):
    opened = Opened(tmp_path / "model", kind)
    write_processor_files(opened.folder.path)
    opened.family.handover(ENGINES["vllm"], opened.folder, opened.how, sends="frames")
    path = opened.folder.path / file
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    with pytest.raises(ModelError) as caught:
        opened.family.handover(ENGINES["vllm"], ModelFolder.of(opened.folder.path), opened.how, sends="frames")
    assert said in str(caught.value)


OTHER_PIXELS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.5, 0.5],
    "rescale_factor": 1,
    "resample": 2,
    "do_normalize": False,
    "merge_size": 4,
}


def test_a_folder_whose_own_file_makes_other_numbers_of_frames_is_refused(tmp_path):
    opened = Opened(tmp_path / "model", "qwen3_vl")
    files = {name: opened.folder.path / name for name in PROCESSOR_FILES}
    nested, first, second = files.values()
    right = {"image_mean": [0.5, 0.5, 0.5], "rescale_factor": 0.00392156862745098, "resample": 3, "do_normalize": True}

    def refusal() -> str:
        with pytest.raises(ModelError) as caught:
            opened.family.handover(ENGINES["vllm"], opened.folder, opened.how, sends="frames")
        return str(caught.value)

    nested.write_text(json.dumps({"processor_class": "Qwen3VLProcessor"}))
    second.write_text(json.dumps(OTHER_PIXELS))
    said = refusal()
    assert all(
        f"preprocessor_config.json: {key}: got `{json.dumps(value)}`" in said for key, value in OTHER_PIXELS.items()
    )
    first.write_text(json.dumps(right))  # it comes before the other one
    opened.family.handover(ENGINES["vllm"], opened.folder, opened.how, sends="frames")
    nested.write_text(json.dumps({"video_processor": {**right, "image_std": [0.5, 0.5, 0.4]}}))  # and this before both
    assert (
        "processor_config.json: video_processor: image_std: got `[0.5, 0.5, 0.4]`, need `[0.5, 0.5, 0.5]`, as in training"
        in refusal()
    )
    nested.write_text("{")
    assert "processor_config.json: got" in refusal()


def test_mistakes_are_found_before_anything_is_loaded(tmp_path, handed, monkeypatch, capsys):
    monkeypatch.setattr(handing, "load_found", pytest.fail)
    output, _ = handed
    rows = output.parent / "rows.jsonl"
    ask = {"output": tmp_path / "new", "data": rows}
    with pytest.raises(CvftError, match=r"--output: got `.*`, which exists, need a new folder"):
        handing.hand_over("vllm", "tiny-qwen3-vl", output=output, data=rows)
    with pytest.raises(CvftError, match="--data: got nothing, and no run with val rows"):
        handing.hand_over("vllm", "tiny-qwen3-vl", output=tmp_path / "new")
    with pytest.raises(
        ModelError, match=r"CogVLM2-Video in vllm(.|\n)*got a model that it does not carry(.|\n)*cvft serve"
    ):
        handing.hand_over("vllm", "tiny", **ask)
    assert list(tmp_path.iterdir()) == []
    adapter = write_served_adapter(tmp_path / "job")
    with pytest.raises(ModelError, match=r"got an adapter, need a merged model(.|\n)*cvft export"):
        handing.hand_over("vllm", adapter, **ask)
    assert main(["handover", "vllm", "tiny-qwen3-vl", "--num-rows", "0", "--output", str(tmp_path / "new")]) == 2
    assert "--num-rows: got `0`, need at least 1" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_engine_reads_only_below_a_folder(handed, tmp_path):
    _, argv = handed
    engine = VllmLike([*argv, "--allowed-local-media-path", str(tmp_path)])
    url = (CLIPS / "val_000.mp4").as_uri()
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "?"}]
    with pytest.raises(Refused):
        engine.ask({"messages": [{"role": "user", "content": content}]})


def test_half_a_letter_at_the_end_of_an_answer_is_no_difference():
    assert whole_text("yes \ufffd\ufffd") == whole_text("yes") == "yes"
    assert whole_text("\ufffd yes") != "yes"


def test_rows_that_no_request_can_carry_are_refused_together_before_a_model_is_loaded(tmp_path, monkeypatch, capsys):
    clip, picture = str(CLIPS / "val_000.mp4"), tmp_path / "red.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    rows = [
        {"query": "Which?", "response": "a", "videos": [clip, clip]},
        {"query": "What?", "response": "b", "images": [str(picture)]},
        {"query": "When?", "response": "c", "videos": [clip]},
        {"query": "Where?", "response": "d", "videos": [clip], "start": 1, "end": 3},
    ]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    monkeypatch.setattr(handing, "load_found", None)
    output, words = tmp_path / "out", ["handover", "vllm", "tiny-qwen3-vl", "--data", str(data), "--output"]
    assert main([*words, str(output)]) == 2
    said = capsys.readouterr().err
    assert "rows.jsonl:1 `videos`: got 2 clips, need one clip" in said
    assert "rows.jsonl:2 `images`: got" in said
    assert "no picture" in said
    assert "rows.jsonl:3" not in said
    assert "rows.jsonl:4" not in said  # frames of a stretch can be sent
    assert not output.exists()
