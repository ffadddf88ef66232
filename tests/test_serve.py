"""The server, asked over HTTP as clients do: answers of `cvft infer`, alone and beside others, several of them, in pieces."""

import base64
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

import cvft
from tests.project import cvft as command
from tests.random_adapter import write_served_adapter
from tests.served import CLIPS, NAMES, data_url, error_of, events, make_root
from tests.server import clip_part, serving, text_part
from tests.tiny import tiny_encoder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """An adapter of the tiny model whose weights are random: it says other things than its base."""
    return write_served_adapter(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Another one, beside it."""
    return write_served_adapter(tmp_path_factory.mktemp("job"), seed=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_root(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(root, adapter, other):
    adapters = ("--adapter", f"tuned={adapter}", "--adapter", f"other={other}")
    with serving("--model", "tiny", *adapters, "--media-root", root) as running:
        yield running


@pytest.fixture(scope="module")
def tiny():
    model = cvft.load("tiny")
    yield model
    model.close()


QUESTIONS = ["What is shown?", "When does the shape appear?", "How many shapes are there?", "Which colour is it?"]


def test_answers_are_those_of_infer(server, tiny, adapter, other):
    turns = [("What is shown?", "a square")]
    tuned, others = cvft.load(adapter), cvft.load(other)
    several = []
    for number, query in enumerate(QUESTIONS):
        clip = CLIPS / NAMES[number]
        asked = [clip_part(NAMES[number]), text_part(query)]
        assert server.text(asked) == tiny.ask(clip, query)
        assert server.text(asked, model="tuned", max_tokens=12) == tuned.ask(clip, query, max_new_tokens=12)
        said = [
            server.text(asked),
            server.text(asked, model="other", max_tokens=12),
            server.text(asked, model="tuned", max_tokens=12),
        ]
        assert said[1] == others.ask(clip, query, max_new_tokens=12)
        several.append(said)
        told = [
            {"role": "user", "content": [clip_part(data_url(clip)), text_part(turns[0][0])]},
            {"role": "assistant", "content": turns[0][1]},
            {"role": "user", "content": query},
        ]
        assert server.text(told) == tiny.ask(clip, query, history=turns)
        assert server.text(query) == tiny.ask(None, query)
    assert len(set(zip(*several, strict=True))) == 3  # they are three models
    tuned.close()
    others.close()
    # the base beside its adapter was asked in between
    said = command("infer", "--model", "tiny", "--video", CLIPS / NAMES[0], "--query", QUESTIONS[0]).stdout
    assert server.text([clip_part(NAMES[0]), text_part(QUESTIONS[0])]) + "\n" == said


def test_the_official_client(server, tiny, root):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny", "tuned", "other"]
    expected = tiny.ask(CLIPS / NAMES[0], "What is shown?")
    for url in ("deep/a clip.mp4", f"file://{root}/deep/a%20clip.mp4", "inside.mp4", data_url(CLIPS / NAMES[0])):
        messages = [{"role": "user", "content": [clip_part(url), text_part("What is shown?")]}]
        whole = client.chat.completions.create(model="tiny", messages=messages)
        assert whole.choices[0].message.content == expected
        assert whole.choices[0].finish_reason == "stop"
        options = {"include_usage": True}
        chunks = list(
            client.chat.completions.create(model="tiny", messages=messages, stream=True, stream_options=options)
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
        assert (chunks[-2].choices[0].finish_reason, chunks[-1].choices) == ("stop", [])
        assert chunks[-1].usage == whole.usage
    prompt = tiny_encoder().processor.lay_out("What is shown?", time_indices=())
    bare = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "What is shown?"}])
    assert bare.usage.prompt_tokens == len(prompt)
    assert bare.usage.total_tokens == bare.usage.prompt_tokens + bare.usage.completion_tokens
    with pytest.raises(openai.NotFoundError, match="need one of `tiny`, `tuned`, `other`"):
        client.chat.completions.create(model="another", messages=[{"role": "user", "content": "?"}])
    with pytest.raises(openai.BadRequestError, match="`presence_penalty`"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "?"}], presence_penalty=1)


def test_stops_and_limits_end_an_answer(server, tiny):
    asked = [clip_part(NAMES[0]), text_part("What is shown?")]
    whole = tiny.ask(CLIPS / NAMES[0], "What is shown?")
    first, last = whole.split(" ", 1)
    for stop, expected in (
        ([last], first),
        (last[1:3], f"{first} {last[0]}"),
        ([first], ""),
        (["no such text"], whole),
    ):
        response = server.ask(asked, stop=stop).json()
        assert (response["choices"][0]["message"]["content"], response["choices"][0]["finish_reason"]) == (
            expected,
            "stop",
        )
        streamed = events(server.ask(asked, stop=stop, stream=True))
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed) == expected
        assert all(chunk["choices"][0]["delta"] != {"content": ""} for chunk in streamed)
    cut = server.ask(asked, max_completion_tokens=1).json()
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 1
    assert whole.startswith(cut["choices"][0]["message"]["content"])


def test_what_is_drawn_follows_from_its_seed(server):
    asked = [clip_part(NAMES[0]), text_part("What is shown?")]
    greedy = server.text(asked)
    drawn = {seed: server.text(asked, model="tuned", temperature=2, seed=seed, max_tokens=8) for seed in range(6)}
    assert len(set(drawn.values())) > 1
    assert drawn == {seed: server.text(asked, model="tuned", temperature=2, seed=seed, max_tokens=8) for seed in drawn}
    assert server.text(asked, temperature=0, seed=3) == greedy
    assert server.text(asked, temperature=2, top_p=1e-6) == greedy  # the likeliest alone is left
    assert server.text(asked) == greedy


def test_several_choices_are_those_of_one_seed_after_the_other(server):
    asked = [clip_part(NAMES[6]), text_part("What is shown?")]
    drawn = {"model": "tuned", "temperature": 2, "max_tokens": 8}
    queries = server.metric("prefix_cache_queries_total")
    whole = server.ask(asked, **drawn, seed=5, n=3).json()
    assert server.metric("prefix_cache_queries_total") == queries + 1  # one clip for all of them
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    alone = [server.ask(asked, **drawn, seed=seed).json() for seed in (5, 6, 7)]
    assert texts == [each["choices"][0]["message"]["content"] for each in alone]
    assert len(set(texts)) > 1
    assert whole["usage"]["completion_tokens"] == sum(each["usage"]["completion_tokens"] for each in alone)
    assert whole["usage"]["prompt_tokens"] == alone[0]["usage"]["prompt_tokens"]
    last = server.ask(asked, **drawn, seed=2**63 - 1, n=2).json()["choices"]
    first = server.text(asked, **drawn, seed=-(2**63))
    assert last[1]["message"]["content"] == first  # behind the largest seed stands the smallest
    # what is not drawn is computed once, and is every choice
    greedy = server.ask(asked, n=3).json()
    assert [choice["message"]["content"] for choice in greedy["choices"]] == [server.text(asked)] * 3
    assert greedy["usage"]["completion_tokens"] == 3 * server.ask(asked).json()["usage"]["completion_tokens"]


def test_several_choices_come_in_pieces(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    messages = [{"role": "user", "content": [clip_part(NAMES[6]), text_part("What is shown?")]}]
    for settings in ({"temperature": 2, "seed": 5}, {}):
        asked = {"model": "tuned", "messages": messages, "n": 3, "max_tokens": 8, **settings}
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        texts, reasons = [""] * 3, [None] * 3
        for chunk in chunks[:-1]:
            (choice,) = chunk.choices
            assert reasons[choice.index] is None
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason
        assert texts == [choice.message.content for choice in whole.choices]
        assert reasons == [choice.finish_reason for choice in whole.choices]
        assert chunks[-1].usage == whole.usage
    with pytest.raises(openai.BadRequestError, match="n: got 17, need at most 16, the answers that run at a time"):
        client.chat.completions.create(model="tiny", messages=messages, n=17)


def test_control_tokens_in_a_question_are_its_text(server, tiny):
    special = sorted(tiny_encoder().processor.encode_text.control_tokens.values())
    assert special
    for token in special:
        query = f"{token}What {token} is shown?{token}"
        ids = tiny_encoder().processor.lay_out(query).input_ids
        response = server.ask(query).json()
        assert response["usage"]["prompt_tokens"] == len(ids)
        assert response["choices"][0]["message"]["content"] == tiny.ask(None, query)
        assert set(ids[1:]).isdisjoint(tiny_encoder().processor.encode_text.control_tokens)


def test_many_at_a_time_are_answered_as_alone_and_a_bad_one_fails_alone(server, tiny):
    asked = [(name, query) for name in NAMES for query in QUESTIONS[:3]]
    alone = {each: tiny.ask(CLIPS / each[0], each[1]) for each in asked}
    drawn = {("tuned", name, seed): draw(server, name, seed) for seed, name in enumerate(NAMES)}

    def ask(each: tuple) -> httpx.Response | str:
        if each in drawn:
            return draw(server, *each[1:])
        url = data_url(CLIPS / each[0]) if each[0] != "bad.mp4" else each[0]
        return server.ask([clip_part(url), text_part(each[1])], stream=len(each[1]) % 2 == 0)

    everything = [*asked[:10], *drawn, ("bad.mp4", "?"), *asked[10:]]
    with ThreadPoolExecutor(len(everything)) as threads:
        responses = dict(zip(everything, threads.map(ask, everything), strict=True))
    error_of(responses.pop(("bad.mp4", "?")))
    assert {each: responses.pop(each) for each in drawn} == drawn
    for each, response in responses.items():
        assert response.status_code == 200, response.text
        if response.headers["content-type"] == "application/json":
            said = response.json()["choices"][0]["message"]["content"]
        else:
            said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events(response))
        assert said == alone[each]
    assert (server.metric("num_requests_running"), server.metric("num_requests_waiting")) == (0, 0)


def draw(server, name: str, seed: int) -> str:
    asked = [clip_part(name), text_part("What is shown?")]
    return server.text(asked, model="tuned", temperature=1.5, top_p=0.9, seed=seed, max_tokens=9)


def test_kept_clips_serve_questions_beside_others(server, tiny):
    asked = [(name, query) for name in NAMES[:4] for query in QUESTIONS]
    for name in NAMES[:4]:
        server.ask([clip_part(name), text_part("?")])
    hits, queries = (server.metric(f"prefix_cache_{what}_total") for what in ("hits", "queries"))
    with ThreadPoolExecutor(len(asked)) as threads:
        said = list(threads.map(lambda each: server.text([clip_part(each[0]), text_part(each[1])]), asked))
    assert said == [tiny.ask(CLIPS / name, query) for name, query in asked]
    looked_for = server.metric("prefix_cache_queries_total") - queries
    assert 4 <= looked_for <= len(asked)
    assert server.metric("prefix_cache_hits_total") - hits == looked_for  # none of them was computed again


def test_a_clip_that_is_asked_about_again_is_not_computed_again(server, tiny):
    hits = server.metric("prefix_cache_hits_total")
    for query in QUESTIONS:
        assert server.text([clip_part(NAMES[5]), text_part(query)]) == tiny.ask(CLIPS / NAMES[5], query)
    assert server.metric("prefix_cache_hits_total") >= hits + len(QUESTIONS) - 1


def test_a_file_that_has_changed_is_another_clip(server, tiny, root):
    path = root / "changing.mp4"
    for name in (NAMES[0], NAMES[2]):
        shutil.copy2(CLIPS / name, path)
        assert server.text([clip_part("changing.mp4"), text_part("What is shown?")]) == tiny.ask(path, "What is shown?")
        tiny._predictor.clips._loader._recent._cached.clear()
    assert tiny.ask(CLIPS / NAMES[0], "What is shown?") != tiny.ask(CLIPS / NAMES[2], "What is shown?")


def test_frames_times_and_uploads_of_the_page(server, tiny):
    with server.client() as client:
        content = (CLIPS / NAMES[0]).read_bytes()
        url = client.post("/clips", content=content, headers={"content-type": "video/mp4"}).json()["url"]
    shown = server.show([clip_part(url)]).json()
    seconds = [frame["second"] for frame in shown["frames"]]
    assert seconds == [round(second, 2) for second in tiny._predictor.clips.load(CLIPS / NAMES[0]).view.timestamps_s]
    assert all(base64.b64decode(frame["picture"].partition(",")[2])[8:12] == b"WEBP" for frame in shown["frames"])
    assert server.text([clip_part(url), text_part("What is shown?")]) == tiny.ask(CLIPS / NAMES[0], "What is shown?")
    pieces = server.post("/times", {"text": "he walks from 3 to 7 s"}).json()["pieces"]
    assert pieces == [{"text": "he walks"}, {"text": " from 3 to 7 s", "start_s": 3.0, "end_s": 7.0}]


def test_a_port_that_is_taken(server):
    port = server.url.rpartition(":")[2]
    result = command("serve", "--model", "tiny", "--port", port)
    assert (result.returncode, "need an address that is free" in result.stderr) == (2, True)
