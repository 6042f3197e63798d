"""Fits the help of options that several commands share to one of them."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args


def described(
    defaults: Mapping[str, str], helps: Mapping[str, str] | None = None
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Let the help of a command name other defaults, or say something else, for some of its options."""
    texts = {"show_default": defaults, "help": helps or {}}

    def change(command: Callable[..., int]) -> Callable[..., int]:
        parameters = dict(inspect.signature(command).parameters)
        for text, values in texts.items():
            for name, value in values.items():
                parameters[name] = _changed(parameters[name], text, value)
        command.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        return command

    return change


def _changed(parameter: inspect.Parameter, text: str, value: str) -> inspect.Parameter:
    kind, option = get_args(parameter.annotation)
    option = copy.copy(option)  # which other commands share
    setattr(option, text, value)
    annotation: Any = Annotated[kind, option]
    return parameter.replace(annotation=annotation)
