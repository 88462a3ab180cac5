"""What a request to `bwcache serve` asks for: checked as a row of a prompt file is.

A request comes from anywhere. It may name no file and no code, and ask for no more work than is allowed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from bwcache.cli.progress import quiet_libraries
from bwcache.cli.rows import Rows
from bwcache.cli.settings import ServeSettings
from bwcache.core.words import plain_name, shown
from bwcache.errors import SettingError, complaint
from bwcache.fleet.prompt_file import Line
from bwcache.serve.order import Order

FIELDS = (
    *("prompt", "negative_prompt", "seed", "steps", "height", "width", "frames", "guidance_scale"),
    *("grade", "policy"),
)
LONGEST = 4000
"""Letters of a text."""


class OrderReader:
    """Reads requests for one model, which need not be loaded.

    Args:
        settings: of the server, which each request begins with.
        device: on which the videos are made.
    """

    def __init__(self, settings: ServeSettings, device: str) -> None:
        from pathlib import Path

        from bwcache.measure.load import small_files
        from bwcache.measure.skeleton import check_known, pipeline_kind, skeleton

        self._settings = settings
        self._one = threading.Lock()  # requests come from several threads, and a policy is tried on the one skeleton
        with quiet_libraries():
            folder = small_files(settings.model)
            self._kind = pipeline_kind(folder)
            check_known(folder, self._kind)
            self._skeleton = skeleton(folder)
            self._rows = Rows(settings.as_generate(), self._kind, device, self._skeleton, Path())

    def read(self, values: Mapping[str, Any]) -> Order:
        """Return the order.

        Raises:
            SettingError: a field that is not known, or a value that cannot work here.
            AttachError: the policy does not fit the model.
        """
        from bwcache.policies import BWCache

        for name in values:
            if name not in FIELDS:
                raise _refused(f"field {shown(name)}", f"only {', '.join(FIELDS)}", "leave it out")
        for name in ("prompt", "negative_prompt"):
            if len(str(values.get(name, ""))) > LONGEST:
                raise _refused(f"a {name} of {len(values[name])} letters", f"at most {LONGEST}", "say it shorter")
        _check_grade(values.get("grade"))
        _check_policy(values.get("policy"))
        with self._one, quiet_libraries():
            asked = self._rows.read(Line(1, values))
            choices = self._rows.whole(asked)
        (request,) = choices.requests()
        self._check_work(request)
        unsettled = choices.fields if self._skeleton is None and type(choices.policy) is BWCache else None
        grade = asked.plan.settings.grade
        return Order(request, choices.policy, grade.strip().lower() if grade else None, choices.fps, unsettled)

    def about(self) -> dict[str, Any]:
        """Return what a page should know of model, defaults and bounds, ready for JSON."""
        from bwcache import shapes
        from bwcache.measure.inputs import parameters
        from bwcache.measure.load import SHAPES
        from bwcache.policies.grades import GRADES

        order = self.read({"prompt": "a"})
        request = order.request
        settings = self._settings
        return {
            "model": settings.model,
            "pipeline": self._kind.__name__,
            "grades": {name: grade.psnr for name, grade in GRADES.items()},
            "default": {
                "grade": order.grade,
                "policy": order.policy.describe(),
                "steps": request.steps,
                "seed": request.seed,
                "guidance_scale": request.guidance_scale,
                "height": request.height,
                "width": request.width,
                "frames": request.frames,
            },
            "most": {"steps": settings.max_steps, "pixels": settings.max_pixels, "letters": LONGEST},
            "fields": [name for name in FIELDS if name != "negative_prompt" or name in parameters(self._kind)],
            "examples": list(shapes.PROMPTS) if settings.model == SHAPES else [],
            "room": settings.queue,
            "together": settings.batch,
        }

    def _check_work(self, request: Any) -> None:
        settings = self._settings
        if request.steps > settings.max_steps:
            raise _refused(f"steps {request.steps}", f"at most {settings.max_steps} on this server", "ask for fewer")
        sizes = (request.frames, request.height, request.width)
        if settings.max_pixels is None or None in sizes:
            return
        pixels = request.frames * request.height * request.width
        if pixels > settings.max_pixels:
            found = f"{request.frames} frames of {request.height} x {request.width}, {pixels:,} pixels"
            raise _refused(found, f"at most {settings.max_pixels:,} on this server", "ask for a smaller video")


def _check_grade(grade: Any) -> None:
    """Raise where there is no such grade, before anybody looks for a file of that name: a request may name none."""
    from bwcache.policies.grades import GRADES

    if grade is not None and (not isinstance(grade, str) or grade.strip().lower() not in GRADES):
        raise _refused(f"grade {shown(grade)}", " or ".join(GRADES), "ask for one of them, or for a policy")


def _check_policy(policy: Any) -> None:
    """Raise where a request's policy is not of the catalogue, or one of its values could be a file or code."""
    from bwcache.policies import known

    name = policy.get("name") if isinstance(policy, Mapping) else policy
    if policy is None:
        return
    if not isinstance(name, str) or plain_name(name) not in map(plain_name, known()):
        found = f"policy {shown(policy)}"
        raise _refused(found, f"one of {', '.join(known())}, or a grade", "name one; files and code are for the server")
    for field, value in policy.items() if isinstance(policy, Mapping) else ():
        plain = all(isinstance(one, (int, float, bool)) for one in (value if isinstance(value, list) else [value]))
        word = isinstance(value, str) and all(letter.isalnum() or letter in "-_:=," for letter in value)
        if not plain and not word:
            raise _refused(
                f"{shown(field)} of a policy, {shown(value)}", "a number, a list of them or a word", "mend it"
            )


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
