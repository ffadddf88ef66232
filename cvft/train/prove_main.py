"""The process that proves groups: loads the model, trains two rows of one clip both ways, writes what it found.

`python -m cvft.train.prove_main REQUEST PROOF`, started by `cvft.train.prove` with a worker's environment.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from pydantic import TypeAdapter

from cvft.clips.source import DecodedClips
from cvft.data.rows import Row
from cvft.families.family import Loading, load_runtime
from cvft.families.network.proof import prove_groups
from cvft.families.table import family_named
from cvft.plan.proofs import ProofRequest, keep_proof
from cvft.weights.folder import ModelFolder


def main(argv: list[str]) -> None:
    """Proves or disproves.

    Args:
        argv: Files of the request and of the proof.
    """
    asked, found = map(Path, argv)
    request = TypeAdapter(ProofRequest).validate_json(asked.read_bytes())
    family, folder, how = family_named(request.family), ModelFolder.of(request.folder), request.preprocessing
    runtime = load_runtime(family)
    encoder = runtime.encoder(folder, how)
    rows = [
        Row(query, response, (), request.clip, source=asked, line=0, system=request.system)
        for query, response in request.rows
    ]
    with closing(DecodedClips(encoder, how.decode, cache_bytes=0)) as clips:
        clip = clips.load(request.clip)
        encoded = [encoder.encode(row, clip, with_response=True) for row in rows]
    loading = Loading(request.dtype, attention=request.attention, device_map={"": request.device})
    model = runtime.load(folder, how, loading)
    layers, device = family.parts.layers, request.device
    proof = prove_groups(model, runtime, encoder, encoded, layers=layers, dtype=request.dtype, device=device)
    keep_proof(found, proof)


if __name__ == "__main__":
    main(sys.argv[1:])
