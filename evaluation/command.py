"""Parse the options of the commands `python -m evaluation.<name> key=value ...` and print errors as one line."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import fields
from typing import TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from models import UserError, near_names

__all__ = ["aside", "command", "options"]

T = TypeVar("T")


def options(schema: type[T], arguments: Sequence[str]) -> T:
    """key=value arguments, in the same syntax as train.py's, as an instance of a dataclass of options.

    Raises:
        UserError: no key=value, an unknown key, a value of another type, a mandatory one missing.
    """
    names = [field.name for field in fields(schema)]  # type: ignore[arg-type]  # a dataclass
    chosen = OmegaConf.structured(schema)
    for argument in arguments:
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException as error:
            raise UserError(f"Expected key=value, got {argument!r}: quote values with special characters.") from error
        name = override.key_or_group
        if name not in names or override.type is not OverrideType.CHANGE or override.is_sweep_override():
            near = near_names(name, names)
            raise UserError(f"Expected one value for an option among {', '.join(names)}, got {argument!r}.{near}")
        try:
            OmegaConf.update(chosen, name, override.value(), merge=False)
        except OmegaConfBaseException as error:
            reason = str(error).split("\n")[0]
            raise UserError(f"Expected another kind of value for {name}, got {argument!r}: {reason}.") from error
    try:
        return OmegaConf.to_object(chosen)  # type: ignore[return-value]  # an instance of the schema
    except MissingMandatoryValue as error:
        missing = [name for name in names if OmegaConf.is_missing(chosen, name)]
        raise UserError(f"Expected {missing[0]}=..., got none: --help shows the options.") from error


@contextmanager
def aside(json: bool) -> Iterator[None]:
    """While a command works: where it is to print one JSON object, progress goes to the standard error."""
    with redirect_stdout(sys.stderr) if json else nullcontext():
        yield


def command(main: Callable[[Sequence[str]], None]) -> None:
    """Run a command on the command line's arguments; what a user can mend is one line and exit code 2."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print((sys.modules[main.__module__].__doc__ or "").strip())
        return
    try:
        main(arguments)
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
