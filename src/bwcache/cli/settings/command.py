"""A command of typer, made of a dataclass of settings."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def command_from(settings: type[Any], run: Callable[[Any], None]) -> Callable[..., None]:
    """A function for typer with one parameter per field of ``settings``; it calls ``run`` with the filled dataclass."""
    hints = get_type_hints(settings, include_extras=True)
    fields = [field for field in dataclasses.fields(settings) if field.name not in getattr(settings, "LEFT_OUT", ())]

    def command(**values: Any) -> None:
        run(settings(**values))

    parameters = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=hints[field.name]
        )
        for field in fields
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {field.name: hints[field.name] for field in fields}
    command.__doc__ = run.__doc__
    return command


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return inspect.Parameter.empty if field.default_factory is dataclasses.MISSING else field.default_factory()
