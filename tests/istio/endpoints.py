"""What the EndpointSlice controller does: a slice for a Service, of the pods that it selects."""

import urllib.parse

from stack.cluster import NAMESPACE, Cluster

_SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"


def publish(cluster: Cluster, service: str) -> None:
    """Writes the slice anew, from what the API server says of Service and pods now."""
    spec = cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/services/{service}")["spec"]
    selector = urllib.parse.quote(",".join(f"{k}={v}" for k, v in spec["selector"].items()))
    pods = cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={selector}")["items"]
    pods = [pod for pod in pods if pod.get("status", {}).get("podIP")]
    name = f"{service}-slice"
    body = {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [
            {"name": port.get("name", ""), "port": _number(port, pods), "protocol": "TCP"} for port in spec["ports"]
        ],
        "endpoints": [_endpoint(pod, spec.get("publishNotReadyAddresses", False)) for pod in pods],
    }
    try:
        body["metadata"]["resourceVersion"] = cluster.call("GET", f"{_SLICES}/{name}")["metadata"]["resourceVersion"]
    except OSError:
        cluster.call("POST", _SLICES, body)
    else:
        cluster.call("PUT", f"{_SLICES}/{name}", body)


def _endpoint(pod: dict, always: bool) -> dict:
    conditions = pod["status"].get("conditions", [])
    serving = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    terminating = "deletionTimestamp" in pod["metadata"]
    meta = pod["metadata"]
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": always or (serving and not terminating), "serving": serving, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": meta["name"], "uid": meta["uid"]},
        "nodeName": pod["spec"].get("nodeName"),
    }


def _number(port: dict, pods: list[dict]) -> int:
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    named = [p for pod in pods for c in pod["spec"]["containers"] for p in c.get("ports", []) if p.get("name") == target]
    return named[0]["containerPort"] if named else port["port"]
