"""VBench (Huang et al. 2024, arXiv 2311.17982) at arm's length: its folder of videos, its command, its results.

VBench pins versions that do not go with today's (transformers 4.33.2, numpy below 2) and asks for an NVIDIA GPU. So it
lives in an environment of its own and is run there, one dimension at a time, as its users run it. Written against its
release 0.1.5 and its source at 45e79ec.

What of it must be known: `vbench evaluate` starts the first `python` on the PATH; it puts its arguments into a shell
line, so all paths here are relative ones; it ends with 0 whatever happened, so that only a results file tells success.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bwcache.core.files import read_json, whole_file, write_json
from bwcache.errors import SettingError, complaint

ANY_PROMPT = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
"""Dimensions that VBench offers for videos of any prompt."""

STANDARD = (
    *ANY_PROMPT,
    "temporal_flickering",
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "temporal_style",
    "appearance_style",
    "overall_consistency",
)
"""All of them, on VBench's own prompts."""

MODES = {"custom": "custom_input", "standard": "vbench_standard"}
PERCENT = ("imaging_quality",)  # whose values of single videos are 0..100, while the mean is 0..1
VIDEOS, PROMPTS, RESULTS, LOGS = "videos", "prompts.json", "results", "logs"
RESULT_FILES = ("_eval_results.json", "_full_info.json")  # how the names of VBench's own files end
PER_PROMPT = 5  # videos of each prompt that VBench looks for
LONGEST_NAME = 200  # bytes; file systems end at 255
INSTALL = (
    "make it an environment of its own (Python 3.10, a GPU): python3.10 -m venv vbench-env && "
    "vbench-env/bin/pip install torch torchvision --index-url https://download.pytorch.org/whl/cu118 && "
    "vbench-env/bin/pip install vbench; "
    "then add --python vbench-env/bin/python"
)


@dataclass(frozen=True)
class Sample:
    """A video file and the prompt that it was made from."""

    prompt: str
    video: Path


@dataclass(frozen=True)
class Score:
    """What VBench found in one dimension; higher is better.

    Attributes:
        mean: over the videos, as VBench weighs them; most are 0..1.
        videos: file name -> value of this video.
    """

    mean: float
    videos: Mapping[str, float]


@dataclass(frozen=True)
class Installation:
    """Where VBench lives: its command, the interpreter beside it and the list of its prompts."""

    command: Path
    python: Path
    prompts: Path


