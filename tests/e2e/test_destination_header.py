"""A client cannot choose its own pod, with the plugin or without it."""

import json
from collections import Counter

import pytest
from stack.client import Client, chat_body
from stack.envoy import DESTINATION
from stack.pods import Pod
from wire import MARK, exchange, head, mark, seen

CHAT = "/v1/chat/completions"
# One pod of three gets all of them by chance once in 3^23 times.
TRIES = 24


def pods_of_a_client_that_names(pod: Pod, client: Client, fresh) -> Counter:
    return Counter(client.chat(fresh(20), {DESTINATION: pod.address}).pod for _ in range(TRIES))


def test_steered_requests_go_where_the_filter_says(stack, client, fresh):
    stripped = stack.envoy.stats()["client_header_stripped"]
    for pod in stack.pods:
        assert len(pods_of_a_client_that_names(pod, client, fresh)) > 1
    text = fresh()
    warm = client.chat(text).pod
    for pod in stack.pods:
        assert client.chat(text, {DESTINATION: pod.address}).pod == warm
    # Streaming wiring: Envoy itself removed it before the plugin.
    grown = stack.envoy.stats()["client_header_stripped"] - stripped
    assert grown == (len(stack.pods) * (TRIES + 1) if stack.envoy.wiring == "buffered" else 0)


def test_pods_see_the_filters_choice_and_not_the_clients(stack, client, fresh):
    marked = mark()
    answer = client.chat(fresh(), {DESTINATION: "10.1.2.3:4", MARK: marked})
    [request] = seen(stack.pods, marked)
    named = request["headers"][DESTINATION].split(",")
    assert named[0] == answer.pod
    assert set(named) == {pod.address for pod in stack.pods}


@pytest.mark.parametrize("name", [DESTINATION, DESTINATION.upper()])
def test_naming_it_twice_helps_no_more(stack, fresh, name):
    pods = Counter()
    for _ in range(TRIES):
        body = json.dumps(chat_body(fresh(20))).encode()
        lines = [f"content-length: {len(body)}"] + [f"{name}: {stack.pods[0].address}"] * 2
        pods[exchange(stack.envoy.url, head("POST", CHAT, *lines) + body).pod] += 1
    assert len(pods) > 1


def test_paths_that_are_not_for_models_are_no_way_in(stack, client):
    marked = mark()
    headers = {DESTINATION: stack.pods[0].address, MARK: marked}
    pods = Counter(client.send("POST", "/other", b"x", headers).pod for _ in range(TRIES))
    assert len(pods) > 1
    assert not [r for r in seen(stack.pods, marked) if DESTINATION in r["headers"]]


def test_without_the_plugin_envoy_alone_removes_it(stack, wiring, start, fresh):
    """FAIL_OPEN puts a filter that allows all in the place of a plugin that cannot be loaded."""
    envoy = start.envoy(wiring, stack.envoy.pods, plugin=False)
    client = Client(envoy.url)
    assert len(pods_of_a_client_that_names(stack.pods[0], client, fresh)) > 1
    marked = mark()
    client.chat(fresh(), {DESTINATION: stack.pods[0].address, MARK: marked})
    assert DESTINATION not in seen(stack.pods, marked)[0]["headers"]


def test_with_the_plugin_off_it_is_removed(stack, wiring, start, fresh):
    envoy = start.envoy(wiring, stack.envoy.pods, config={"mode": "off"})
    assert len(pods_of_a_client_that_names(stack.pods[0], Client(envoy.url), fresh)) > 1
