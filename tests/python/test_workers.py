"""Work in child processes: limits end one message and nothing else; clients take turns; nobody hangs."""

import os
import threading
import time
from dataclasses import replace

import pytest
from llama4rt.errors import Llama4RTError, RequestError
from llama4rt.workers.child_pool import ChildPool, ChildrenBusy
from llama4rt.workers.child_process import (
    ChildAbandoned,
    ChildFailed,
    ChildLimit,
    ChildLimits,
    ChildProcess,
)
from llama4rt.workers.client import Client, current_client, working_for
from llama4rt.workers.round_robin import RoundRobin

LIMITS = ChildLimits(seconds=5.0, cpu_seconds=1, memory=64 << 20)


@pytest.fixture
def child():
    child = ChildProcess("worker_child", LIMITS, "the test", b"as set up")
    yield child
    child.close()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_answers_of_any_size(child):
    assert child.call(b"setup") == b"as set up"
    for size in (0, 1, 1 << 16, 5 << 20):
        message = os.urandom(size)
        assert child.call(b"echo " + message) == message
    assert child.call(b"print") == b"quiet"
    assert child.call(b"echo after") == b"after"


def test_a_refusal_keeps_the_child(child):
    pid = child.call(b"pid")
    with pytest.raises(RequestError, match="this is refused: é"):
        child.call(b"refuse")
    assert child.call(b"pid") == pid


def test_a_failure_of_the_childs_code_is_ours(child):
    with pytest.raises(ChildFailed, match="KeyError"):
        child.call(b"unknown")
    assert child.call(b"echo on") == b"on"


@pytest.mark.parametrize(
    ("message", "reason"),
    [(b"spin", "time"), (b"allocate 200000000", "memory"), (b"crash", "crash")],
)
def test_a_limit_ends_one_message(child, message, reason):
    pid = int(child.call(b"pid"))
    with pytest.raises(ChildLimit) as raised:
        child.call(message)
    assert raised.value.reason == reason
    assert not alive(pid)
    assert child.call(b"echo next") == b"next"


def test_memory_within_the_limit_is_given(child):
    assert child.call(b"allocate 30000000") == b"30000000"


def test_a_deadline_kills():
    child = ChildProcess("worker_child", ChildLimits(0.3, 5, 1 << 26), "the test")
    pid = int(child.call(b"pid"))
    with pytest.raises(ChildLimit, match="longer than 0"):
        child.call(b"sleep 60")
    assert not alive(pid)
    child.close()


def test_a_client_who_leaves_ends_his_work(child):
    pid = int(child.call(b"pid"))
    client = Client("someone")
    threading.Timer(0.2, client.gone.set).start()
    started = time.monotonic()
    with pytest.raises(ChildAbandoned), working_for(client):
        child.call(b"sleep 60")
    assert time.monotonic() - started < 3
    assert not alive(pid)


def test_a_module_that_is_not_there_is_our_failure():
    child = ChildProcess("no_such_module_here", LIMITS, "the test")
    with pytest.raises(ChildFailed, match="did not start"):
        child.call(b"echo")


def test_the_child_ends_with_its_owner():
    child = ChildProcess("worker_child", LIMITS, "the test")
    pid = int(child.call(b"pid"))
    del child
    assert not alive(pid)


def test_the_pool_uses_its_children_at_once_and_no_more():
    pool = ChildPool("worker_child", 2, LIMITS, "the test")
    pids = set()

    def work():
        pids.add(pool.call(b"pid"))
        pool.call(b"sleep 0.2")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 2
    running = pool.pids()
    pool.close()
    assert running and not any(map(alive, running))
    with pytest.raises(Llama4RTError, match="closed"):
        pool.call(b"pid")


def test_a_start_that_fails_loses_no_child(monkeypatch):
    pool = ChildPool("worker_child", 2, LIMITS, "the test", wait_seconds=0.1)
    with monkeypatch.context() as patch:
        patch.setattr("subprocess.Popen", raise_no_process)
        with pytest.raises(ChildFailed, match="cannot start"):
            pool.start_all()
    holder = threading.Thread(target=lambda: pool.call(b"sleep 1"))
    holder.start()
    while not pool.pids():
        time.sleep(0.01)
    with pytest.raises(ChildrenBusy):  # the second one is taken before the first is missed
        pool.start_all()
    assert pool.call(b"echo free") == b"free"
    holder.join()
    pool.close()


def raise_no_process(*_, **__):
    raise OSError(11, "Resource temporarily unavailable")


def test_clients_take_turns():
    """One client has twenty messages waiting; another's comes second, not twenty-first."""
    pool = ChildPool("worker_child", 1, LIMITS, "the test")
    pool.start()
    order = []

    def work(name):
        with working_for(Client(name)):
            pool.call(b"sleep 0.05")
        order.append(name)

    greedy = [threading.Thread(target=work, args=("greedy",)) for _ in range(20)]
    for thread in greedy:
        thread.start()
    time.sleep(0.1)
    modest = threading.Thread(target=work, args=("modest",))
    modest.start()
    for thread in [*greedy, modest]:
        thread.join()
    assert order.index("modest") < 8
    pool.close()


