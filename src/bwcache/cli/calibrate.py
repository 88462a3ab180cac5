"""``bwcache calibrate``: the table that a method needs for one model, of a few uncached runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bwcache.cli.choices import choose
from bwcache.cli.costs import TIMED_STEPS, duration, timed
from bwcache.cli.loading import load
from bwcache.cli.output import check_file, command_line
from bwcache.cli.progress import Bars
from bwcache.cli.settings import CalibrateSettings
from bwcache.cli.studies import check_twice
from bwcache.core.files import write_json
from bwcache.errors import SettingError, complaint

FEWEST_STEPS = 3


def run_calibrate(settings: CalibrateSettings) -> None:
    """Calibrate as the options say."""
    from bwcache.policies import named
    from bwcache.policies.calibrated_file import CalibratedFile
    from bwcache.policies.policy_file import SUFFIX
    from bwcache.study.calibration import Calibration, settings_for
    from bwcache.study.made_for import only_denoiser

    if settings.out.suffix.lower() != SUFFIX:
        found = f"--out {str(settings.out)!r}"
        raise SettingError(complaint(found, "a name that ends with .json", "try --out calibrated.json"))
    out = check_file(settings.out, settings.overwrite, CalibratedFile.KIND)
    kind = named(settings.method)
    choices = choose(settings, settings_for(kind))
    if choices.steps < FEWEST_STEPS:
        found = f"--steps {choices.steps}"
        raise SettingError(complaint(found, f"at least {FEWEST_STEPS}", "use as many as the videos will have"))
    check_twice(choices.prompts)
    calibration = Calibration.of_words(kind, choices.steps, choices.calibration, "--set ")
    calibration.check()
    choices.check_policies([calibration.measuring()])
    if choices.skeleton is not None:
        only_denoiser(choices.skeleton)
    with Bars() as bars:
        pipe, choices = load(settings, choices, bars)
        file = calibrated(pipe, calibration, choices.requests(), settings.model, bars)
    write_json(out, file.to_json())
    for line in summary(file, settings.out):
        print(line)


def calibrated(pipe: Any, calibration: Any, requests: list[Any], model: str, bars: Bars) -> Any:
    """Return the `CalibratedFile` of runs that are made now."""
    from bwcache.policies.calibrated_file import CalibratedFile
    from bwcache.study.calibration import measured
    from bwcache.study.made_for import made_for, only_denoiser
    from bwcache.study.study import identity

    only_denoiser(pipe)
    identical = identity(pipe, requests[0], model)
    bars.say(cost(pipe, calibration, requests))
    bars.overall("all videos", 0, len(requests))
    traces = []
    for trace in measured(pipe, requests, calibration, bars.show):
        traces.append(trace)
        bars.overall("all videos", len(traces), len(requests))
    source = {
        "version": identical["packages"].get("bwcache"),
        "command": command_line(),
        "prompts": [request.prompt for request in requests],
        "settings": dict(calibration.settings),
    }
    policy = calibration.fitted(traces)
    return CalibratedFile(policy, made_for(pipe, identical, model, calibration.steps), source)


def cost(pipe: Any, calibration: Any, requests: list[Any]) -> str:
    """Return what the runs will take, in words: forwards, and minutes by a short timed call."""
    from bwcache.engine import attach

    with attach(pipe, calibration.measuring(TIMED_STEPS)) as session:
        step, rest = timed(pipe, requests[0])
    branches = len({event.branch for event in session.trace.events}) or 1
    steps, times = len(requests) * calibration.steps, calibration.forwards
    evaluation = step * TIMED_STEPS / (1 + times * (TIMED_STEPS - 1))  # a first step has nothing to compare with
    seconds = evaluation * times * steps + rest * len(requests)
    again = f", each evaluated {times} times" if times > 1 else ""
    videos = f"{len(requests)} uncached video{'s' if len(requests) > 1 else ''} of {calibration.steps} steps{again}"
    return f"{videos}: {steps * branches * times} forwards, about {duration(seconds)} here"


def summary(file: Any, out: Path) -> list[str]:
    """Return what was found, in words."""
    from bwcache.study.calibration import decides, expect_table

    policy, name = file.policy, type(file.policy).__name__
    table = expect_table(type(policy))
    valid = {"model": "any schedule", "schedule": "any number of steps of this schedule", "runs": "this schedule"}
    steps = f" and {file.made_for['steps']} steps" if table.holds_for == "runs" else ""
    count = len(file.source["prompts"])
    videos = f"{count} video{'s' if count > 1 else ''}"
    lines = [
        f"{name}: {' and '.join(table.fields)} for {file.denoiser}, of {videos}; holds for "
        f"{valid[table.holds_for]}{steps}",
        f'{out}: bwcache.attach(pipe, "{out.name}"), or --policy {out.name} with compare, generate, sweep or serve',
    ]
    if not policy.may_reuse:
        lines.insert(1, f"nothing would be reused with it: that is up to --set {decides(type(policy))}=")
    return lines
