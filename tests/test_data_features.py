"""The store of vision features: bit for bit, never another key's, and every damage named."""

import dataclasses
import json
import os
import pickle
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from cvft.data.features.index import INDEX_FILE, DamagedShard
from cvft.data.features.key import KEY_FILE, FeatureKey
from cvft.data.features.shard import HEADER_BYTES
from cvft.data.features.store import FeatureStore
from cvft.errors import FeatureError
from tests.feature_writing import KEY, PIXEL_KEY, assert_holds, assert_valid, bytes_of, clip_of, fill, shards

OTHER = {
    "sampling": "chat",
    "max_frames": 8,
    "decoder": "decord",
    "decoder_version": "18.0.0",
    "fields": {"image_size_px": 112},
    "tower_sha256": "cd" * 32,
    "dtype": "F32",
    "device": "cuda",
    "attention": "eager",
    "preprocessing_version": 2,
    "schema_version": 2,
}


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "features", KEY)


# --- what goes in comes out


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "BF16"), (torch.float16, "F16"), (torch.float32, "F32")])
def test_every_bit_comes_back(tmp_path, dtype, name):
    store = FeatureStore(tmp_path, dataclasses.replace(KEY, dtype=name))
    item_bytes = dtype.itemsize
    # every pattern of 16 bits: not-a-numbers, infinities, both zeros and subnormal numbers among them
    data = b"".join(number.to_bytes(2, "little") for number in range(2**16))
    shape = (4, 16, len(data) // 64 // item_bytes)
    with store.writer() as writer:
        assert writer.add(clip_of(1), shape, name, data)
    feature = FeatureStore(tmp_path, store.key).read(clip_of(1))
    assert (feature.shape, feature.dtype, feature.data.readonly) == (shape, name, True)
    assert feature.data == data
    tensor = torch.frombuffer(bytearray(feature.data), dtype=dtype).reshape(feature.shape)
    with safe_open(shards(store)[0], framework="pt") as file:
        theirs = file.get_tensor(clip_of(1))
    assert theirs.dtype == dtype
    assert torch.equal(theirs.view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("shape", [(0, 64, 1792), (3, 0), (0,), (), (1,)])
def test_tensors_without_numbers_and_single_numbers_come_back(store, shape):
    data = torch.ones(shape, dtype=torch.int16).numpy()  # an array, as the caller has one
    with store.writer() as writer:
        writer.add(clip_of("before"), (2,), "BF16", b"abcd")
        writer.add(clip_of("this"), shape, "BF16", data)
        writer.add(clip_of("behind"), (2,), "BF16", b"efgh")
    feature = store.read(clip_of("this"))
    assert (feature.shape, feature.data.tobytes()) == (shape, data.tobytes())
    assert store.read(clip_of("before")).data == b"abcd"
    assert store.read(clip_of("behind")).data == b"efgh"
    assert_valid(store)


def test_shards_are_published_when_full_and_at_the_end(store):
    with store.writer(max_shard_bytes=HEADER_BYTES + 1100) as writer:
        for name in range(5):
            writer.add(clip_of(name), (256,), "BF16", bytes_of(name))
        assert len(shards(store)) == 2
        with pytest.raises(FeatureError):
            store.read(clip_of(4))
    assert len(shards(store)) == 3
    assert (len(store), clip_of(4) in store, clip_of(5) in store) == (5, True, False)
    assert store.num_bytes() == sum(path.stat().st_size for path in shards(store)) == 3 * HEADER_BYTES + 5 * 512
    assert_holds(store, range(5))
    assert_valid(store)


def test_more_entries_than_a_header_holds_go_on_in_another_shard(store):
    fill(store, range(2500), num_bytes=2)
    assert len(shards(store)) > 1
    assert_holds(store, range(2500), num_bytes=2)
    assert_valid(store)


def test_missing_clips_keep_their_order_and_come_once(store):
    fill(store, [1, 2])
    assert store.missing([clip_of(name) for name in (9, 1, 5, 9, 2, 5)]) == [clip_of(9), clip_of(5)]


def test_a_store_sees_what_others_publish(store, tmp_path):
    reader = FeatureStore(tmp_path / "features", KEY)
    fill(store, [1])
    assert reader.read(clip_of(1)).data == bytes_of(1)
    fill(store, [2])
    assert reader.missing([clip_of(2)]) == []


def test_a_clip_is_kept_once(store):
    with store.writer() as writer:
        assert writer.add(clip_of(1), (1,), "BF16", b"ab")
        assert not writer.add(clip_of(1), (1,), "BF16", b"cd")
    with store.writer() as writer:
        assert not writer.add(clip_of(1), (1,), "BF16", b"ef")
    assert store.read(clip_of(1)).data == b"ab"
    assert len(shards(store)) == 1


def test_a_store_crosses_into_a_worker_process(store):
    fill(store, [1])
    store.read(clip_of(1))
    assert pickle.loads(pickle.dumps(store)).read(clip_of(1)).data == bytes_of(1)


def test_a_store_that_is_only_asked_makes_nothing(store):
    assert store.missing([clip_of(1)]) == [clip_of(1)]
    assert (len(store), store.num_bytes(), store.check(), store.verify()) == (0, 0, [], [])
    with store.writer():
        pass
    assert not store.folder.parent.exists()


# --- what is refused


def test_a_clip_that_is_not_there_is_told(store):
    with pytest.raises(FeatureError) as caught:
        store.read(clip_of(1))
    assert str(caught.value) == (
        f"store {store.folder} has 1 problem\n"
        f"  clip {clip_of(1)}: got no features, need features\n"
        "    hint: make the features of this clip first"
    )


def test_what_does_not_fit_is_refused_at_once(store):
    strided = memoryview(bytes(8))[::2]
    with store.writer() as writer:
        with pytest.raises(FeatureError) as caught:
            writer.add("clip.mp4", (2, 3), "F32", b"12345")
        assert str(caught.value) == (
            "features of clip clip.mp4 has 3 problems\n"
            "  clip: got `clip.mp4`, need the sha256 of a file as 64 hex digits\n"
            "  dtype: got `F32`, need `BF16` as in the key\n"
            "  data: got 5 bytes, need 12 for [2, 3] in `BF16`"
        )
        for data in (strided, "text"):
            with pytest.raises(FeatureError, match="bytes lie one behind the other"):
                writer.add(clip_of(1), (2,), "BF16", data)
    assert shards(store) == []


def test_every_field_of_the_key_leads_to_a_folder_of_its_own(tmp_path):
    assert OTHER.keys() == {field.name for field in dataclasses.fields(FeatureKey)}
    keys = [KEY, *(dataclasses.replace(KEY, **{name: value}) for name, value in OTHER.items())]
    assert len({key.digest() for key in keys}) == len(keys)
    assert len({FeatureStore(tmp_path, key).folder for key in keys}) == len(keys)


def test_a_key_of_pixels_knows_no_tower_and_shares_no_folder_with_features(tmp_path):
    said = PIXEL_KEY.to_dict()
    assert not said.keys() & {"tower_sha256", "device", "attention"}
    assert (said.keys() | {"tower_sha256", "device", "attention"}) == KEY.to_dict().keys()
    changes = {name: value for name, value in OTHER.items() if name in said and name != "dtype"} | {
        "fields": {"image_size_px": 112}
    }
    keys = [KEY, PIXEL_KEY, *(dataclasses.replace(PIXEL_KEY, **{name: value}) for name, value in changes.items())]
    assert len({FeatureStore(tmp_path, key).folder for key in keys}) == len(keys) == 9
    for wrong in ({"dtype": "BF16"}, {"device": "cpu"}):
        with pytest.raises(AssertionError, match="features have a tower, and pixels none"):
            dataclasses.replace(PIXEL_KEY, **wrong)


def test_pixels_come_back_and_a_flipped_bit_is_told(tmp_path):
    store = FeatureStore(tmp_path, PIXEL_KEY)
    fill(store, range(3))
    again = FeatureStore(tmp_path, PIXEL_KEY)
    assert_holds(again, range(3))
    assert (again.read(clip_of(1)).dtype, again.read(clip_of(1)).shape) == ("U8", (1, 512))
    assert_valid(again)
    (path,) = shards(store)
    path.write_bytes(path.read_bytes().replace(bytes_of(1), bytes_of(4)))
    with pytest.raises(FeatureError, match="bytes that do not match their checksum"):
        FeatureStore(tmp_path, PIXEL_KEY).read_checked(clip_of(1))
    with (
        pytest.raises(FeatureError, match=r"pixels of clip (.|\n)*need 6 for \[2, 3\] in `U8`"),
        store.writer() as writer,
    ):
        writer.add(clip_of(9), (2, 3), "U8", b"12345")


def test_a_digest_does_not_change_with_the_version_of_cvft():
    text = json.dumps(dict(sorted(KEY.to_dict().items())), separators=(",", ":"))
    assert KEY.digest() == sha256(text.encode()).hexdigest()
    assert KEY.digest()[:16] == "955dc467bf876bc1"


def test_an_unknown_dtype_is_refused():
    with pytest.raises(
        FeatureError, match=r"dtype: got `BF61`, need one of `BF16`, `F16`, `F32`, `U8`\n.*did you mean `BF16`"
    ):
        dataclasses.replace(KEY, dtype="BF61")


def test_a_folder_of_another_key_is_refused(store, tmp_path):
    fill(store, [1])
    path = store.folder / KEY_FILE
    assert json.loads(path.read_text()) == KEY.to_dict()
    path.write_text(json.dumps(KEY.to_dict() | {"max_frames": 8}))
    with pytest.raises(FeatureError) as caught:
        FeatureStore(tmp_path / "features", KEY)
    assert str(caught.value) == (
        f"store {store.folder} has 1 problem\n"
        "  key.json: max_frames: got `8`, need `24`\n"
        "    hint: remove this folder: its features are made again"
    )
    with pytest.raises(FeatureError, match=r"key.json: max_frames: got `8`"):
        fill(store, [2])  # a store that was opened before


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "\0"])
def test_a_key_that_cannot_be_read_is_refused(store, tmp_path, text):
    fill(store, [1])
    (store.folder / KEY_FILE).write_text(text)
    with pytest.raises(FeatureError, match=r"key.json: got .* need the key of this store"):
        FeatureStore(tmp_path / "features", KEY)


