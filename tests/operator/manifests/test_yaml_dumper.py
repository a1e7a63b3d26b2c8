"""YAML that readers of YAML 1.1 and 1.2 take the same way."""

from __future__ import annotations

import pytest
import yaml

from taper_operator.manifests.yaml_dumper import ManifestDumper


def dumped(content: object) -> str:
    return str(yaml.dump(content, Dumper=ManifestDumper, sort_keys=False))


@pytest.mark.parametrize("text", ["1e3", "off", "Yes", "null", "1:30", "~", "", ".nan", "0x10", "2024-01-01"])
def test_a_text_that_may_be_read_as_another_type_is_quoted(text: str) -> None:
    assert dumped({"a": text}) == f'a: "{text}"\n'


@pytest.mark.parametrize("text", ["team", "nvidia.com/gpu", "ReadWriteMany"])
def test_a_plain_word_is_not_quoted(text: str) -> None:
    assert dumped({"a": text}) == f"a: {text}\n"


def test_a_shared_value_is_written_twice() -> None:
    shared = {"x": 1}
    assert dumped([shared, shared]) == "- x: 1\n- x: 1\n"
