"""Asks a model whether it may train rows of one clip together, before its training is planned; imports no torch itself.

`Job` + rows -> `python -m cvft.train.prove_main REQUEST` -> `GroupProof`, kept beside the runs
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
from cvft.families.proof import GroupProof
from cvft.imports import python_environment
from cvft.plan.batching import wants_proof
from cvft.plan.job import Job
from cvft.plan.prepare import PreparedRows
from cvft.plan.proofs import ProofRequest, keep_proof, proof_file, read_proof, request_proof
from cvft.plan.swift_arguments import ATTENTION_DEFAULT

LOG = logging.getLogger(__name__)

MODULE = "cvft.train.prove_main"
NUM_LINES = 25
"""Last lines of a process that failed, for the error."""


def prove_groups(job: Job, prepared: PreparedRows, *, variables: Mapping[str, str]) -> GroupProof | None:
    """Finds out whether rows of one clip may train together, where that would matter and is not known of the whole family.

    Args:
        job: The job.
        prepared: Its rows and clips.
        variables: The environment of a worker.

    Returns:
        What was found, now or before; None where nothing had to be.

    Raises:
        RunError: when the model cannot be loaded or its clip cannot be shown.
    """
    if not wants_proof(job, rows=prepared.row_facts):
        return None
    request = request_proof(
        job,
        rows=prepared.train_rows,
        shapes=prepared.row_facts.train,
        clips=prepared.clips,
        attention=job.recipe.attention or ATTENTION_DEFAULT,
    )
    path = proof_file(job, request)
    proof = read_proof(path)
    if proof is None:
        LOG.info(
            "groups    two rows of %s are trained apart and together, to see whether they may be", name_of(request.clip)
        )
        proof = _prove(request, variables=variables)
        keep_proof(path, proof)
    LOG.info("groups    %s", proof)
    return proof


def _prove(request: ProofRequest, *, variables: Mapping[str, str]) -> GroupProof:
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
        proof = read_proof(found)
    if proof is None:
        last = (said.stdout + said.stderr).decode(errors="replace").strip().splitlines()[-NUM_LINES:]
        need = "two rows trained both ways"
        problem = Problem("the proof of groups", f"exit code {said.returncode} of its process", need, "\n".join(last))
        raise RunError("the model", [problem])
    return proof
