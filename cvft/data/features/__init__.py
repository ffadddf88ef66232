"""Vision features or pixels on disk: made once of a clip, read back bit for bit by every later epoch, run and rank.

    FeatureKey --digest--> root/<16 hex digits>/  key.json, shard-*.safetensors, index.json, two locks
    clip (sha256 of its file) --writer().add--> an entry of a shard --read--> Feature: shape, dtype, bytes

A shard gets its final name when it is whole and on the disk, and never changes afterwards. The shards are the truth;
`index.json` only spares reading their headers. Of two entries for one clip the one published first counts.

Refuses: a folder of another key, an entry that does not fit its shape, a clip that is not there. A damaged shard is
named, and its clips count as missing.
"""
