"""`cvft doctor-env`: what there is to know of a machine and an installation."""

from __future__ import annotations

import argparse
import json

from cvft.errors import EXIT_INCOMPLETE, FoundError

SUMMARY = "say what is installed, what this machine has and what it would refuse, for a report of a fault"
EXAMPLES = (
    "cvft doctor-env",
    "cvft doctor-env --imports",
    "cvft doctor-env --json > environment.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--imports",
        action="store_true",
        help="import every package as well, in processes of their own: finds those that are there and broken; half a minute",
    )
    parser.add_argument(
        "--paths", action="store_true", help="leave paths and the host's name as they are; without, they are shortened"
    )


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    from cvft.doctor_env.describe import describe, find_faults
    from cvft.doctor_env.find import find_environment

    found = find_environment(imports=options.imports, shows_paths=options.paths)
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else describe(found))
    if faults := find_faults(found):
        raise FoundError(
            f"found {len(faults)} that are not as cvft needs them: {', '.join(faults)}", exit_code=EXIT_INCOMPLETE
        )
    return None
