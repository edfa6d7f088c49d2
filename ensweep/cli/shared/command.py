"""How a function becomes a command: groups of options, an example, suggestions for typos."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from mlflow_setup.errors import ConfigError, DataError

Function = TypeVar("Function", bound=Callable[..., None])

_EXAMPLES = "__examples__"
_SENTENCES = ("text", "text2")
"""Options that are data, not usage."""


def example(*commands: str) -> Callable[[Function], Function]:
    """Have the command's help show these, each of which begins with `ensweep`."""

    def mark(function: Function) -> Function:
        setattr(function, _EXAMPLES, commands)
        return function

    return mark


def examples_of(function: Callable[..., None]) -> Sequence[str]:
    """The examples that the command was marked with."""
    examples: Sequence[str] = getattr(function, _EXAMPLES, ())
    return examples


def add(app: typer.Typer, function: Callable[..., None], panel: str | None = None) -> None:
    """Make the function a command of `app`, by its own name.

    Args:
        panel: the group in which `--help` lists it.
    """
    shown = "\n\n".join(f"Example: {command}" for command in examples_of(function))
    app.command(cls=Command, epilog=shown or None, rich_help_panel=panel)(grouped(function))


class Command(TyperCommand):
    """A command that knows settings: an option that is none of its own may be the name of one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as typer does, but name the setting where an unknown option is one.

        Raises:
            ConfigError: the option is a setting's name.
        """
        try:
            return list(super().parse_args(ctx, args))
        except Exception as error:
            option = getattr(error, "option_name", None)
            is_known = any(option in getattr(each, "opts", ()) for each in self.params)
            takes_settings = any(each.name == "overrides" for each in self.params)
            if not isinstance(option, str) or is_known or not takes_settings:
                raise
            meant = _settings_meant(option)
            if not meant:
                raise
        others = f"; or {', '.join(meant[1:])}" if meant[1:] else ""
        raise ConfigError(
            f"no option {option}: settings are given as KEY=VALUE, without dashes",
            fix=f"{meant[0]}=VALUE{others}; ensweep settings {meant[0]} says what it takes",
        )


def _settings_meant(option: str) -> list[str]:
    from search.config.reference import every_setting
    from trainable.config.reference import named

    return [setting.key for setting in named(option, every_setting())]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer reads it: options in place of each group of them."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {
        name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)
    }

    def parameters() -> Iterator[inspect.Parameter]:
        for name, given in inspect.signature(command).parameters.items():
            if name not in groups:
                yield given.replace(kind=given.KEYWORD_ONLY, annotation=hints[name])
                continue
            own = get_type_hints(groups[name], include_extras=True)
            for field in dataclasses.fields(groups[name]):
                default = given.empty if field.default is dataclasses.MISSING else field.default
                kind, hint = given.KEYWORD_ONLY, own[field.name]
                yield inspect.Parameter(field.name, kind, default=default, annotation=hint)

    signature = inspect.Signature(list(parameters()))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, parameter in signature.parameters.items():
            for here in parameter.annotation.__metadata__[1:]:  # the folder here of one at a URI
                given[name] = here(given[name])
        _check(given, signature)
        for name, kind in groups.items():
            own = {field.name: given.pop(field.name) for field in dataclasses.fields(kind)}
            given[name] = kind(**own)
        command(**given)

    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return run


def _check(given: Mapping[str, Any], signature: inspect.Signature) -> None:
    """Text is Unicode, for it goes into records, labels and MLflow; what is written, and bundles,
    lie at paths.

    Raises:
        DataError: a sentence, or ConfigError: anything else, naming its option.
    """
    from mlflow_setup.filesystem.paths import refuse_uri
    from mlflow_setup.text import is_text
    from mlflow_setup.uris import redact

    for name, value in given.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str | Path) and not is_text(str(each)):
                option = _spelled(name, signature)
                problem = f"{option} {redact(ascii(str(each)))}: is not Unicode text"
                why = "half of a surrogate pair, or bytes that are not UTF-8"
                refused = DataError if name in _SENTENCES else ConfigError
                raise refused(f"{problem}: {why}", fix="spell it, or rename it, in UTF-8")
        if isinstance(value, Path):
            refuse_uri(value, _spelled(name, signature))


def _spelled(name: str, signature: inspect.Signature) -> str:
    """What the parameter is called on the command line."""
    annotation = signature.parameters[name].annotation
    info = annotation.__metadata__[0]
    names = [info.default, *(info.param_decls or ()), info.metavar, name]  # as typer does
    return next(each for each in names if isinstance(each, str))
