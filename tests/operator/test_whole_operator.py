"""The operator as `taper-operator run` puts it together, against an API server in memory."""

from __future__ import annotations

import copy
import threading

from taper_operator.kinds import RAY_JOBS, RLHF_JOBS
from taper_operator.main import make_reconciler, watched_kinds
from taper_operator.manager import Manager
from taper_operator.resource import ObjectKey, Resource
from taper_operator.settings import settings_from

from .fake_api_server import FakeApiServer
from .job_objects import resource
from .test_controller import _client, wait_for
from .test_executor import KINDS

FLAGS = ["--namespaces=*", "--identity=replica", "--namespace=taper", "--address=127.0.0.1:0", "--image=a"]
KEY = ObjectKey("team", "full")


class Running:
    """The operator in a thread."""

    def __init__(self, fake: FakeApiServer) -> None:
        settings = settings_from(FLAGS, {})
        manager = Manager(settings, watched_kinds(), make_client=lambda _: _client(fake))
        self.controller = manager.controller(make_reconciler(manager, settings))
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


def test_a_job_that_is_applied_comes_to_be_complete() -> None:
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


def test_without_kuberay_it_says_so_and_lives() -> None:
    fake = without(*(kind for kind in KINDS if kind.group in ("ray.io", "monitoring.coreos.com")))
    operator = Running(fake)
    fake.put(RLHF_JOBS, resource())
    wait_for(lambda: reason_of(fake, "ClusterReady") == "KubeRayMissing")
    operator.stop()
