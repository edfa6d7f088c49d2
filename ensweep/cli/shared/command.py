"""Turn a function into a command: option groups, examples, suggestions for mistyped options."""

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
"""Options whose invalid values are data errors, not usage errors."""


def example(*commands: str) -> Callable[[Function], Function]:
    """Add example commands, each beginning with `ensweep`, to the command's help."""

    def mark(function: Function) -> Function:
        setattr(function, _EXAMPLES, commands)
        return function

    return mark


def examples_of(function: Callable[..., None]) -> Sequence[str]:
    """The examples that `example` added."""
    examples: Sequence[str] = getattr(function, _EXAMPLES, ())
    return examples


def add(app: typer.Typer, function: Callable[..., None], panel: str | None = None) -> None:
    """Add the function to `app` as a command of the same name.

    Args:
        panel: the group in which `--help` lists it.
    """
    shown = "\n\n".join(f"Example: {command}" for command in examples_of(function))
    app.command(cls=Command, epilog=shown or None, rich_help_panel=panel)(grouped(function))


class Command(TyperCommand):
    """A command that explains how to give a setting that was typed as an option (`--optim.lr`)."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as typer does.

        Raises:
            ConfigError: an unknown option resembles the name of a setting.
        """
        try:
            return list(super().parse_args(ctx, args))
        except Exception as error:
            option = getattr(error, "option_name", None)
            is_known = any(option in getattr(each, "opts", ()) for each in self.params)
            takes_settings = any(each.name == "overrides" for each in self.params)
            if not isinstance(option, str) or is_known or not takes_settings:
                raise
            similar = _similar_settings(option)
            if not similar:
                raise
        others = f"; or {', '.join(similar[1:])}" if similar[1:] else ""
        raise ConfigError(
            f"no option {option}: settings are given as KEY=VALUE, without dashes",
            fix=f"{similar[0]}=VALUE{others}; ensweep settings {similar[0]} explains it",
        )


def _similar_settings(option: str) -> list[str]:
    from search.config.reference import every_setting
    from trainable.config.reference import matching_settings

    return [setting.key for setting in matching_settings(option, every_setting())]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer needs it: with separate options instead of dataclasses of options."""
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
            for convert in parameter.annotation.__metadata__[1:]:  # e.g. a URI to a local folder
                given[name] = convert(given[name])
        _check(given, signature)
        for name, kind in groups.items():
            own = {field.name: given.pop(field.name) for field in dataclasses.fields(kind)}
            given[name] = kind(**own)
        command(**given)

    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return run


def _check(given: Mapping[str, Any], signature: inspect.Signature) -> None:
    """Check that all text can be encoded as UTF-8, because it is stored in records and in MLflow,
    and that paths are not URIs.

    Raises:
        DataError: a sentence cannot be encoded.
        ConfigError: another argument cannot be encoded, or a path is a URI; names the option.
    """
    from mlflow_setup.filesystem.paths import refuse_uri
    from mlflow_setup.text import is_text
    from mlflow_setup.uris import redact

    for name, value in given.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str | Path) and not is_text(str(each)):
                option = _option_name(name, signature)
                problem = f"{option} {redact(ascii(str(each)))}: is not Unicode text"
                why = "half of a surrogate pair, or bytes that are not UTF-8"
                kind = DataError if name in _SENTENCES else ConfigError
                raise kind(f"{problem}: {why}", fix="type it, or rename the file, in UTF-8")
        if isinstance(value, Path):
            refuse_uri(value, _option_name(name, signature))


def _option_name(name: str, signature: inspect.Signature) -> str:
    """The parameter's name on the command line."""
    annotation = signature.parameters[name].annotation
    info = annotation.__metadata__[0]
    names = [info.default, *(info.param_decls or ()), info.metavar, name]  # as typer does
    return next(each for each in names if isinstance(each, str))
