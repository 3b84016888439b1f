"""The table follows what the API server says, from each of the three sources."""

import pytest

from stack.process import wait_for

SOURCES = ("service", "pods", "inference-pool")


class Told:
    """Says the same through each source: pods by address, and what is the matter with them."""

    def __init__(self, source: str, pods, ports=(8000,)):
        self.source, self.pods, self.ports = source, pods, ports
        self.known: dict[str, str] = {}
        if source == "inference-pool":
            pods.pool(ports)

    def option(self) -> tuple[str, str]:
        ports = ",".join(map(str, self.ports))
        what = {
            "service": f"llm-d/{self.pods.app}:{ports}",
            "pods": f"llm-d/app={self.pods.app}:{ports}",
            "inference-pool": f"llm-d/{self.pods.app}",
        }
        return f"--kubernetes-{self.source}", what[self.source]

    def _name(self, ip: str) -> str:
        return ip.replace(".", "-")

    def say(self, ip: str, state: str) -> None:
        before = self.known.get(ip)
        self.known[ip] = state
        if state == "gone":
            del self.known[ip]
        if self.source == "service":
            self.pods.slice("a", self.known, self.ports)
        elif state == "terminating":
            self.pods.terminate(self._name(ip))
        elif state == "gone":
            self.pods.remove(self._name(ip))
        elif before is None:
            self.pods.create(self._name(ip), ip, state == "ready")
        else:
            self.pods.status(self._name(ip), ip, state == "ready")


@pytest.fixture(params=SOURCES)
def source(request) -> str:
    return request.param


def test_a_pod_comes_drains_and_goes(source, pods, start, ip):
    told = Told(source, pods)
    one, two = start.pod(ip()), start.pod(ip())
    first, second = (pod.address.split(":")[0] for pod in (one, two))
    told.say(first, "ready")
    sidecar = start.sidecar(*told.option())
    sidecar.follows({one.address: "ready"}, within=10)

    told.say(second, "unready")
    sidecar.follows({one.address: "ready", two.address: "failing"})
    told.say(second, "ready")
    sidecar.follows({one.address: "ready", two.address: "ready"})
    told.say(second, "unready")
    sidecar.follows({one.address: "ready", two.address: "failing"})
    told.say(first, "terminating")
    sidecar.follows({one.address: "draining", two.address: "failing"})
    told.say(first, "gone")
    sidecar.follows({two.address: "failing"})
    told.say(second, "gone")
    sidecar.follows({})


def test_two_ports_of_a_pod_are_two_endpoints(source, pods, start, ip):
    told = Told(source, pods, ports=(8000, 8001))
    here = ip()
    both = [start.pod(here, 8000), start.pod(here, 8001)]
    told.say(here, "ready")
    sidecar = start.sidecar(*told.option())
    sidecar.follows({pod.address: "ready" for pod in both}, within=10)
    told.say(here, "terminating")
    sidecar.follows({pod.address: "draining" for pod in both})


def test_a_pod_that_changes_its_address(source, pods, start, ip):
    told = Told(source, pods)
    old, new = start.pod(ip()), start.pod(ip())
    before, after = (pod.address.split(":")[0] for pod in (old, new))
    told.say(before, "ready")
    sidecar = start.sidecar(*told.option())
    sidecar.follows({old.address: "ready"}, within=10)
    if source == "service":
        pods.slice("a", {after: "ready"})
    else:
        pods.status(before.replace(".", "-"), after)
    sidecar.follows({new.address: "ready"})


def test_a_replaced_pod_at_the_same_address_is_another_endpoint(source, pods, start, ip):
    told = Told(source, pods)
    pod = start.pod(ip())
    here = pod.address.split(":")[0]
    sidecar = start.sidecar(*told.option())

    def identity() -> tuple[str, str]:
        (seen,) = sidecar.status()["pods"]
        return seen["uid"], seen["endpoints"][0]["id"]

    if source == "service":
        pods.uids[here] = "first"
    told.say(here, "ready")
    sidecar.follows({pod.address: "ready"}, within=10)
    before = identity()
    if source == "service":
        pods.uids[here] = "second"
    else:
        told.say(here, "gone")
        sidecar.follows({})
    told.say(here, "ready")
    sidecar.follows({pod.address: "ready"})
    after = identity()
    assert after[0] == pods.uids[here]
    assert before[0] != after[0] and before[1] != after[1]


def test_several_slices_are_one_pool(pods, start, ip):
    one, two = start.pod(ip()), start.pod(ip())
    for name, pod in (("a", one), ("b", two)):
        pods.slice(name, {pod.address.split(":")[0]: "ready"})
    sidecar = start.sidecar("--kubernetes-service", f"llm-d/{pods.app}:http-8000")
    sidecar.follows({one.address: "ready", two.address: "ready"}, within=10)


def test_metrics_may_be_on_another_port(pods, start, ip):
    pod = start.pod(ip(), port=9000)
    here = pod.address.split(":")[0]
    pods.slice("a", {here: "ready"})
    sidecar = start.sidecar("--kubernetes-service", f"llm-d/{pods.app}:8000@9000=big")
    sidecar.follows({f"{here}:8000": "ready"}, within=10)
    (seen,) = sidecar.status()["pods"]
    assert (seen["scrape"], seen["pool"]) == (f"{here}:9000", "big")


def test_several_sources_are_several_pools(pods, start, ip):
    by_label, by_slice = start.pod(ip()), start.pod(ip())
    pods.create("a", by_label.address.split(":")[0])
    pods.slice("a", {by_slice.address.split(":")[0]: "ready"})
    sidecar = start.sidecar(
        "--kubernetes-pods", f"llm-d/app={pods.app}:http=labels", "--kubernetes-service", f"llm-d/{pods.app}:8000=slices"
    )
    sidecar.follows({by_label.address: "ready", by_slice.address: "ready"}, within=10)
    pools = {pod["address"]: pod["pool"] for pod in sidecar.status()["pods"]}
    assert pools == {by_label.address: "labels", by_slice.address: "slices"}


def test_another_selector_of_an_inference_pool_is_other_pods(cluster, pods, start, ip):
    one, two = start.pod(ip()), start.pod(ip())
    pods.create("a", one.address.split(":")[0])
    others = type(pods)(cluster, f"{pods.app}-other")
    others.create("a", two.address.split(":")[0])
    sidecar = start.sidecar("--kubernetes-inference-pool", f"llm-d/{pods.app}")
    assert "no InferencePool" in wait_remark(sidecar)
    pods.pool()
    sidecar.follows({one.address: "ready"})
    spec = {"spec": {"selector": {"matchLabels": {"app": others.app}}}}
    cluster.call("PATCH", f"/apis/inference.networking.k8s.io/v1/namespaces/llm-d/inferencepools/{pods.app}", spec)
    sidecar.follows({two.address: "ready"})


def test_a_port_that_is_not_there_is_said(pods, start, ip):
    pods.slice("a", {ip(): "ready"})
    sidecar = start.sidecar("--kubernetes-service", f"llm-d/{pods.app}:80")
    remark = wait_remark(sidecar)
    assert "port 80" in remark and "8000 (http-8000)" in remark
    assert remark in sidecar.log()


def wait_remark(sidecar) -> str:
    (remark,) = wait_for("a remark", lambda: sidecar.source()["remarks"])
    return remark
