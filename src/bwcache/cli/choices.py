"""What the options amount to, checked before anything slow happens."""

from __future__ import annotations

import codecs
import dataclasses
from dataclasses import dataclass, replace
from typing import Any

from bwcache.cli.settings import Asked
from bwcache.errors import SettingError, complaint

DEFAULT_STEPS = 50
DEFAULT_FPS = 16
SHAPES_FPS = 8
PREDICTORS = {"last": "Last", "linear": "Linear", "damped": "Damped"}


@dataclass(frozen=True)
class Choices:
    """Options with every default filled in, except sizes and guidance that are the model's own.

    `policy` has what a person named, which is in `given`, and defaults; `of` puts published settings in their place.
    """

    prompts: tuple[str, ...]
    steps: int
    guidance_scale: float | None
    height: int | None
    width: int | None
    frames: int | None
    fps: int
    policy: Any
    given: dict[str, Any]
    device: str

    def of(self, pipe: Any) -> Choices:
        """With the settings published for the model, where the options leave them open.

        Raises:
            AttachError: nothing in the pipeline is known.
            SettingError: they cannot work on this number of steps.
        """
        from bwcache.policies import BWCache, preset

        policy = preset(pipe, **self.given) if type(self.policy) is BWCache else self.policy
        policy.check(self.steps)
        return replace(self, policy=policy)


def choose(settings: Asked) -> Choices:
    """Check the options and fill in defaults.

    Raises:
        SettingError: for the first that cannot work.
    """
    from bwcache import shapes
    from bwcache.measure.load import DTYPES, OFFLOADS, SHAPES, check_device, check_source

    own = settings.model == SHAPES
    check_source(settings.model)
    prompts = _prompts(settings, shapes.PROMPTS if own else ())
    steps = settings.steps if settings.steps is not None else shapes.STEPS if own else DEFAULT_STEPS
    fps = _first(getattr(settings, "fps", None), SHAPES_FPS if own else DEFAULT_FPS)
    _at_least(1, steps=steps, fps=fps, repeats=getattr(settings, "repeats", 1), seeds=getattr(settings, "seeds", 1))
    _at_least(1, height=settings.height, width=settings.width, frames=settings.frames)
    _at_least(0, seed=settings.seed)
    _one_of(DTYPES, dtype=settings.dtype)
    _one_of(OFFLOADS, offload=settings.offload)
    _one_of(("shared", "per_branch"), decision=getattr(settings, "decision", None))
    _one_of(("device", "offload"), memory=getattr(settings, "memory", None))
    _one_of(tuple(PREDICTORS), predictor=getattr(settings, "predictor", None))
    given = _given(settings)
    policy = _policy(settings, given)
    policy.check(steps)
    return Choices(
        prompts=prompts,
        steps=steps,
        guidance_scale=_first(settings.guidance_scale, shapes.GUIDANCE_SCALE if own else None),
        height=_first(settings.height, shapes.HEIGHT if own else None),
        width=_first(settings.width, shapes.WIDTH if own else None),
        frames=_first(settings.frames, shapes.FRAMES if own else None),
        fps=fps,
        policy=policy,
        given=given,
        device=check_device(settings.device, settings.offload),
    )


def _prompts(settings: Asked, default: tuple[str, ...]) -> tuple[str, ...]:
    if settings.prompt and settings.prompts is not None:
        raise _refused("both --prompt and --prompts", "one of them", "leave one out")
    if settings.prompts is not None:
        return _read_prompts(settings)
    if any(not text.strip() for text in settings.prompt):
        raise _refused("an empty --prompt", "a text", "describe the video")
    if not settings.prompt and not default:
        raise _refused(f"no prompt for {settings.model!r}", "--prompt or --prompts", "describe the video")
    return tuple(text.strip() for text in settings.prompt) or default


def _read_prompts(settings: Asked) -> tuple[str, ...]:
    assert settings.prompts is not None
    name = repr(str(settings.prompts))
    try:
        lines = settings.prompts.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise _refused(
            f"prompt file {name} that cannot be read ({error.strerror})",
            "a text file with one prompt per line",
            "name such a file",
        ) from error
    texts = (_prompt_of(line, f"line {number} of {name}") for number, line in enumerate(lines, start=1))
    prompts = tuple(text for text in texts if text)
    if not prompts:
        raise _refused(f"no prompt in {name}", "one prompt per line", "write at least one into the file")
    return prompts


def _prompt_of(line: bytes, where: str) -> str:
    """The prompt in a line; "" where there is none."""
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise _refused(f"{where} that is not UTF-8 text", "one prompt per line", "save the file as UTF-8") from error
    strange = next((letter for letter in text if not letter.isprintable() and letter != "\t"), None)
    if strange is not None:
        raise _refused(f"the control character {strange!r} in {where}", "text", "take it out")
    return "" if text.startswith("#") else text


def _given(settings: Asked) -> dict[str, Any]:
    """The policy's settings that the options name."""
    from bwcache import features

    names = ("tolerance", "threshold", "reuse_interval", "tail_guard", "token_sample", "decision", "predictor")
    given: dict[str, Any] = {name: getattr(settings, name, None) for name in names}
    if given["predictor"] is not None:
        given["predictor"] = getattr(features, PREDICTORS[given["predictor"]])()
    return {name: value for name, value in given.items() if value is not None}


def _policy(settings: Asked, given: dict[str, Any]) -> Any:
    """The policy that is named, with what is given.

    Raises:
        SettingError: there is no such policy, it has no such field, or a value cannot work.
    """
    from bwcache.policies import named

    policy = named(getattr(settings, "policy", "BWCache"))
    fields = [field.name for field in dataclasses.fields(policy)]
    for name in given:
        if name not in fields:
            option = "--" + name.replace("_", "-")
            raise _refused(
                f"{option} with policy {policy.__name__}", f"its fields ({', '.join(fields)})", "leave it out"
            )
    asked = [field.name for field in dataclasses.fields(policy) if _has_no_default(field) and field.name not in given]
    if asked:
        found = f"policy {policy.__name__}, of which {' and '.join(asked)} must be said"
        raise _refused(found, "a policy that the options can set up", "use it from Python, or name another one")
    return policy(**given)


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _at_least(least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            raise _refused(f"--{name} {value}", f"at least {least}", "choose a larger one")


def _one_of(possible: tuple[str, ...], **values: str | None) -> None:
    for name, value in values.items():
        if value is not None and value not in possible:
            raise _refused(f"--{name} {value}", ", ".join(possible[:-1]) + f" or {possible[-1]}", "choose one of them")


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
