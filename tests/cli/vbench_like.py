"""An environment that looks like VBench's: its command, its arguments, its files and its failures.

As the real one (0.1.5), the command joins its arguments to a shell line for the first `python` on the PATH, and ends
with 0 whatever became of it.
"""

import json
import sys
from pathlib import Path

PROMPTS = [
    {"prompt_en": "a red circle", "dimension": ["subject_consistency", "motion_smoothness"]},
    {"prompt_en": "a quiet barn", "dimension": ["temporal_flickering"]},
]

COMMAND = """\
import argparse, subprocess
parser = argparse.ArgumentParser()
parser = parser.add_subparsers().add_parser("evaluate")
parser.add_argument("--ngpus", type=int, default=1)
parser.add_argument("--output_path", default="./evaluation_results/")
parser.add_argument("--full_json_dir", default="{site}/vbench/VBench_full_info.json")
parser.add_argument("--videos_path", required=True)
parser.add_argument("--dimension", required=True)
parser.add_argument("--mode", choices=["custom_input", "vbench_standard", "vbench_category"], default="vbench_standard")
parser.add_argument("--prompt", default="None")
parser.add_argument("--prompt_file")
import sys
values = vars(parser.parse_args(sys.argv[2:]))
line = 'python "{site}/launch.py" '
for name in values:
    if name == "ngpus" or values[name] is None:
        continue
    quoted = name in ("videos_path", "prompt", "prompt_file", "output_path", "full_json_dir")
    line += ('--%s="%s" ' if quoted else "--%s %s ") % (name, values[name])
subprocess.run(line, shell=True)
"""

LAUNCH = """\
import argparse, json, os, sys, time
assert "fake-site" in os.environ["PYTHONPATH"], "another python than that of the environment"
parser = argparse.ArgumentParser()
for name in ("output_path", "full_json_dir", "videos_path", "mode", "prompt", "prompt_file"):
    parser.add_argument("--" + name)
parser.add_argument("--dimension", nargs="+")
asked = parser.parse_args()
with open("{site}/calls.txt", "a") as calls:
    calls.write(asked.dimension[0] + "\\n")
names = sorted(name for name in os.listdir(asked.videos_path) if name.endswith(".mp4"))
if asked.mode == "custom_input":
    prompts = json.load(open(asked.prompt_file))
    assert set(prompts) >= set(names)
else:
    listed = json.load(open(asked.full_json_dir))
    expected = [row["prompt_en"] for row in listed if set(asked.dimension) & set(row["dimension"])]
    names = [name for name in names if name.rsplit("-", 1)[0] in expected]
    assert asked.prompt == "None"
os.makedirs(asked.output_path, exist_ok=True)
print("Initialising ...")
result = dict()
for dimension in asked.dimension:
    if dimension == "dynamic_degree":
        raise RuntimeError("RAFT weights could not be downloaded")
    rows = []
    for name in names:
        path = os.path.join(asked.videos_path, name)
        value = os.path.getsize(path) / 1000
        rows.append(dict(video_path=path, video_results=100 * value if dimension == "imaging_quality" else value))
    scale = 100 if dimension == "imaging_quality" else 1
    result[dimension] = [sum(row["video_results"] for row in rows) / len(rows) / scale, rows]
place = os.path.join(asked.output_path, "results_" + time.strftime("%Y-%m-%d-%H:%M:%S"))
json.dump([], open(place + "_full_info.json", "w"))
written = place + "-" + asked.dimension[0] + "_eval_results.json"
json.dump(result, open(written, "w"), indent=4)
"""


class Environment:
    """Its interpreter, and which dimensions it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, folder / "fake-site"
        self.python = folder / "bin" / "python"
        (folder / "bin").mkdir(parents=True)
        (self.site / "vbench").mkdir(parents=True)
        (self.site / "vbench" / "__init__.py").write_text("raise ImportError('slow, and needs a GPU')\n")
        (self.site / "vbench" / "VBench_full_info.json").write_text(json.dumps(PROMPTS))
        (self.site / "launch.py").write_text(LAUNCH.replace("{site}", str(self.site)))
        self.program(self.python, f'#!/bin/sh\nPYTHONPATH="{self.site}" exec "{sys.executable}" "$@"\n')
        text = COMMAND.replace("{site}", str(self.site))
        self.program(folder / "bin" / "vbench", f"#!{sys.executable}\n{text}")

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        path = self.site / "calls.txt"
        return path.read_text().split() if path.exists() else []
