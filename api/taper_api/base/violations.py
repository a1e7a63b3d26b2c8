"""From pydantic's errors to problems that a job's author understands."""

from __future__ import annotations

import difflib
import functools
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from taper_api.base.job_error import JobError, Problem

Location = tuple[int | str, ...]


def unfit(message: str, remedy: str) -> PydanticCustomError:
    """To be raised by a field's validator: the problem with its value."""
    # As a parameter: pydantic would expand braces in the message itself.
    return PydanticCustomError("unfit", "{message}", {"message": message, "remedy": remedy})


def problems_of(error: ValidationError, root: type[BaseModel]) -> list[Problem]:
    """One problem for each of pydantic's errors; `root` is the model that was validated."""
    found: list[Problem] = []
    errors = error.errors(include_url=False)
    for details in errors:
        if _is_echo(details, errors):
            continue
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, JobError):
            found.extend(cause.problems)
        else:
            found.append(_problem(details, root))
    return found


def _is_echo(details: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """Whether an error only follows from another: the default of a wrong field, a list that it emptied."""
    if details["type"] == "default_factory_not_called":
        return True
    location = details["loc"]
    return details["type"] == "too_short" and any(
        len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in errors
    )


def path_of(location: Location) -> str:
    """`("spec", "degrees", 1)` as `spec.degrees[1]`."""
    path = ""
    for part in location:
        if part == "[key]":  # pydantic's mark of a wrong key, which is the part before
            continue
        if isinstance(part, int):
            path += f"[{part}]"
        elif part and all(character.isalnum() or character in "_-" for character in part):
            path += f".{part}" if path else part
        else:
            path += f"[{part!r}]"
    return path or "the job"


def _problem(details: ErrorDetails, root: type[BaseModel]) -> Problem:
    location, kind, context = details["loc"], details["type"], details.get("ctx", {})
    if "remedy" in context:
        # Of a value that may have no end: it is not shown.
        return Problem(path=path_of(location), message=details["msg"], remedy=str(context["remedy"]))
    shown = _shown(details["input"])
    if kind in _WORDING:
        message, remedy = _WORDING[kind]
        message, remedy = message.format(shown=shown), remedy.format(shown=shown, **context)
    elif kind == "extra_forbidden":
        message, remedy = "unknown field", _suggestion(location, root)
    elif kind in ("string_pattern_mismatch", "string_too_long"):
        message = f"{shown} does not fit"
        field = _fields(root).get(_path_in_schema(location))
        remedy = field.description or "" if field else ""
    else:
        expected = details["msg"].removeprefix("Input ").removeprefix("should ")
        message, remedy = f"{shown} is not valid", f"it must {expected}"
    return Problem(path=path_of(location), message=message, remedy=remedy)


# Message and remedy for each of pydantic's kinds of error that has a plain wording of its own.
_NOT_A_MAPPING = ("{shown} is not a mapping", "write name: value")
_NOT_A_LIST = ("{shown} is not a list", "write [{shown}]")
_WORDING = {
    "missing": ("is missing", "add it; it has no default"),
    "literal_error": ("{shown} is not allowed", "use {expected}"),
    "too_short": ("is empty", "list at least one"),
    "too_long": ("has too many entries", "use at most {max_length}"),
    "string_too_short": ("is empty", "give it a value"),
    "invalid_key": ("the name of a field is not text", "quote it"),
    "model_type": _NOT_A_MAPPING,
    "model_attributes_type": _NOT_A_MAPPING,
    "dict_type": _NOT_A_MAPPING,
    "tuple_type": _NOT_A_LIST,
    "list_type": _NOT_A_LIST,
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _suggestion(location: Location, root: type[BaseModel]) -> str:
    """What the author of an unknown field may have meant."""
    paths = [path.rpartition(".") for path in _fields(root)]
    parent, wanted = _path_in_schema(location[:-1]), to_camel(str(location[-1]))
    names = [name for folder, _, name in paths if folder == parent]
    close = difflib.get_close_matches(wanted, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    elsewhere = [f"{folder}.{name}" if folder else name for folder, _, name in paths if name == wanted]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    return f"known here: {', '.join(names)}"


def _path_in_schema(location: Location) -> str:
    return ".".join(to_camel(part) for part in location if isinstance(part, str))


@functools.cache
def _fields(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """All fields within a model by their paths, kept: a job with many unknown fields asks as many times."""
    fields: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        fields[path] = field
        inner = model_within(field.annotation)
        if inner is not None:
            fields |= _fields(inner, f"{path}.")
    return fields


def model_within(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `tuple[Model, ...] | None`; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Annotated, Union, UnionType, tuple, list):
        for argument in get_args(annotation):
            found = model_within(argument)
            if found is not None:
                return found
    return None
