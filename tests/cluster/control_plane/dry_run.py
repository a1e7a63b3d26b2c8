"""Writes that the API server checks, completes and answers, and does not keep."""

from __future__ import annotations

from taper_operator.kube.client import ApiServer


class DryRun(ApiServer):
    """See the module's docstring."""

    def _write_query(self, field_manager: str = "") -> dict[str, str]:
        return super()._write_query(field_manager) | {"dryRun": "All"}