# --- damage


def three_shards(store: FeatureStore) -> list[Path]:
    """Clips 0 and 1, 2 and 3, 4 and 5."""
    fill(store, range(6), max_shard_bytes=HEADER_BYTES + 1024)
    assert len(shards(store)) == 3
    return shards(store)


@pytest.mark.parametrize("without_index", [False, True])
@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("left_bytes", [0, 5, 100, HEADER_BYTES, HEADER_BYTES + 1023, HEADER_BYTES + 1025])
def test_a_shard_of_another_size_is_named_and_its_clips_are_missing(
    store, tmp_path, left_bytes, reopened, without_index
):
    _, broken, _ = three_shards(store)
    assert_holds(store, range(6))
    os.truncate(broken, left_bytes)
    if without_index:
        (store.folder / INDEX_FILE).unlink()
    if reopened:
        store = FeatureStore(tmp_path / "features", KEY)
    lost = [clip_of(2), clip_of(3)]
    assert store.missing(map(clip_of, range(6))) == lost
    (damage,) = store.damage
    assert damage.shard == broken
    if left_bytes >= HEADER_BYTES or not (without_index and reopened):  # else nobody knows the names any more
        assert set(damage.clips) == set(lost)
    assert damage.reason.startswith(f"{left_bytes} bytes")
    assert_holds(store, (0, 1, 4, 5))
    with pytest.raises(FeatureError, match=f"{broken.name}: got {left_bytes} bytes"):
        store.read(clip_of(2))
    assert [item.shard for item in store.verify(map(clip_of, range(6)))] == [broken]

    (found,) = store.check()
    assert (found.shard, found.reason) == (broken, damage.reason)
    store.drop_damaged([damage])
    assert not broken.exists()
    fill(store, range(6))
    assert_holds(store, range(6))
    assert_valid(store)