def test_a_client_with_too_much_waiting_is_refused_and_others_are_not():
    pool = ChildPool("worker_child", 1, LIMITS, "the test", max_waiting=2)
    pool.start()
    errors, done = [], []

    def work(name):
        try:
            with working_for(Client(name)):
                pool.call(b"sleep 0.5")
            done.append(name)
        except ChildrenBusy:
            errors.append(name)

    threads = [threading.Thread(target=work, args=("greedy",)) for _ in range(5)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    threads.append(threading.Thread(target=work, args=("modest",)))
    threads[-1].start()
    for thread in threads:
        thread.join()
    assert errors == ["greedy"] * 2
    assert sorted(done) == ["greedy"] * 3 + ["modest"]
    pool.close()


def test_waiting_ends_when_the_client_leaves():
    pool = ChildPool("worker_child", 1, LIMITS, "the test")
    holder = threading.Thread(target=lambda: pool.call(b"sleep 2"))
    holder.start()
    time.sleep(0.3)
    client = Client("someone")
    client.gone.set()
    with pytest.raises(ChildAbandoned), working_for(client):
        pool.call(b"pid")
    assert holder.is_alive()  # nobody had to end first
    holder.join()
    assert pool.call(b"echo free") == b"free"
    pool.close()


def test_round_robin():
    queue = RoundRobin()
    for item in range(3):
        queue.push("a", item)
    queue.push("b", 10)
    queue.push("c", 20)
    assert (len(queue), queue.waiting("a"), queue.waiting("d")) == (5, 3, 0)
    assert queue.remove("c", 20) and not queue.remove("c", 20)
    assert [queue.pop() for _ in range(5)] == [0, 10, 1, 2, None]
    queue.push("a", 1)
    queue.push("b", 2)
    assert queue.pop(lambda client, item: client != "a") == 2
    assert queue.pop(lambda client, item: client != "a") is None
    assert len(queue) == 1


def test_the_local_client_is_the_default():
    assert current_client().name == "local"
    with working_for(Client("x")):
        assert current_client().name == "x"
    assert current_client().name == "local"


FORK = ChildLimits(seconds=2.0, cpu_seconds=0.3, memory=64 << 20, fork=True)


@pytest.fixture
def forking():
    child = ChildProcess("worker_child", FORK, "the test", b"as set up")
    yield child
    child.close()


@pytest.mark.parametrize(
    ("message", "reason"),
    [(b"spin", "time"), (b"allocate 200000000", "memory"), (b"crash", "crash"), (b"sleep 60", "deadline")],
)
def test_what_is_killed_in_a_fork_leaves_its_child(message, reason):
    """The child itself keeps running, and nothing of a message stays in it."""
    # On a busy machine 0.3 s of processor time may take longer than 2 s.
    limits = FORK if reason == "deadline" else replace(FORK, seconds=60.0)
    forking = ChildProcess("worker_child", limits, "the test", b"as set up")
    assert forking.call(b"setup") == b"as set up"
    pid = forking.pid
    started = time.process_time()
    for _ in range(3):
        with pytest.raises(ChildLimit) as raised:
            forking.call(message)
        assert raised.value.reason == reason
        assert int(forking.call(b"pid")) != pid
        assert forking.call(b"echo " + bytes(1 << 20)) == bytes(1 << 20)
    assert forking.pid == pid
    assert time.process_time() - started < 1
    with pytest.raises(RequestError, match="this is refused"):
        forking.call(b"refuse")
    with pytest.raises(ChildFailed, match="KeyError"):
        forking.call(b"unknown")
    forking.close()


def test_a_client_who_leaves_ends_his_fork(forking):
    forking.call(b"setup")
    pid = forking.pid
    for _ in range(5):
        client = Client("someone")
        threading.Timer(0.1, client.gone.set).start()
        started = time.monotonic()
        with pytest.raises(ChildAbandoned):
            forking.call(b"sleep 60", client)
        assert time.monotonic() - started < 4
        assert forking.call(b"echo next") == b"next"
    assert forking.pid == pid


def test_an_answer_for_the_one_before_is_not_taken(forking, monkeypatch):
    """Its fork had just ended when its client left: the child says so to whoever comes next, who asks again."""
    forking.start()
    exchange = ChildProcess._exchange
    early = [b"a"]
    monkeypatch.setattr(ChildProcess, "_exchange", lambda *given: early.pop() if early else exchange(*given))
    assert forking.call(b"echo on") == b"on"
    early.append(b"a")
    gone = Client("gone")
    gone.gone.set()
    with pytest.raises(ChildAbandoned):
        forking.call(b"echo on", gone)


def test_a_fork_ends_with_its_child():
    child = ChildProcess("worker_child", FORK, "the test")
    client = Client("someone")

    def work():
        with pytest.raises(RequestError):
            child.call(b"sleep 60", client)

    thread = threading.Thread(target=work)
    child.start()
    thread.start()
    deadline = time.monotonic() + 10
    while not (forks := children_of(child.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, 15)  # the parent sees its end and clears away the rest
    thread.join(30)
    assert not thread.is_alive()
    deadline = time.monotonic() + 10
    while any(alive(fork) for fork in forks):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.close()


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]
