"""vllm-omni's API for videos in this process, on a CPU, over HTTP: what a request says reaches our backend.

There is no platform for CPUs in vllm-omni, so its engine cannot start; in its place stands a pipeline of its
common class with a tiny Wan. Run as a program: what it prints is its log, and a line of JSON for each one.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from bwcache.servers import vllm_omni
from tests.servers import in_vllm_omni as host

SAID = (None, "fast", "nearly")
STAGE = SimpleNamespace(stage_type="diffusion", final_output=True, final_output_type="video")


class Engine:
    """Where vllm-omni's engine would be."""

    stage_configs = (STAGE,)

    def __init__(self) -> None:
        parameters: Any = importlib.import_module("vllm_omni.inputs.data").OmniDiffusionSamplingParams
        self.default_sampling_params_list = [parameters()]
        self.od_config = None
        self.pipe = host.looped(host.KINDS["Wan"])
        backend = vllm_omni.Backend({"policy": "off"})
        backend.enable(self.pipe)

    async def generate(self, prompt: Any, request_id: str, sampling_params_list: Any) -> AsyncIterator[Any]:
        """One request."""
        (parameters,) = sampling_params_list
        asked = SimpleNamespace(request_id=request_id, seed=1, sampling_params=parameters)
        made = host.sampled(self.pipe, asked)
        output: Any = importlib.import_module("vllm_omni.outputs").OmniRequestOutput
        yield output.from_diffusion(request_id=request_id, images=[made.numpy().tobytes()], prompt=prompt)


def main() -> None:
    """Send the requests one after the other."""
    logging.basicConfig(level=logging.INFO)
    api: Any = importlib.import_module("vllm_omni.entrypoints.openai.api_server")
    videos: Any = importlib.import_module("vllm_omni.entrypoints.openai.serving_video")
    app = importlib.import_module("fastapi").FastAPI()
    app.include_router(api.router)
    engine = Engine()
    app.state.openai_serving_video = videos.OmniOpenAIServingVideo.for_diffusion(engine, "tiny", engine.stage_configs)
    with importlib.import_module("fastapi.testclient").TestClient(app) as server:
        for said in SAID:
            form = {"prompt": "a small red circle"}
            form |= {} if said is None else {"extra_params": json.dumps({"bwcache": said})}
            answer = server.post("/v1/videos/sync", data=form)
            id_, made = answer.headers.get("X-Request-Id"), answer.content.hex()
            print(json.dumps({"asked": said, "status": answer.status_code, "id": id_, "made": made}), flush=True)


if __name__ == "__main__":
    main()
