"""What the options amount to, checked before anything slow happens: parse, then check against the model, then load."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import Any

from bwcache.cli.progress import quiet_libraries
from bwcache.cli.prompts import check_text, read_prompts
from bwcache.cli.sets import Sets, opened, sorted_out
from bwcache.cli.settings import Asked, Caching
from bwcache.core.words import called, field_types, shown
from bwcache.errors import NeverReusedWarning, SettingError, complaint
from bwcache.former_names import former_fields

DEFAULT_STEPS = 50
DEFAULT_FPS = 16
SHAPES_FPS = 8

SHORTHANDS = ("tolerance", "threshold", "reuse_interval", "tail_guard", "sample", "decision", "predictor")
"""Options that are named as the policy's field."""

RANGES: Mapping[str, tuple[float, float]] = {
    "steps": (1, 10_000),
    "seed": (0, 2**63 - 1),
    "seeds": (1, 10_000),
    "height": (1, 16_384),
    "width": (1, 16_384),
    "frames": (1, 100_000),
    "fps": (1, 1_000),
    "repeats": (1, 1_000),
    "calibrate": (2, 1_000),
    "verify": (2, 1_000),
    "budget": (1, 100_000),
    "guidance_scale": (-10_000, 10_000),
    "lease": (1, 10_000_000),
    "gpus_per_video": (1, 1_024),
    "port": (0, 65_535),
    "queue": (1, 100_000),
    "batch": (1, 256),
    "keep": (1, 1_000_000),
    "max_steps": (1, 10_000),
    "max_pixels": (1, 2**40),
    "replicas": (1, 10_000),
    "workers": (1, 10_000),
}
"""Option -> least and most; what lies outside cannot be meant."""


@dataclass(frozen=True)
class Choices:
    """Options with every default filled in, except sizes and guidance that are the model's own.

    Attributes:
        policy: with what a person named, which is in `fields`, and what is published for the model or is default.
        arguments: of the pipeline's call, beside prompt, steps, guidance and sizes.
        scheduler: class and settings of the one in place of the pipeline's own, or None.
        skeleton: the pipeline without its weights; None where it cannot be built without them.
        file: that is named in place of a policy, or of its table, or None.
        calibration: what is said of one, in words.
    """

    prompts: tuple[str, ...]
    steps: int
    seed: int
    guidance_scale: float | None
    height: int | None
    width: int | None
    frames: int | None
    fps: int
    policy: Any
    fields: dict[str, Any]
    device: str
    arguments: dict[str, Any] = field(default_factory=dict)
    scheduler: tuple[type[Any], dict[str, Any]] | None = None
    skeleton: Any = None
    file: Any = None
    calibration: dict[str, str] = field(default_factory=dict)

    def of(self, pipe: Any) -> Choices:
        """With the settings published for the model, where the options leave them open.

        Raises:
            AttachError: nothing in the pipeline is known.
            SettingError: they cannot work on this number of steps.
        """
        from bwcache.policies import BWCache, preset

        policy = preset(pipe, **self.fields) if type(self.policy) is BWCache else self.policy
        policy.check(self.steps)
        return replace(self, policy=policy)

    def requests(self) -> list[Any]:
        """One request per prompt."""
        from bwcache.measure.call import Request

        sizes = (self.guidance_scale, self.height, self.width, self.frames)
        return [Request(prompt, self.steps, self.seed, *sizes, self.arguments) for prompt in self.prompts]

    def check_policies(self, policies: Iterable[Any]) -> None:
        """Raise where one of these cannot work on so many steps, or on the blocks of this model.

        Raises:
            SettingError: as said.
        """
        for policy in policies:
            policy.check(self.steps)
            if self.skeleton is not None:
                check_policy(self.skeleton, policy)


def steps_of(settings: Asked) -> int:
    """Return the number of steps of a run, also where the options leave it to the model."""
    from bwcache import shapes
    from bwcache.measure.load import SHAPES

    if settings.steps is not None:
        return settings.steps
    return shapes.STEPS if settings.model == SHAPES else DEFAULT_STEPS


