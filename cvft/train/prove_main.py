"""The process that proves groups and features: loads the model, trains rows of one clip both ways, writes what it found.

`python -m cvft.train.prove_main REQUEST PROOFS`, started by `cvft.train.prove` with a worker's environment.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from cvft.clips.source import ClipInputs, DecodedClips
from cvft.data.rows import Row
from cvft.families.network.proof import prove_features, prove_groups
from cvft.families.proof import Proofs
from cvft.families.runtime import Loading, load_runtime
from cvft.families.table import family_named
from cvft.plan.proofs import ProofRequest, keep_proofs
from cvft.weights.folder import ModelFolder


def main(argv: list[str]) -> None:
    """Proves or disproves.

    Args:
        argv: Files of the request and of the proofs.
    """
    asked, found = map(Path, argv)
    request = TypeAdapter(ProofRequest).validate_json(asked.read_bytes())
    family, folder, how = family_named(request.family), ModelFolder.of(request.folder), request.preprocessing
    runtime = load_runtime(family)
    encoder = runtime.encoder(folder, how)
    rows = [
        Row(query, response, (), (request.clip,), source=asked, line=0, system=request.system)
        for query, response in request.rows
    ]
    with closing(DecodedClips(encoder, how.decode, cache_bytes=0)) as clips:
        clip = clips.load(request.clip)
        encoded = [encoder.encode(row, [clip], with_response=True) for row in rows]
    layers, device = family.parts.layers, request.device
    cached: Any = None
    if request.features:
        tower = runtime.tower(folder, dtype=request.dtype, device=device)
        with torch.inference_mode():  # as where features are cached
            features = tower(clip.tensors)
        seen = ClipInputs({"vision_features": features.clone()}, clip.view)
        cached = encoder.encode(rows[0], [seen], with_response=True)
        del tower
    loading = Loading(request.dtype, attention=request.attention, device_map={"": device})
    model = runtime.load(folder, how, loading)
    groups = of_features = None
    if request.groups:
        groups = prove_groups(model, runtime, encoder, encoded, layers=layers, dtype=request.dtype, device=device)
    if request.features:
        of_features = prove_features(model, runtime, encoder, encoded[0], cached, layers=layers, device=device)
    keep_proofs(found, Proofs(groups, of_features))


if __name__ == "__main__":
    main(sys.argv[1:])