def test_a_shard_that_is_cut_after_it_was_opened_is_told(store):
    _, broken, _ = three_shards(store)
    fresh = pickle.loads(pickle.dumps(store))  # has mapped nothing yet, and has read the index
    os.truncate(broken, 10)
    with pytest.raises(FeatureError, match=f"{broken.name}: got 10 bytes, too few for its header"):
        fresh.read(clip_of(2))


@pytest.mark.parametrize("at", [0, 7, 30, 200, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 511, HEADER_BYTES + 512])
def test_a_flipped_bit_is_found_and_named(store, tmp_path, at):
    _, broken, _ = three_shards(store)
    data = bytearray(broken.read_bytes())
    data[at] ^= 1
    times_ns = broken.stat().st_atime_ns, broken.stat().st_mtime_ns
    broken.write_bytes(data)
    os.utime(broken, ns=times_ns)  # as a disk does it, that tells nobody
    (store.folder / INDEX_FILE).unlink()
    store = FeatureStore(tmp_path / "features", KEY)
    (damage,) = store.verify()
    assert damage.shard == broken
    if at >= HEADER_BYTES:
        first, second = clip_of(2), clip_of(3)
        assert damage == DamagedShard(
            broken, "bytes that do not match their checksum", (first if at < HEADER_BYTES + 512 else second,)
        )
        assert store.verify([first, clip_of(0), clip_of("unknown")]) == ([damage] if damage.clips == (first,) else [])
        assert store.drop_damaged([damage]) == sorted([first, second])
    else:
        store.drop_damaged([damage])
    assert store.verify() == []
    fill(store, range(6))
    assert_holds(store, range(6))
    assert_valid(store)


