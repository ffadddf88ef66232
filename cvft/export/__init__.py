"""From an adapter to a model folder that is proved to be base + adapter, and the names of the files that say so."""

VERIFICATION_FILE = "cvft_verification.json"
"""What a merged folder was held to. It is written last: a folder with it is whole and verified."""