def choose(settings: Asked, calibration: Iterable[str] | None = None) -> Choices:
    """Check the options against each other and against what the model's small files say, and fill in defaults.

    Args:
        settings: of the command.
        calibration: what ``--set`` may say of a calibration, for the command that makes one.

    Raises:
        SettingError: for the first that cannot work.
        AttachError: the model has no blocks that could be reused.
    """
    from bwcache import shapes
    from bwcache.measure.load import SHAPES, check_device, small_files
    from bwcache.measure.skeleton import check_known, pipeline_kind, skeleton

    check_options(settings)
    own = settings.model == SHAPES
    if settings.prompt or settings.prompts is not None or own:
        prompts = read_prompts(settings.prompt, settings.prompts, shapes.PROMPTS if own else (), settings.model)
    else:
        prompts = ()
    device = check_device(settings.device, settings.offload)
    with quiet_libraries():
        folder = small_files(settings.model)
        kind = pipeline_kind(folder)
        check_known(folder, kind)
        choices = chosen(settings, kind, device, _prompts_of(kind, prompts, settings), calibration)
        pipe = skeleton(folder)
        return choices if pipe is None else replace(check_fits(pipe, choices), skeleton=pipe)


def check_options(settings: Asked) -> None:
    """Raise for the first option that cannot be meant, whatever the model is.

    Raises:
        SettingError: as said.
    """
    from bwcache.measure.load import DTYPES, OFFLOADS, check_source

    check_source(settings.model)
    check_ranges(settings)
    _one_of(DTYPES, dtype=settings.dtype)
    _one_of(OFFLOADS, offload=settings.offload)
    _one_of(("device", "offload"), memory=getattr(settings, "memory", None))
    shorthands(settings, policy_kind(settings))
    policy_file(settings)


def chosen(
    settings: Asked,
    kind: type[Any],
    device: str,
    prompts: tuple[str, ...],
    calibration: Iterable[str] | None = None,
) -> Choices:
    """Return what the options amount to with a pipeline of this class, every default filled in.

    Args:
        settings: the options.
        kind: the pipeline's class.
        device: on which it is.
        prompts: what is made.
        calibration: as of `choose`.

    Raises:
        SettingError: for the first that cannot work.
    """
    from bwcache import shapes
    from bwcache.measure.load import SHAPES

    own = settings.model == SHAPES
    policy, file = policy_kind(settings), policy_file(settings)
    sets = sort_sets(settings, policy, kind, calibration)
    said, sets = ({}, sets) if calibration is None else (sets.fields, Sets({}, sets.arguments))
    fields = named_fields(settings, file, policy_settings(policy, shorthands(settings, policy), sets))
    choices = Choices(
        prompts=prompts,
        steps=steps_of(settings),
        seed=settings.seed,
        guidance_scale=_first(settings.guidance_scale, shapes.GUIDANCE_SCALE if own else None),
        height=_first(settings.height, shapes.HEIGHT if own else None),
        width=_first(settings.width, shapes.WIDTH if own else None),
        frames=_first(settings.frames, shapes.FRAMES if own else None),
        fps=_first(getattr(settings, "fps", None), SHAPES_FPS if own else DEFAULT_FPS),
        policy=_policy(policy, fields),
        fields=fields,
        device=device,
        arguments=arguments_of(settings, kind, sets),
        scheduler=_scheduler(settings),
        file=file or table_file(policy, sets),
        calibration=said,
    )
    choices.policy.check(choices.steps)
    check_arguments(kind, choices)
    return choices


def check_fits(pipe: Any, choices: Choices) -> Choices:
    """Check that a pipeline, with or without weights, can do what is asked; with the choices as they are for it.

    Its scheduler is replaced where the options name another.

    Raises:
        SettingError: it cannot.
        AttachError: it has no blocks that could be reused.
    """
    from bwcache.engine.made_for import expect_fits
    from bwcache.measure.inputs import check_inputs
    from bwcache.measure.schedulers import check_schedule, replaced
    from bwcache.measure.sizes import check_sizes

    if choices.scheduler is not None:
        pipe.scheduler = replaced(pipe.scheduler, *choices.scheduler)
    choices = choices.of(pipe)
    if choices.file is not None:
        expect_fits(pipe, choices.file)
    check_policy(pipe, choices.policy)
    check_sizes(pipe, choices.height, choices.width, choices.frames, choices.arguments)
    sizes = {"height": choices.height, "width": choices.width}
    asked = {"prompt": choices.prompts[0], **{name: one for name, one in sizes.items() if one is not None}}
    check_inputs(pipe, asked | choices.arguments)
    check_schedule(pipe, choices.steps, choices.arguments)
    return choices


