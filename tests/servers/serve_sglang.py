"""sglang's whole server in this process, on a CPU: our entry point is found, a tiny Wan is loaded from a folder, and
requests come over HTTP. Run as a program: what it prints is its log, and a line of JSON for each request.

Put in their place are its kernels for CPUs, which come in a package of their own.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.tiny import seeded, wan_transformer, wan_vae

SAID = (None, "fast", "nearly", {"name": "BWCache"})
STEPS = 8
WORDS = ("<pad>", "</s>", "<unk>", "a", "small", "red", "circle")


def part(path: str) -> Any:
    return importlib.import_module(f"sglang.multimodal_gen.{path}")


def saved(folder: Path) -> Path:
    """A pipeline on disk, under a name that sglang knows."""
    tokenizers, transformers, diffusers = map(importlib.import_module, ("tokenizers", "transformers", "diffusers"))
    words = tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = transformers.UMT5Config(vocab_size=len(WORDS), pad_token_id=0, eos_token_id=1, **sizes)
    place = folder / "Wan2.1-T2V-1.3B-Diffusers"
    diffusers.WanPipeline(
        tokenizer=transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
        text_encoder=seeded(lambda: transformers.UMT5EncoderModel(config)),
        transformer=wan_transformer(),
        vae=wan_vae(),
        scheduler=diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    ).save_pretrained(place)
    return place


def found_by_entry_point(folder: Path) -> None:
    """Make the entry point known where the package under test is not installed; it loads what stands on the path."""
    metadata = folder / "found" / "bwcache-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: bwcache\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[sglang.multimodal_gen.plugins]\nbwcache=bwcache.servers.sglang:register\n"
    )
    sys.path.insert(0, str(metadata.parent))


def ask(arguments: Any) -> None:
    """Send the requests one after the other, and end the process."""
    client = importlib.import_module("fastapi.testclient").TestClient
    with client(part("runtime.entrypoints.http_server").create_app(arguments)) as server:
        for said in SAID:
            body = {"prompt": "a small red circle", "size": "32x32", "num_frames": 5, "fps": 8, "seed": 1}
            body |= {"num_inference_steps": STEPS, "diffusers_kwargs": {"bwcache": said} if said else {}}
            answer = server.post("/v1/videos", json=body).json()
            while answer["status"] not in ("completed", "failed"):
                time.sleep(0.5)
                answer = server.get(f"/v1/videos/{answer['id']}").json()
            print(json.dumps({"asked": said, **answer}), flush=True)


def main(folder: Path) -> None:
    """Serve until all is answered."""
    found_by_entry_point(folder)
    part("runtime.platforms").initialize_current_platform()
    plugins = part("runtime.platforms.plugins")
    plugins.load_plugins()
    plugins.apply_plugin_hooks()
    part("runtime.layers.layernorm").fuse_scale_shift_kernel = lambda x, scale, shift: x * (1 + scale) + shift
    part("runtime.layers.custom_op").CustomOp.dispatch_forward = lambda layer: layer.forward_native
    server = part("runtime.server_args")
    arguments = server.prepare_server_args(["--model-path", str(saved(folder))])
    server.set_global_server_args(arguments)
    ready, tells = multiprocessing.Pipe()

    def client() -> None:
        try:
            if ready.recv()["status"] == "ready":
                ask(arguments)
        finally:
            sys.stdout.flush()
            os._exit(0)

    threading.Thread(target=client, daemon=True).start()
    part("runtime.managers.gpu_worker").run_scheduler_process(
        local_rank=0, rank=0, server_args=arguments, pipe_writer=tells
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
