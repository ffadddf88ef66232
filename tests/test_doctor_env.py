"""`cvft doctor-env`: what it says of this machine is so, tells nobody's name, and comes out whatever is broken."""

import json
import os
import platform
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from cvft.doctor_env.packages import EXTRAS, find_packages
from cvft.doctor_env.probe import import_modules
from tests.project import cvft, cvft_ok

ROOT = Path(__file__).parent.parent
RAISES = "raise ImportError('libcudart.so.12: cannot open shared object file: /home/somebody/lib/libcudart.so.12')\n"
CRASHES = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
LEAVES = "print('words on standard output')\nraise SystemExit('no licence')\n"


def package(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)


def metadata(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.dist-info").mkdir(parents=True)
    (folder / f"{name}.dist-info" / "METADATA").write_text(text)


def with_first(folder: Path, **variables: str) -> dict[str, str]:
    """The environment in which what a folder holds takes the place of what is installed."""
    rest = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), rest])), **variables}


def lines_about(text: str, label: str) -> list[str]:
    return [line.removeprefix(label).strip() for line in text.splitlines() if line.startswith(f"{label} ")]


def test_it_says_what_this_machine_has():
    found = json.loads(cvft_ok("doctor-env", "--json").stdout)
    assert found["system"]["python"] == f"{platform.python_version()} (CPython)"
    assert found["system"]["num_cores_usable"] == len(os.sched_getaffinity(0))
    packages = {each["name"]: each for each in found["packages"]["found"]}
    for name in ("torch", "ms-swift", "transformers", "av"):
        assert packages[name]["version"] == version(name)
        assert packages[name]["state"] == "ok"
    assert found["decoders"]["pyav"]["version"] == version("av")
    assert {"h264", "hevc", "vp9", "av1"} <= set(found["decoders"]["pyav"]["codecs"])
    assert found["torch"]["version"] == version("torch")
    assert found["disk"]["current folder"]["free_bytes"] <= found["disk"]["current folder"]["total_bytes"]


def test_it_loads_no_torch():
    code = (
        "import sys; from cvft.doctor_env.find import find_environment; find_environment(); "
        "print({'torch', 'transformers', 'swift', 'av'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_extras_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"])
    needed = {each.name for each in find_packages() if each.extra is None}
    assert {"torch", "ms-swift", "av"} <= needed


def test_it_tells_nobodys_name_unless_it_is_asked_to(tmp_path):
    folder = tmp_path / "somebody" / "secret"
    package(folder, "av", f"raise ImportError('on {platform.node()}: {folder}/lib/libav.so')\n")
    found = {}
    for words in ((), ("--json",), ("--paths",)):
        done = cvft("doctor-env", *words, env=with_first(folder), cwd=folder)
        assert (done.returncode, done.stderr) == (1, "found 1 that are not as cvft needs them: av\n")
        found[words] = done.stdout
    for words in ((), ("--json",)):
        assert "somebody" not in found[words]
        assert str(ROOT) not in found[words]
        assert "on HOST: …/libav.so" in found[words]
    assert f"on {platform.node()}: {folder}/lib/libav.so" in " ".join(found["--paths",].split())


def test_broken_packages_are_named_and_end_nothing(tmp_path):
    package(tmp_path, "torch", RAISES)
    package(tmp_path, "av", CRASHES)
    package(tmp_path, "decord", LEAVES)
    metadata(tmp_path, "safetensors-9.0", "Metadata-Version: 2.1\nName: safetensors\nVersion: 9.0\n")
    metadata(tmp_path, "tqdm-4.70.0", "Metadata-Version: 2.1\nName: tqdm\n")
    done = cvft("doctor-env", "--imports", env=with_first(tmp_path, COLUMNS="300"))
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    faults = "\n".join(lines_about(done.stdout, "  fault"))
    text = " ".join(done.stdout.split())
    assert "torch 2.13" in faults
    assert "ImportError: libcudart.so.12: cannot open shared object file: …/libcudart.so.12" in text
    assert "broken: the process was ended by SIGSEGV" in text
    assert "decord 0.6.0: broken: SystemExit: no licence" in text
    assert "safetensors 9.0: not tested with this version, need <0.9,>=0.7" in text
    assert "tqdm: broken: its metadata names no version" in text
    assert done.stderr.startswith("found ")
    assert {"torch", "av", "decord", "safetensors", "tqdm"} <= set(done.stderr.strip().partition(": ")[2].split(", "))


@pytest.mark.parametrize("name", ["pydantic", "psutil", "packaging"])
def test_a_package_that_it_needs_itself_costs_its_section_alone(tmp_path, name):
    package(tmp_path, name, RAISES)
    done = cvft("doctor-env", env=with_first(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    unknown = [line for line in done.stdout.splitlines() if "could not be found out: ImportError: libcudart" in line]
    assert unknown
    assert lines_about(done.stdout, "disk")
    assert f"{version('torch')}, built for" in done.stdout


def test_a_package_that_never_finishes_its_import_is_given_up(tmp_path, monkeypatch):
    package(tmp_path, "endless", "import time\ntime.sleep(100_000)\n")
    monkeypatch.setenv("PYTHONPATH", with_first(tmp_path)["PYTHONPATH"])
    assert import_modules(["endless"], timeout_s=5.0)["endless"].error == "the import took more than 5 s"


def test_what_it_says_would_be_refused_is_refused_in_these_words(tmp_path):
    refused = {
        each["setting"]: each["problem"]
        for each in json.loads(cvft_ok("doctor-env", "--json").stdout)["refused"]["found"]
    }
    assert "train.report_to=wandb" in refused  # no extra brings it
    assert not {"model.quantize=nf4", "parallel.strategy=zero2"} & set(refused)  # the extra `test` does
    planned = cvft("plan", ROOT / "recipes" / "tiny_cpu.yaml", "train.report_to=[wandb]", f"output.root={tmp_path}")
    problem = refused["train.report_to=wandb"]
    assert planned.returncode == 2
    assert f"{problem['where']}: got {problem['got']}, need {problem['need']}" in planned.stderr


def test_shells_that_decide_for_the_recipe_are_named():
    done = cvft("doctor-env", env={**os.environ, "WORLD_SIZE": "4", "HF_TOKEN": "hf_secret"})
    assert "every training: got `4`, need `1`, or it unset" in " ".join(done.stdout.split())
    assert "HF_TOKEN=(set)" in done.stdout
    assert "hf_secret" not in done.stdout


def test_gpus_are_those_that_the_driver_names(tmp_path):
    driver = tmp_path / "nvidia-smi"
    driver.write_text(
        '#!/bin/sh\ncase "$1" in *driver_version*) echo 580.95.05; echo 580.95.05 ;; '
        "*) echo 'NVIDIA A100-SXM4-40GB, 40960'; echo 'NVIDIA T4, 15360' ;; esac\n"
    )
    driver.chmod(0o755)
    shell = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    done = cvft_ok("doctor-env", env={**shell, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
    assert lines_about(done.stdout, "gpu") == [
        "NVIDIA A100-SXM4-40GB, 38.6 GiB usable; driver 580.95.05",
        "NVIDIA T4, 14.5 GiB usable; driver 580.95.05",
    ]
    assert "parallel.device=cuda" not in done.stdout
