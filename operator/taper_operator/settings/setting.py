"""A setting: a field of a dataclass with a meaning, and the flag and variable that follow from its name.

A field is declared once, as `name: Annotated[Type, Setting("meaning")] = default`. Its flag is `--name` and
its variable `TAPER_OPERATOR_NAME`, unless the `Setting` says otherwise. pydantic validates the texts.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, get_type_hints


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field means, and its names. `settings_of` fills in what follows from the field.

    default: as text, empty where there is none
    """

    meaning: str
    flag: str = ""
    variable: str = ""
    field: str = ""
    default: str = ""

    @property
    def label(self) -> str:
        """Flag and variable, as in error messages."""
        return f"{self.flag} ({self.variable})"


def settings_of(holder: type[Any]) -> tuple[Setting, ...]:
    """The settings among the fields of a dataclass."""
    hints = get_type_hints(holder, include_extras=True)
    return tuple(
        _filled_in(setting, field.name, field.default)
        for field in fields(holder)
        for setting in getattr(hints[field.name], "__metadata__", ())
        if isinstance(setting, Setting)
    )


def _filled_in(setting: Setting, name: str, default: Any) -> Setting:
    flag = setting.flag or f"--{name.replace('_', '-')}"
    variable = f"TAPER_OPERATOR_{flag.removeprefix('--').replace('-', '_').upper()}"
    return replace(
        setting,
        flag=flag,
        variable=setting.variable or variable,
        field=name,
        default=_default_text(default),
    )


def _default_text(default: Any) -> str:
    if default is MISSING or default == frozenset():
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)