def check_policy(pipe: Any, policy: Any) -> None:
    """Raise where a policy cannot be attached to a pipeline."""
    from bwcache.engine import attach

    with warnings.catch_warnings(), contextlib.ExitStack() as attached:
        warnings.simplefilter("ignore", NeverReusedWarning)
        attached.enter_context(attach(pipe, policy))


def check_ranges(settings: Any) -> None:
    """Raise for a number that cannot be meant."""
    for name in RANGES:
        value = getattr(settings, name, None)
        if value is not None:
            check_range(name, value, "--" + name.replace("_", "-"))


def check_range(name: str, value: float, shown_as: str) -> None:
    """Raise for a number that cannot be meant.

    Args:
        name: in `RANGES`.
        value: the number.
        shown_as: how a complaint calls it.

    Raises:
        SettingError: as said.
    """
    least, most = RANGES[name]
    if value < least:
        raise _refused(f"{shown_as} {_short(value)}", f"at least {least:g}", "choose a larger one")
    if value > most:
        raise _refused(f"{shown_as} {_short(value)}", f"at most {most:,}", "choose a smaller one")


def policy_kind(settings: Any) -> type[Any]:
    """Return the class of the policy that is named or graded; BWCache where the command asks for none.

    Raises:
        SettingError: there is none of that name, no such grade, or both are named.
    """
    from bwcache.policies import BWCache, named
    from bwcache.policies.policy_file import names_file

    name = getattr(settings, "policy", None)
    grade = grade_of(settings)
    if grade is not None:
        return type(grade.policy)
    if names_file(name):
        return type(policy_file(settings).policy)
    return BWCache if name is None else named(name)


def grade_of(settings: Any) -> Any:
    """Return the `Grade` that is named in place of a policy; None where none is.

    Raises:
        SettingError: there is no such grade, or a policy is named too.
    """
    from bwcache.policies.grades import graded

    if not isinstance(settings, Caching) or settings.grade is None:
        return None
    if settings.policy is not None:
        found = f"--policy {shown(settings.policy)} beside --grade {shown(settings.grade)}"
        raise _refused(found, "one of them", "leave one out")
    return graded(settings.grade)


