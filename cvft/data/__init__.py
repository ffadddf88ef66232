"""Turns rows of a JSON/JSONL file into validated `Row`s, and clips into uint8 frames with their seconds.

    train.jsonl --read_rows--> list[Row] --split_by_clip--> (train rows, val rows)
                                  |
                                  +--check_clips--> rows whose clip decodes, quarantined rows, facts per clip
    clip file --DecodeProcess.decode--> Clip: frames uint8 (T, H, W, 3), timestamps_s float32 (T,)
    features of a clip --FeatureStore.writer().add--> shards on disk --FeatureStore.read--> the same bytes

Refuses: a row that cannot be trained on as it stands, a clip that cannot be decoded into exactly the frames that the
sampling rule names. Nothing is truncated, repeated or replaced silently. This room never imports torch, and imports a
decoder only when a clip is decoded.
"""
