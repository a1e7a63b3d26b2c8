"""What helm says after an installation."""

from __future__ import annotations

from .chart import CHART, NAMESPACE, RELEASE, Values, helm


def notes(values: Values) -> str:
    """helm shows notes of what it installs; a dry run in the client needs no cluster."""
    reported = helm(
        "install", RELEASE, str(CHART), "--dry-run=client", f"--namespace={NAMESPACE}", values=values
    )
    assert reported.returncode == 0, reported.stderr
    return reported.stdout.partition("NOTES:")[2]


def test_the_notes_warn_of_values_that_grant_more_than_they_seem() -> None:
    reported = notes({"jobs": {"image": "", "allowedSecrets": ["*"]}, "crds": {"keep": False}})
    assert "An RLHFJob creates pods: granting taper-taper-system-editor" in reported
    assert "can read every secret" in reported
    assert "deletes them, and with them every RLHFJob" in reported
    assert "has no RayJob" in reported
    assert "must name its own" in reported


def test_the_notes_do_not_warn_about_good_values() -> None:
    reported = notes({"jobs": {"allowedSecrets": ["token"]}})
    assert "every secret" not in reported
    assert "must name its own" not in reported
    assert "stay when it is uninstalled" in reported
