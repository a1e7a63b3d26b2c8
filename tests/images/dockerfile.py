"""A Dockerfile as stages of instructions: enough of its grammar for the rules that we hold ours to."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """name: in capitals; value: all that follows, its lines joined"""

    name: str
    value: str

    @property
    def words(self) -> list[str]:
        return self.value.split()


@dataclass(slots=True, kw_only=True)
class Stage:
    """base: an image, or the name of a stage before it"""

    base: str
    name: str = ""
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        return [each for each in self.instructions if each.name == name]


def stages_of(file: Path) -> list[Stage]:
    """The stages of a Dockerfile, in order."""
    stages: list[Stage] = []
    for instruction in _instructions(file.read_text()):
        if instruction.name == "FROM":
            words = instruction.words
            stages.append(Stage(base=words[0], name=words[2] if len(words) == 3 else ""))
        else:
            stages[-1].instructions.append(instruction)
    return stages


def _instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    parted = (line.split(maxsplit=1) for line in joined.splitlines())
    return [Instruction(name=name.upper(), value=value) for name, value in parted]
