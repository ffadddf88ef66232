"""Writes tests/golden/vllm.json: prompt ids and pixels that vLLM's own code makes of `vllm_cases.py`. For a person.

    PYTHONPATH=. python tests/make_vllm_goldens.py write FOLDER     # in cvft's environment
    PYTHONPATH=. python tests/make_vllm_goldens.py run FOLDER       # in vLLM's, which needs no GPU for it, and no cvft

The second run parses the flags as `vllm serve` does, and sends each request through its template, loader and processors up to
what its model would be given.
"""

import hashlib
import json
import sys
from itertools import groupby
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden" / "vllm.json"


def write(folder: Path) -> None:
    from tests.vllm_cases import CASES, make_case

    for number, (kind, model, sends) in enumerate(CASES):
        place = folder / f"{number:02}"
        place.mkdir(parents=True)
        case = make_case(place, kind, model, sends)
        values = {"case": [kind, model, sends], "argv": case.argv, "requests": case.requests}
        (place / "case.json").write_text(json.dumps(values))


def run(folder: Path) -> None:
    import transformers
    import vllm

    found = []
    for file in sorted(folder.glob("*/case.json")):
        values = json.loads(file.read_text())
        found.append({"case": values["case"], "prompts": render(values["argv"], values["requests"])})
        print(values["case"], flush=True)
    versions = {"vllm": vllm.__version__, "transformers": transformers.__version__}
    lines = ",\n".join(json.dumps(each) for each in found)
    GOLDEN.write_text(f'{{"versions": {json.dumps(versions)},\n"cases": [\n{lines}\n]}}\n')


def render(argv: list[str], requests: list[dict]) -> list[dict]:
    """What a server that is started so makes of requests: ids, each with how often it stands in a row, and a hash of pixels."""
    import vllm.platforms
    from vllm.platforms.cpu import CpuPlatform

    vllm.platforms._current_platform = CpuPlatform()  # a wheel for GPUs finds none; nothing is computed here
    from vllm.config import DeviceConfig, VllmConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.common.cli_args import make_arg_parser
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers.registry import renderer_from_config
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    options = make_arg_parser(FlexibleArgumentParser()).parse_args(argv)
    options.model = options.model_tag
    model_config = EngineArgs.from_cli_args(options).create_model_config()
    config = VllmConfig(model_config=model_config, device_config=DeviceConfig(device="cpu"))
    renderer = renderer_from_config(config)
    template = Path(options.chat_template).read_text()
    prompts = []
    for request in requests:
        asked = ChatCompletionRequest(**request)
        params = asked.build_chat_params(template, options.chat_template_content_format)
        params = params.with_defaults(default_media_io_kwargs=model_config.multimodal_config.media_io_kwargs)
        _, (prompt,) = renderer.render_chat([asked.messages], params, skip_mm_cache=True)
        ids = [[number, len(list(same))] for number, same in groupby(prompt["prompt_token_ids"])]
        pixels = None
        if "mm_kwargs" in prompt:
            values = prompt["mm_kwargs"].get_data()["pixel_values_videos"].float().contiguous().numpy()
            pixels = hashlib.sha256(values.tobytes()).hexdigest()
        prompts.append({"ids": ids, "pixels": pixels})
    return prompts


if __name__ == "__main__":
    {"write": write, "run": run}[sys.argv[1]](Path(sys.argv[2]))
