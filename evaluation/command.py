"""Parse the options of the commands `python -m evaluation.<name> key=value ...`, print their help and their errors."""

import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, field, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from models import UserError, near_names, one_line
from training.command_line import as_typed, mapping_as_typed, quoted, unquoted
from training.interrupt import Interrupted, interruptible

__all__ = ["command", "data_places", "help_text", "json_only", "option", "parse_options"]

T = TypeVar("T")
WIDTH = 120  # characters of a line of the help


def option(default: Any, description: str, former: str | None = None, text: bool = False) -> Any:
    """Declare an option of a command: a dataclass field with a default, a description for --help, and a former name.

    The default of a required option is `omegaconf.MISSING`. Under its former name an option still works, and a line on
    the standard error says what it is called now. With `text` the values of an option of any type are texts.
    """
    metadata = {"description": description, "former": former, "text": text}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def option_value(schema: type, name: str, typed: str, argument: str) -> Any:
    """Return the value of an option: texts as typed, everything else in the syntax of train.py.

    `null` is no value where there is another default, or where an option names one thing, not texts.

    Raises:
        UserError: it is not in that syntax, or has several values.
    """
    each = next(each for each in fields(schema) if each.name == name)
    hint, texts = get_type_hints(schema)[name], each.metadata.get("text", False)
    if typed == "null" and NoneType in get_args(hint) and not (texts and each.default is None):
        return None
    if hint in (str, str | None):
        return unquoted(typed)
    if hint in (list[str], list[str] | None) or (texts and "dict" not in str(hint)):
        value = as_typed(typed)
        return [value] if "list" in str(hint) and isinstance(value, str) else value
    if texts and (mapping := mapping_as_typed(typed)) is not None:
        return mapping
    quoted_argument = quoted([argument])[0]
    if argument != quoted_argument and typed.lstrip()[:1] in "[{":
        raise UserError(f"Expected key=value, got {argument!r}: quote values with special characters.")
    try:
        override = OverridesParser.create().parse_override(quoted_argument)
    except HydraException as error:
        raise UserError(f"Expected key=value, got {argument!r}: quote values with special characters.") from error
    if override.type is not OverrideType.CHANGE or override.is_sweep_override():
        raise UserError(f"Expected one value for {name}, got {argument!r}: quote a value with commas.")
    return override.value()


def parse_options(schema: type[T], arguments: Sequence[str]) -> T:
    """Parse key=value arguments, in the syntax of train.py, into an instance of a dataclass of options.

    Raises:
        UserError: no key=value, an unknown key, a value of another type, a mandatory one missing.
    """
    names = [each.name for each in fields(schema)]  # type: ignore[arg-type]  # a dataclass
    former = {each.metadata.get("former"): each.name for each in fields(schema)}  # type: ignore[arg-type]
    parsed = OmegaConf.structured(schema)
    for argument in arguments:
        name, equals, typed = argument.partition("=")
        if not equals:
            raise UserError(f"Expected key=value, got {argument!r}: --help shows the options.")
        if name in former:
            print(f"{name}= is now called {former[name]}=: the former name still works.", file=sys.stderr)
            name = former[name]
        if name not in names:
            near = near_names(name, names)
            raise UserError(f"Expected one value for an option among {', '.join(names)}, got {argument!r}.{near}")
        try:
            OmegaConf.update(parsed, name, option_value(schema, name, typed, argument), merge=False)
        except OmegaConfBaseException as error:
            reason = str(error).split("\n")[0]
            raise UserError(f"Expected another kind of value for {name}, got {argument!r}: {reason}.") from error
    try:
        return OmegaConf.to_object(parsed)  # type: ignore[return-value]  # an instance of the schema
    except MissingMandatoryValue as error:
        missing = [name for name in names if OmegaConf.is_missing(parsed, name)]
        raise UserError(f"Expected {missing[0]}=..., got none: --help shows the options.") from error


def data_places(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split the arguments of a command on a run into its options and the places where the run's data lie now.

    >>> data_places(["run=runs/x", "data.root=/new/photographs"])
    (['run=runs/x'], {'root': '/new/photographs'})
    """
    moved = [argument for argument in arguments if argument.startswith("data.") and "=" in argument]
    places = {key: as_typed(typed) for key, _, typed in (each.removeprefix("data.").partition("=") for each in moved)}
    return [argument for argument in arguments if argument not in moved], places


def described_default(each: Field[Any]) -> str:
    """Write a field's default as one would type it: "(default: 8)", "(required)", "(default: none)"."""
    default = each.default if each.default_factory is NO_DEFAULT else each.default_factory()
    if default == MISSING:
        return "(required)"
    if default is None or default == []:
        return "(default: none)"
    text = f"[{','.join(map(str, default))}]" if isinstance(default, list) else str(default)
    return f"(default: {text.lower() if isinstance(default, bool) else text})"


def help_text(schema: type) -> list[str]:
    """Describe each option of a dataclass in a line, long ones wrapped: its name, its description and its default.

    A description that says itself what the default is gets nothing added.
    """
    width = max(len(each.name) for each in fields(schema)) + 2
    lines = []
    for each in fields(schema):
        description = each.metadata.get("description", "")
        text = description if "(default: " in description else f"{description} {described_default(each)}"
        start = f"  {each.name:{width}}"
        lines.append(textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start)))
    return lines


@contextmanager
def json_only(json: bool) -> Iterator[None]:
    """Keep the standard output for one JSON object, if the command is to print one: progress goes to standard error."""
    with redirect_stdout(sys.stderr) if json else nullcontext():
        yield


def command(main: Callable[[Sequence[str]], None], *schemas: type) -> None:
    """Run a command on the command line's arguments; print its help, or an error of the user as one line, exit code 2.

    Ctrl-C ends it with the exit code 130 and no traceback, SIGTERM with 143.

    The help is the text of the module and the options of the schemas, dataclasses whose docstrings are the headings.
    """
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print((sys.modules[main.__module__].__doc__ or "").strip())
        for schema in schemas:
            print("", schema.__doc__, *help_text(schema), sep="\n")
        return
    try:
        with interruptible():
            main(arguments)
    except Interrupted as ended:
        print(f"Stopped by {ended.name}.", file=sys.stderr)
        raise
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        sys.exit(2)
