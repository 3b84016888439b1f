"""Every worker of Envoy knows what the others routed."""

from concurrent.futures import ThreadPoolExecutor

from stack.process import wait_for

STACK = {"concurrency": 4}
CONVERSATIONS = 40


def connections_of_workers(envoy) -> list[int]:
    lines = envoy.get("/stats?filter=^listener.127.0.0.1.*worker_.*downstream_cx_total").splitlines()
    return [int(line.rpartition(": ")[2]) for line in lines]


def test_a_conversation_is_warm_on_whichever_worker_its_next_turn_comes_in(stack, client, fresh):
    texts = [fresh(200) for _ in range(CONVERSATIONS)]
    with ThreadPoolExecutor(4) as pool:
        first = list(pool.map(client.chat, texts))
        assert {answer.status for answer in first} == {200}
        for turn in range(1, 5):
            # A connection a request: each may come in on another worker.
            again = list(pool.map(lambda text: client.chat(text + f" turn {turn}"), texts))
            assert [a.pod for a in again] == [f.pod for f in first]
            assert {a.reason for a in again} == {"warm"}
            assert min(a.cached for a in again) > 100
    assert len(connections_of_workers(stack.envoy)) == 4
    assert min(connections_of_workers(stack.envoy)) > 0
    assert len({answer.pod for answer in first}) == len(stack.pods)


def test_the_journal_loses_nothing_and_nothing_stays_in_flight(stack, client, fresh):
    with ThreadPoolExecutor(8) as pool:
        assert {a.status for a in pool.map(client.chat, [fresh(100) for _ in range(200)])} == {200}
    wait_for("the last answers to be folded", lambda: stack.envoy.stats()["in_flight"] == 0)
    stats = stack.envoy.stats()
    assert [stats[name] for name in ("journal_lost", "journal_bad", "journal_errors", "host_errors")] == [0, 0, 0, 0]
    assert stats["feed_leader"] == 1


def test_every_worker_folds_what_the_others_append(stack, client, fresh):
    before = stack.envoy.stats()
    for _ in range(20):
        client.chat(fresh(50))

    def folded_by_all() -> bool:
        """Four workers and the main thread: a slot is folded by the four that did not append it."""
        now = stack.envoy.stats()
        # A route and a done, each a slot of its own; tables may come beside them.
        assert now["journal_appended"] - before["journal_appended"] >= 40
        return now["journal_folded"] - before["journal_folded"] >= 4 * 40

    wait_for("the workers to fold", folded_by_all)
