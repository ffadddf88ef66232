"""Asks a model whether rows of one clip may train together, and from cached features, before a training is planned. No torch.

`Job` + rows -> `python -m cvft.train.prove_main REQUEST` -> `Proofs`, kept beside the runs
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from cvft.data.video.spec import name_of
from cvft.errors import Problem, RunError
from cvft.families.proof import Proofs
from cvft.imports import python_environment
from cvft.plan.job import Job
from cvft.plan.prepare import PreparedRows
from cvft.plan.proofs import ProofRequest, keep_proofs, proof_file, read_proofs, request_proofs, wanted_proofs
from cvft.processes import NUM_LOG_LINES_SHOWN, describe_end

LOG = logging.getLogger(__name__)

MODULE = "cvft.train.prove_main"


def prove(job: Job, prepared: PreparedRows, *, variables: Mapping[str, str]) -> Proofs:
    """Finds out how rows may train, where that would matter and is not known of the whole family.

    Args:
        job: The job.
        prepared: Its rows and clips.
        variables: The environment of a worker.

    Returns:
        What was found, now or before.

    Raises:
        RunError: when the model cannot be loaded or its clip cannot be shown.
    """
    wanted = wanted_proofs(job, rows=prepared.row_facts)
    if not wanted:
        return Proofs()
    request = request_proofs(
        job,
        wanted,
        rows=prepared.train_rows,
        shapes=prepared.row_facts.train,
        clips=prepared.clips,
    )
    path = proof_file(job, request)
    proofs = read_proofs(path)
    if proofs is None:
        clip = name_of(request.clip)
        if request.groups:
            LOG.info("groups    two rows of %s are trained apart and together, to see whether they may be", clip)
        if request.features:
            LOG.info(
                "features  a row of %s is trained from its pixels and from features, to see whether it may be", clip
            )
        proofs = _prove(request, variables=variables)
        keep_proofs(path, proofs)
    if proofs.groups is not None:
        LOG.info("groups    %s", proofs.groups)
    if proofs.features is not None:
        LOG.info("features  %s", proofs.features)
    return proofs


def _prove(request: ProofRequest, *, variables: Mapping[str, str]) -> Proofs:
    with tempfile.TemporaryDirectory() as folder:
        asked, found = Path(folder) / "request.json", Path(folder) / "proof.json"
        asked.write_bytes(TypeAdapter(ProofRequest).dump_json(request))
        said = subprocess.run(
            [sys.executable, "-m", MODULE, str(asked), str(found)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=python_environment({**os.environ, **variables}),
            check=False,
        )
        proofs = read_proofs(found)
    if proofs is None:
        last = (said.stdout + said.stderr).decode(errors="replace").strip().splitlines()[-NUM_LOG_LINES_SHOWN:]
        got, need = f"{describe_end(said.returncode)} of its process", "rows trained both ways"
        raise RunError("the model", [Problem("the proof of groups and features", got, need, "\n".join(last))])
    return proofs