def test_every_flip_in_a_header_is_found(store, tmp_path):
    fill(store, [1])
    (path,) = shards(store)
    data = path.read_bytes()
    header_bytes = len(data[:HEADER_BYTES].rstrip())
    unseen = []
    for at in range(header_bytes):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        found = FeatureStore(tmp_path / "features", KEY)
        if not found.verify() and found.missing([clip_of(1)]) == []:
            assert found.read(clip_of(1)).data == bytes_of(1)
            unseen.append(chr(data[at]))
    # white space that became other white space, and letters of checksums that stand for the same number
    assert set(unseen) <= {" ", *"abcdef"}
    assert header_bytes > 200


@pytest.mark.parametrize(("old", "new"), [("[1,256]", "[256,1]"), ("BF16", "F16 "), (clip_of(1), clip_of(2))])
def test_a_header_that_says_another_thing_about_the_same_bytes_is_found(store, tmp_path, old, new):
    fill(store, [1])
    (path,) = shards(store)
    text = path.read_bytes()
    path.write_bytes(text.replace(old.encode(), new.encode()).replace(b'"F16 "', b'"F16" '))
    again = FeatureStore(tmp_path / "features", KEY)
    assert len(again) == 1
    assert [damage.shard for damage in again.verify()] == [path]


def test_a_copy_in_another_shard_takes_the_place_of_a_damaged_one(store, tmp_path):
    one, two = store, FeatureStore(tmp_path / "features", KEY)
    with one.writer() as first, two.writer() as second:  # neither knows of the other
        first.add(clip_of(1), (1,), "BF16", b"ab")
        second.add(clip_of(1), (1,), "BF16", b"cd")
    assert len(shards(store)) == 2
    assert store.read(clip_of(1)).data == two.read(clip_of(1)).data == b"cd"  # it was published first
    assert store.drop_damaged([DamagedShard(shards(store)[0], "flipped", (clip_of(1),))]) == []
    assert two.missing([clip_of(1)]) == []
    assert store.read(clip_of(1)).data == two.read(clip_of(1)).data == b"ab"


# --- the index


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", '{"sha256": "", "shards": {}}', "\0" * 100])
def test_an_index_that_is_lost_is_made_again(store, tmp_path, text):
    three_shards(store)
    path = store.folder / INDEX_FILE
    whole = path.read_bytes()
    path.unlink() if text is None else path.write_text(text)
    again = FeatureStore(tmp_path / "features", KEY)
    assert_holds(again, range(6))
    assert again.check() == []
    assert path.read_bytes() == whole


def test_an_index_that_cannot_be_written_costs_nothing_else(store, tmp_path):
    fill(store, [1])
    (store.folder / INDEX_FILE).unlink()
    (store.folder / INDEX_FILE).mkdir()
    fill(store, [2])
    assert_holds(FeatureStore(tmp_path / "features", KEY), [1, 2])
    assert store.check() == []


def test_an_index_that_lies_is_not_believed(store, tmp_path):
    first, second, _ = three_shards(store)
    path = store.folder / INDEX_FILE
    whole = path.read_text()
    path.write_text(whole.replace(str(HEADER_BYTES + 512), str(HEADER_BYTES + 511)))
    assert path.read_text() != whole
    assert_holds(FeatureStore(tmp_path / "features", KEY), range(6))
    path.write_text(whole)
    second.unlink()  # older than the folder: it names a shard that is gone, and lacks another
    shutil.copy(first, first.with_name("shard-000009-copy.safetensors"))
    again = FeatureStore(tmp_path / "features", KEY)
    assert again.missing(map(clip_of, range(6))) == [clip_of(2), clip_of(3)]
    assert_holds(again, (0, 1, 4, 5))