def named_fields(settings: Any, file: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the policy that do not stay as by default: all of a grade's and of a file's.

    Args:
        settings: of the command.
        file: in place of a policy, or None.
        given: fields by options of their own and by ``--set``.

    Raises:
        SettingError: one is given beside a grade, which settles all of them.
    """
    grade = grade_of(settings)
    if grade is None:
        return {**({} if file is None else fields_of(file.policy)), **given}
    if given:
        found = f"{next(iter(given))} of the policy beside --grade {settings.grade}"
        raise _refused(found, "one of them", "leave one out, or name the method: --policy planned")
    return fields_of(grade.policy)


def policy_file(settings: Any) -> Any:
    """Return the `PolicyFile` that is named in place of a policy; None where none is.

    Raises:
        SettingError: it cannot be read, or is none.
    """
    from bwcache.policies.calibrated_file import read_policy_file
    from bwcache.policies.policy_file import names_file

    name = getattr(settings, "policy", None)
    return read_policy_file(name) if names_file(name) else None


def table_file(policy: type[Any], sets: Sets) -> Any:
    """Return the `CalibratedFile` that is named in place of the policy's table, or of one inside; None: none is."""
    from bwcache.policies import Policy
    from bwcache.policies.known import named
    from bwcache.policies.table_file import names_table, table_fields

    for name, text in sets.fields.items():
        if names_table(policy, name, text):
            return table_fields(policy, text)[1]
        said = called(text) if field_types(policy).get(name) == Policy[Any] else None
        if said is not None and (found := table_file(named(said[0]), Sets(said[2]))) is not None:
            return found
    return None


def shorthands(settings: Any, policy: type[Any]) -> dict[str, Any]:
    """Return the fields that options of their own name, read as the policy's annotations want them.

    Raises:
        SettingError: the policy has no such field, or the value does not fit.
    """
    from bwcache.policies.known import value_of

    texts = {name: getattr(settings, name, None) for name in SHORTHANDS}
    return {
        name: value_of(policy, name, text, "--" + name.replace("_", "-"))
        for name, text in texts.items()
        if text is not None
    }


def sort_sets(settings: Any, policy: type[Any], kind: type[Any], calibration: Iterable[str] | None = None) -> Sets:
    """Return what ``--set`` says of the policy, or of a method's calibration, and what of the pipeline's call."""
    from bwcache.measure.inputs import settable
    from bwcache.policies.known import shorts

    if calibration is not None:
        whose = f"a calibration of {settings.method}"
        return sorted_out(settings.sets, calibration, settable(kind), whose, kind.__name__)
    has_policy = hasattr(settings, "policy")
    fields = (*field_types(policy), *shorts(policy)) if has_policy else ()
    name = policy.__name__ if has_policy else None
    return sorted_out(settings.sets, fields, settable(kind), name, kind.__name__, former_fields(policy))


def policy_settings(policy: type[Any], short: Mapping[str, Any], sets: Sets) -> dict[str, Any]:
    """Return all fields of the policy that are given.

    Raises:
        SettingError: one is given by an option and by ``--set``, or a value does not fit.
    """
    from bwcache.policies.known import values_of

    both = next((name for name in sets.fields if name in short), None)
    if both is not None:
        raise _refused(f"--{both.replace('_', '-')} beside --set {both}", "one of them", "leave one out")
    return {**values_of(policy, sets.fields, "--set "), **short}


def arguments_of(settings: Asked, kind: type[Any], sets: Sets) -> dict[str, Any]:
    """Return the arguments of the pipeline's call that the options name; files are opened.

    Raises:
        SettingError: the pipeline takes no such argument, a value does not fit, or a file cannot be read.
    """
    from bwcache.measure.inputs import NAMES, argument_for, parameters, value_of
    from bwcache.measure.media import read_media, read_video

    found: dict[str, Any] = {}
    if settings.negative_prompt is not None:
        if "negative_prompt" not in parameters(kind):
            found_ = f"--negative-prompt with {kind.__name__}"
            raise _refused(found_, "a pipeline that takes one", "leave it out, or name another --model")
        found["negative_prompt"] = check_text(settings.negative_prompt, "--negative-prompt")
    for what in NAMES:
        path = getattr(settings, what)
        if path is None:
            continue
        name = argument_for(kind, what)
        if name is None or name in found:
            takes = ", ".join(f"--{one}" for one in NAMES if argument_for(kind, one)) or "none"
            raise _refused(
                f"--{what} with {kind.__name__}",
                f"inputs that it takes ({takes})",
                "leave it out, or name another --model",
            )
        found[name] = read_video(path) if what == "video" else read_media(path)
    for name, text in sets.arguments.items():
        if name in found:
            raise _refused(f"--set {name} beside an option for it", "one of them", "leave one out")
        media = opened(text, f"--set {name}")
        found[name] = value_of(kind, name, check_text(text, f"--set {name}")) if media is None else media
    return found


def check_arguments(kind: type[Any], choices: Choices) -> None:
    """Raise where a pipeline of this class does not take what is asked for, or needs what is not given."""
    from bwcache.measure.call import check_taken
    from bwcache.measure.inputs import check_needed

    request = choices.requests()[0]
    check_taken(kind, request)
    check_needed(kind, choices.arguments)


def _prompts_of(kind: type[Any], prompts: tuple[str, ...], settings: Asked) -> tuple[str, ...]:
    """The prompts; one that is empty for a pipeline that takes none."""
    from bwcache.measure.inputs import parameters

    if "prompt" in parameters(kind):
        return prompts or read_prompts([], None, (), settings.model)
    if prompts:
        raise _refused(f"a prompt for {kind.__name__}, which takes none", "no --prompt", "leave it out")
    return ("",)


def _scheduler(settings: Asked) -> tuple[type[Any], dict[str, Any]] | None:
    from bwcache.measure.schedulers import named_scheduler

    return None if settings.scheduler is None else named_scheduler(settings.scheduler)


def fields_of(policy: Any) -> dict[str, Any]:
    """Return all fields of a policy."""
    return {one.name: getattr(policy, one.name) for one in dataclass_fields(policy) if one.init}


def _policy(policy: type[Any], fields: Mapping[str, Any]) -> Any:
    from bwcache.policies.known import made

    return made(policy, fields)


def _one_of(possible: tuple[str, ...], **values: str | None) -> None:
    for name, value in values.items():
        if value is not None and value not in possible:
            raise _refused(f"--{name} {value}", ", ".join(possible[:-1]) + f" or {possible[-1]}", "choose one of them")


def _short(number: float) -> str:
    text = f"{number}"
    return text if len(text) <= 24 else f"{text[:12]}...{text[-4:]}"


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
