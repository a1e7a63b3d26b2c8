"""The command `taper-operator`: `run` runs the operator, `render` prints what it would create for a job."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from taper_api import JobError, parse_job
from taper_operator.kube.resource import Resource, own_key
from taper_operator.manager import Manager, WatchedKind
from taper_operator.manifests.kinds import POD_MONITORS, PODS, RAY_CLUSTERS, RAY_JOBS, RLHF_JOBS
from taper_operator.manifests.names import JOB_LABEL, job_keys
from taper_operator.observation.observer import OWNED_KINDS, Observer
from taper_operator.reconcile.executor import Executor
from taper_operator.reconcile.reconciler import Reconciler
from taper_operator.render import rendered
from taper_operator.settings.certificate import ReloadedFiles, trusted_certificates
from taper_operator.settings.parsing import TrustedFile
from taper_operator.settings.pod_policy import PodPolicy
from taper_operator.settings.settings import Settings, SettingsError, pod_policy_from, settings_from

log = logging.getLogger(__name__)

# As for `taper`: an error of the user's.
_USER_ERROR = 2
_OPTIONAL = frozenset({RAY_JOBS, RAY_CLUSTERS, POD_MONITORS})
# Longer than a job may have to wait for a reconcile.
_DEPARTED_SECONDS = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 where the operator had to end, 2 for an error of the user's."""
    parser = argparse.ArgumentParser(prog="taper-operator", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("run", help="run the operator", add_help=False)
    render = commands.add_parser("render", help="print the objects that the operator would create for a job")
    render.add_argument("-f", "--file", type=Path, required=True, metavar="JOB", help="file with an RLHFJob")
    known, rest = parser.parse_known_args(arguments)
    try:
        if known.command == "run":
            return run(rest)
        return _render(known.file, rest)
    except (SettingsError, JobError) as error:
        sys.stderr.write(f"{error}\n")
        return _USER_ERROR


def run(arguments: Sequence[str]) -> int:
    """Run the operator until SIGTERM or SIGINT. Raises SettingsError."""
    settings = settings_from(arguments, os.environ)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    manager = Manager(settings, watched_kinds())
    controller = manager.controller(make_reconciler(manager, settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: controller.stop())
    return controller.run()


def watched_kinds() -> tuple[WatchedKind, ...]:
    """The kinds that are kept in caches: jobs, and everything labelled with a job's name."""
    labelled = (RAY_JOBS, RAY_CLUSTERS, PODS, *OWNED_KINDS)
    return (
        WatchedKind(resource=RLHF_JOBS, keys_of=own_key),
        *(
            WatchedKind(
                resource=kind,
                keys_of=job_keys,
                label_selector=JOB_LABEL,
                is_optional=kind in _OPTIONAL,
                departed_seconds=_DEPARTED_SECONDS if kind == PODS else 0.0,
            )
            for kind in labelled
        ),
    )


def make_reconciler(manager: Manager, settings: Settings) -> Reconciler:
    """The reconciler of the jobs that a manager watches."""

    def is_served(kind: Resource) -> bool:
        return all(each.is_served for each in manager.reflectors if each.resource == kind)

    observer = Observer(manager.reader, manager.caches, is_served=is_served)
    executor = Executor(manager.writer, instance=settings.identity)
    return Reconciler(observer, executor, policy=_policy_now(settings))


def _policy_now(settings: Settings) -> Callable[[], PodPolicy]:
    """The pod policy, with the current content of the certificate file."""
    policy, file = settings.pod_policy, settings.pod_policy.report_ca.path
    if not file:
        return lambda: policy
    trusted = ReloadedFiles([file], lambda: trusted_certificates(file))
    return lambda: replace(policy, report_ca=TrustedFile(file, trusted.value()))


def _render(file: Path, arguments: Sequence[str]) -> int:
    policy = pod_policy_from(arguments, os.environ)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"--file: {file} cannot be read: {error}"]) from error
    sys.stdout.write(rendered(parse_job(text, str(file)), policy))
    return 0
