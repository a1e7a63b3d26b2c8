"""A setting: a field of a dataclass with a meaning, and the flag and variable that follow from its name.

A field is declared once, as `name: Annotated[Type, Setting("meaning")] = default`. Its flag is `--name` and
its variable `TAPER_OPERATOR_NAME`, unless the `Setting` says otherwise. pydantic validates the texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field means, and its names where they do not follow from the field's."""

    meaning: str
    flag: str = ""
    variable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """A setting with all its names. default: as text, empty where there is none"""

    field: str
    flag: str
    variable: str
    default: str
    meaning: str

    @property
    def label(self) -> str:
        """Flag and variable, as in error messages."""
        return f"{self.flag} ({self.variable})"

    def text(self, flags: Mapping[str, str | None], environment: Mapping[str, str]) -> str:
        """The flag's value, else the variable's, else the default."""
        given = flags[self.field]
        return (environment.get(self.variable, self.default) if given is None else given).strip()


def settings_of(holder: type[Any]) -> tuple[SettingRow, ...]:
    """The settings among the fields of a dataclass."""
    hints = get_type_hints(holder, include_extras=True)
    return tuple(
        _row(field.name, setting, field.default)
        for field in fields(holder)
        for setting in getattr(hints[field.name], "__metadata__", ())
        if isinstance(setting, Setting)
    )


def _row(name: str, setting: Setting, default: Any) -> SettingRow:
    flag = setting.flag or f"--{name.replace('_', '-')}"
    return SettingRow(
        field=name,
        flag=flag,
        variable=setting.variable or f"TAPER_OPERATOR_{flag.removeprefix('--').replace('-', '_').upper()}",
        default=_default_text(default),
        meaning=setting.meaning,
    )


def _default_text(default: Any) -> str:
    if default is MISSING or default == frozenset():
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)
