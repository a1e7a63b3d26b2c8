"""The operator as `taper-operator run` puts it together, against an API server in memory."""

from __future__ import annotations

import copy
import http.client
import json
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from taper_operator.kube.resource import LEASES, ObjectKey, Resource
from taper_operator.main import make_reconciler, watched_kinds
from taper_operator.manager import Manager
from taper_operator.manifests.kinds import CONFIG_MAPS, RAY_JOBS, RLHF_JOBS
from taper_operator.reports.server import ReportServer
from taper_operator.settings.settings import settings_from

from .certificates import LOOPBACK, make_certificates
from .deep_json import DEEP, DeepApiServer
from .fake_api_server import FakeApiServer
from .job_objects import parsed, pod_templates, resource
from .reconcile.test_executor import KINDS
from .reports.token_reviews import TokenApiServer
from .test_controller import _client, wait_for

FLAGS = ["--namespaces=*", "--identity=replica", "--namespace=taper", "--address=127.0.0.1:0", "--image=a"]
KEY = ObjectKey("team", "full")


class Running:
    """The operator in a thread."""

    def __init__(self, fake: FakeApiServer, flags: Sequence[str] = ()) -> None:
        settings = settings_from([*FLAGS, *flags], {})
        self.manager = Manager(settings, watched_kinds(), make_client=lambda _: _client(fake))
        self.controller = self.manager.controller(make_reconciler(self.manager, settings))
        self.thread = threading.Thread(target=self.controller.run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.controller.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


def without(*kinds: Resource) -> FakeApiServer:
    return FakeApiServer(*(kind for kind in KINDS if kind not in kinds), is_live=True)


def reason_of(fake: FakeApiServer, kind: str) -> str:
    status = fake.objects[RLHF_JOBS, KEY].get("status", {})
    return "".join(each["reason"] for each in status.get("conditions", []) if each["type"] == kind)


def test_an_applied_job_becomes_complete() -> None:
    fake = FakeApiServer(*KINDS, is_live=True)
    operator = Running(fake)
    fake.put(RLHF_JOBS, resource())
    wait_for(lambda: fake.all(RAY_JOBS))
    ray_job = copy.deepcopy(fake.objects[RAY_JOBS, ObjectKey("team", "full-1")])
    for deployment, job, phase in (("Running", "RUNNING", "Running"), ("Complete", "SUCCEEDED", "Complete")):
        ray_job["status"] = {"jobDeploymentStatus": deployment, "jobStatus": job}
        fake.put(RAY_JOBS, ray_job)
        wait_for(lambda phase=phase: fake.objects[RLHF_JOBS, KEY]["status"]["phase"] == phase)
    operator.stop()


def test_without_kuberay_the_operator_reports_it_and_keeps_running() -> None:
    fake = without(*(kind for kind in KINDS if kind.group in ("ray.io", "monitoring.coreos.com")))
    operator = Running(fake)
    fake.put(RLHF_JOBS, resource())
    wait_for(lambda: reason_of(fake, "ClusterReady") == "KubeRayMissing")
    operator.stop()


def test_what_a_job_reports_comes_into_its_status_on_every_replica(tmp_path: Path) -> None:
    """Over TLS, with the token of the attempt, to a replica that does not lead."""
    files = make_certificates(tmp_path)
    flags = [f"--report-url=https://{LOOPBACK}:8443", f"--report-ca={files.ca}", f"--report-key={files.key}"]
    flags += [f"--report-certificate={files.certificate}", f"--report-address={LOOPBACK}:0"]
    fake = TokenApiServer(*KINDS, is_live=True)
    leader = Running(fake, flags)
    wait_for(lambda: fake.all(LEASES))
    follower = Running(fake, flags)
    fake.put(RLHF_JOBS, resource())
    wait_for(lambda: fake.all(RAY_JOBS))
    identity = parsed(fake.objects[RLHF_JOBS, KEY])[1]
    fake.give("token", identity, 1)
    head = next(pod_templates(fake.objects[RAY_JOBS, ObjectKey("team", "full-1")]))
    (url,) = (
        each["value"] for each in head["spec"]["containers"][0]["env"] if each["name"] == "TAPER_REPORT_URL"
    )

    def post(running: Running, token: str, sequence: int) -> int:
        (server,) = (s for s in running.manager.services.values() if isinstance(s, ReportServer))
        trusted = fake.objects[CONFIG_MAPS, ObjectKey("team", "full-1")]["data"]["report-ca.crt"]
        context = ssl.create_default_context(cadata=trusted)
        connection = http.client.HTTPSConnection(LOOPBACK, server.port, timeout=10, context=context)
        body = {
            "attempt": 1,
            "sequence": sequence,
            "isLast": True,
            "training": {"step": sequence, "steps": 9},
        }
        headers = {"Authorization": f"Bearer {token}"}
        try:
            connection.request("POST", urlsplit(url).path, json.dumps(body), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def step() -> int:
        return int(fake.objects[RLHF_JOBS, KEY]["status"].get("progress", {}).get("step", 0))

    assert not follower.manager.elector.is_leader_now()
    wait_for(lambda: post(follower, "token", 1) == 202)
    wait_for(lambda: step() == 1)
    assert post(follower, "wrong", 2) == 401
    wait_for(lambda: post(leader, "token", 3) == 202)
    wait_for(lambda: step() == 3)
    assert (
        b'taper_operator_reports_total{result="unauthenticated"} 1.0'
        in follower.manager.metrics.exposition()[0]
    )
    follower.stop()
    leader.stop()


@pytest.mark.parametrize("levels", [1_100, 20_000])
@pytest.mark.parametrize("field", ["verl", "reward.settings"])
def test_a_job_that_is_nested_too_deep_stops_no_other_job(levels: int, field: str) -> None:
    """It is refused by the field's name, and an operator that starts later finds it just so."""
    fake = DeepApiServer(*KINDS, is_live=True, levels=levels)
    operator = Running(fake)
    wait_for(operator.manager.elector.is_leader_now)
    for number in (1, 2):
        fake.put(RLHF_JOBS, resource({f"spec.{field}": {"a": DEEP}, "metadata.name": "deep"}))
        fake.put(RLHF_JOBS, resource({"metadata.name": f"other-{number}"}, namespace="others"))
        wait_for(lambda number=number: ObjectKey("others", f"other-{number}-1") in fake.all(RAY_JOBS))
        deep = ObjectKey("team", "deep")
        wait_for(lambda deep=deep: fake.objects[RLHF_JOBS, deep].get("status"))
        (said,) = (
            each
            for each in fake.objects[RLHF_JOBS, deep]["status"]["conditions"]
            if each["type"] == "Validated"
        )
        assert (said["status"], said["reason"]) == ("False", "InvalidSpec")
        assert said["message"].startswith(f"spec.{field}: is nested too deep; use at most 32 levels")
        assert not any(key.namespace == "team" for key in fake.all(RAY_JOBS))
        operator.stop()
        operator = Running(fake)
    operator.stop()