def find(python: str | None = None) -> Installation:
    """VBench beside an interpreter, or on the PATH.

    Raises:
        SettingError: it is not there; the message says how to install it.
    """
    command = _command(python)
    interpreter = Path(python).expanduser() if python else command.parent / "python"
    where = "import importlib.util as u; s = u.find_spec('vbench'); print(s.submodule_search_locations[0] if s else '')"
    try:
        asked = subprocess.run(
            [str(interpreter), "-c", where], env=_around(interpreter.parent), capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise _not_there(f"no working python at {str(interpreter)!r} ({type(error).__name__})") from error
    prompts = Path(asked.stdout.strip()) / "VBench_full_info.json"
    if not asked.stdout.strip() or not prompts.is_file():
        raise _not_there(f"no package vbench in the environment of {str(interpreter)!r}")
    return Installation(command.absolute(), interpreter.absolute(), prompts)


def layout(samples: Sequence[Sample], mode: str = "custom") -> dict[str, Sample]:
    """The name of each video's file, `{prompt}-{index}.mp4`; several of one prompt are counted through in this order.

    Args:
        samples: the videos.
        mode: "custom" may change names that no file can have; in "standard" the name is the prompt.

    Raises:
        SettingError: a prompt cannot be a file name and must be one.
    """
    named: dict[str, Sample] = {}
    counts: dict[str, int] = {}
    for sample in samples:
        stem = _stem(sample.prompt, exact=mode == "standard")
        index = counts.get(stem, 0)
        counts[stem] = index + 1
        named[f"{stem}-{index}{sample.video.suffix}"] = sample
    return named


def prepare(named: Mapping[str, Sample], folder: Path) -> None:
    """Copy videos under the names of `layout` into ``folder``/videos, and write their prompts beside it."""
    (folder / VIDEOS).mkdir(parents=True, exist_ok=True)
    for name, sample in named.items():
        with whole_file(folder / VIDEOS / name) as part:
            shutil.copyfile(sample.video, part)
    prompts = {name: sample.prompt for name, sample in named.items()}
    write_json(folder / PROMPTS, prompts)


def written_files(folder: Path) -> set[str]:
    """What `prepare`, `evaluate` and VBench wrote into a folder, relative to it: the videos that its list names."""
    try:
        listed = set(read_json(folder / PROMPTS))
    except (OSError, ValueError, TypeError):
        listed = set()
    results = [path.name for end in RESULT_FILES for path in (folder / RESULTS).glob(f"*{end}")]
    videos = {f"{VIDEOS}/{name}" for name in listed}
    return {PROMPTS} | videos | {f"{RESULTS}/{name}" for name in results} | {f"{LOGS}/{one}.txt" for one in STANDARD}


def coverage(prompts: Path, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Of each dimension: how many of the videos that VBench expects for its prompts are there, and how many it does.

    Args:
        prompts: VBench's list, `VBench_full_info.json`.
        names: of the video files.
    """
    there = {Path(name).stem for name in names}
    counts = dict.fromkeys(STANDARD, (0, 0))
    for entry in read_json(prompts):
        found = sum(f"{entry['prompt_en']}-{index}" in there for index in range(PER_PROMPT))
        for dimension in set(entry["dimension"]) & set(counts):
            have, expected = counts[dimension]
            counts[dimension] = (have + found, expected + PER_PROMPT)
    return counts


def evaluate(installation: Installation, folder: Path, dimension: str, mode: str = "custom") -> Score:
    """Score a prepared folder in one dimension; what VBench says goes to `logs/`.

    Raises:
        SettingError: VBench left no results; the message has the last line that it said.
    """
    (folder / LOGS).mkdir(exist_ok=True)
    log = folder / LOGS / f"{dimension}.txt"
    with log.open("w", encoding="utf-8") as sink:
        subprocess.run(
            command_line(installation, dimension, mode),
            cwd=folder,
            env=_around(installation.python.parent),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            check=False,
        )
    found = read(folder / RESULTS).get(dimension)
    if found is None:
        last = next(
            (line.strip() for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), ""
        )
        raise SettingError(
            complaint(f"no {dimension} from VBench ({last[:160] or 'it said nothing'})", "a results file", f"see {log}")
        )
    return found


def command_line(installation: Installation, dimension: str, mode: str) -> list[str]:
    """The call of VBench in a prepared folder."""
    line = [str(installation.command), "evaluate", "--videos_path", VIDEOS, "--dimension", dimension]
    line += ["--output_path", RESULTS, "--mode", MODES[mode]]
    return [*line, "--prompt_file", PROMPTS] if mode == "custom" else line


def read(folder: Path) -> dict[str, Score]:
    """All scores in a folder of VBench's results, by dimension; the latest where there are several.

    Files that an aborted run left half-written are passed over.
    """
    scores: dict[str, Score] = {}
    for path in sorted(folder.glob(f"*{RESULT_FILES[0]}"), key=lambda path: path.stat().st_mtime):
        try:
            content = read_json(path)
            scores |= {dimension: _score(dimension, *result) for dimension, result in content.items()}
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError):
            continue
    return scores


def _score(dimension: str, mean: Any, videos: Any) -> Score:
    scale = 100.0 if dimension in PERCENT else 1.0
    values = {Path(row["video_path"]).name: float(row["video_results"]) / scale for row in videos}
    if not math.isfinite(float(mean)):
        raise ValueError(mean)
    return Score(float(mean), values)


def _command(python: str | None) -> Path:
    if python is None:
        found = shutil.which("vbench")
        if found is None:
            raise _not_there("no command vbench on the PATH")
        return Path(found)
    command = Path(python).expanduser().parent / "vbench"
    if not command.is_file():
        raise _not_there(f"no command vbench beside {python!r}")
    return command


def _not_there(found: str) -> SettingError:
    return SettingError(complaint(found, "VBench where it is installed", INSTALL))


def _around(programs: Path) -> dict[str, str]:
    """The variables for a program of another environment: its folder first on the PATH, nothing of this one."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    return kept | {"PATH": f"{programs.absolute()}{os.pathsep}{os.environ.get('PATH', '')}"}


def _stem(prompt: str, exact: bool) -> str:
    stem = re.sub(r"[/\x00\r\n]+", "_", prompt).encode()[:LONGEST_NAME].decode(errors="ignore")
    if len(prompt.encode()) <= 240 and not re.search(r"[/\x00]", prompt):
        stem = prompt
    if exact and stem != prompt:
        raise SettingError(
            complaint(
                f"the prompt {prompt[:60]!r}", "one that can be a file name", "use mode custom, or VBench's prompts"
            )
        )
    return stem
