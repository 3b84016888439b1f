"""The API server goes and comes: what was seen last stays in force, and it is said."""

from stack.process import wait_for

# The longest wait before another try, and time for the API server to let the sidecar in.
TRIES_AGAIN_S = 15.0


def test_the_table_stays_while_the_api_server_is_away(cluster, pods, start, ip):
    one, two = start.pod(ip()), start.pod(ip())
    first, second = (pod.address.split(":")[0] for pod in (one, two))
    pods.slice("a", {first: "ready"})
    sidecar = start.sidecar("--kubernetes-service", f"llm-d/{pods.app}:8000")
    sidecar.follows({one.address: "ready"}, within=10)
    assert sidecar.metric("warmpath_sidecar_discovery_synced") == 1
    assert sidecar.metric("warmpath_sidecar_discovery_errors_total") == 0

    cluster.server.kill()
    try:
        wait_for("the metric", lambda: sidecar.metric("warmpath_sidecar_discovery_synced") == 0)
        # Several tries long: 0.2, 0.4, 0.8 and 1.6 s.
        wait_for("some tries", lambda: (sidecar.source()["failing_s"] or 0) > 3.0)
        assert sidecar.states() == {one.address: "ready"}
        source = sidecar.source()
        assert source["endpoints"] == 1 and not source["synced"] and source["error"]
        assert sidecar.metric("warmpath_sidecar_discovery_event_age_seconds") > 3.0
        # A pod that dies meanwhile is still seen: the sidecar looks itself.
        one.process.kill()
        wait_for("the dead pod", lambda: sidecar.states() == {one.address: "failing"}, timeout=5)
        one.process.start()
        wait_for("the pod again", lambda: sidecar.states() == {one.address: "ready"}, timeout=5)
        # Said when it began and when the reason changed (the broken watch, then the refused connection).
        said = sidecar.log().count("the last good ones stay in force")
        assert sidecar.log().count(" ERROR ") == said
        assert 1 <= said <= 2 and said == sidecar.metric("warmpath_sidecar_discovery_errors_total")
    finally:
        cluster.start()

    wait_for("the metric", lambda: sidecar.metric("warmpath_sidecar_discovery_synced") == 1, timeout=TRIES_AGAIN_S)
    assert sidecar.log().count("endpoints read again") == 1
    pods.slice("a", {first: "terminating", second: "ready"})
    sidecar.follows({one.address: "draining", two.address: "ready"})


def test_what_changed_while_the_sidecar_could_not_see_is_seen_after(cluster, pods, start, ip):
    one, two = start.pod(ip()), start.pod(ip())
    pods.create("a", one.address.split(":")[0])
    sidecar = start.sidecar("--kubernetes-pods", f"llm-d/app={pods.app}:8000")
    sidecar.follows({one.address: "ready"}, within=10)
    cluster.server.kill()
    cluster.start()
    pods.remove("a")
    pods.create("b", two.address.split(":")[0])
    sidecar.follows({two.address: "ready"}, within=TRIES_AGAIN_S)


def test_a_sidecar_started_while_it_is_away_waits_for_it(cluster, pods, start, ip):
    pod = start.pod(ip())
    pods.slice("a", {pod.address.split(":")[0]: "ready"})
    cluster.server.kill()
    try:
        sidecar = start.sidecar("--kubernetes-service", f"llm-d/{pods.app}:8000")
        wait_for("the error", lambda: sidecar.source()["error"])
        # No table: an empty one would make the filter forget its pods.
        assert sidecar.status()["ready"] is False
    finally:
        cluster.start()
    sidecar.follows({pod.address: "ready"}, within=TRIES_AGAIN_S)
