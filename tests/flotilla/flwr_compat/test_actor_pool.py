"""The pool that outlives its workers, with workers that are lost when they are told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from flotilla.flwr_compat.actor_pool import TRIES, ActorPool, NobodyLeft


class Gone(Exception):
    """A worker was lost."""


class Fakes:
    """Numbered workers at places; those of `broken` places cannot be started, those of `closed` ones are not tried."""

    lost: tuple[type[Exception], ...] = (Gone,)

    def __init__(self) -> None:
        self.closed, self.broken = set[str](), set[str]()
        self.silent = set[str]()  # what is asked here has no answer: "exists", "start"
        self.begun: list[str] = []
        self.stopped: list[int] = []

    def start(self, place: str) -> int:
        self.begun.append(place)
        if "start" in self.silent:
            raise RuntimeError("the head does not answer")
        if place in self.broken:
            raise TimeoutError("does not answer")
        return 100 + len(self.begun)

    def stop(self, actor: int) -> None:
        self.stopped.append(actor)

    def exists(self, place: str) -> bool:
        if "exists" in self.silent:
            raise RuntimeError("the head does not answer")
        return place not in self.closed

    def reason(self, loss: BaseException) -> str:
        return str(loss)


def pool_of(*places: str) -> tuple[Fakes, ActorPool[int, str], list[str]]:
    fakes, said = Fakes(), list[str]()
    return fakes, ActorPool(fakes, [(place, number) for number, place in enumerate(places)], said.append), said


def losing(*lost: int) -> Callable[[int], int]:
    """Work that some workers do not survive; it returns who has done it."""

    def work(actor: int) -> int:
        if actor in lost:
            raise Gone("killed for memory")
        return actor

    return work


def test_a_lost_worker_is_replaced_in_its_place_and_the_work_done_again() -> None:
    fakes, pool, said = pool_of("a")
    assert pool.run(losing(0)) == 101
    assert (fakes.begun, fakes.stopped, pool.num_actors) == (["a"], [0], 1)
    assert said == ["a worker was lost (killed for memory); there is another in its place"]
    assert pool.run(losing(0)) == 101  # the one that was lost gets nothing more


def test_where_the_place_is_gone_the_others_do_it() -> None:
    fakes, pool, said = pool_of("a", "b")
    fakes.closed.add("b")
    assert pool.run(losing(1)) == 0
    assert (fakes.begun, pool.num_actors) == ([], 1)
    assert said == ["a worker was lost (killed for memory); workers left: 1"]


def test_a_worker_that_does_not_come_up_costs_no_try_of_the_work() -> None:
    fakes, pool, said = pool_of("a", "b")
    fakes.broken.add("b")
    assert pool.run(losing(1)) == 0
    assert fakes.begun == ["b"] * 3
    assert said == ["a worker was lost (does not answer); workers left: 1"]


def test_work_that_nobody_survives_ends_and_leaves_the_pool_whole() -> None:
    fakes, pool, _ = pool_of("a", "b")

    def deadly(actor: int) -> int:
        raise Gone(f"{actor} was killed")

    with pytest.raises(Gone):
        pool.run(deadly)
    assert len(fakes.stopped) == TRIES
    assert pool.num_actors == 2
    assert pool.run(losing()) > 100


def test_an_error_of_the_work_is_no_loss() -> None:
    fakes, pool, said = pool_of("a")

    def wrong(_: int) -> int:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        pool.run(wrong)
    assert (fakes.stopped, said, pool.run(losing())) == ([], [], 0)


def test_without_any_worker_nobody_waits() -> None:
    fakes, pool, _ = pool_of("a")
    fakes.closed.add("a")
    entered, go = threading.Event(), threading.Event()

    def dies_slowly(_: int) -> int:
        entered.set()
        go.wait(30)
        raise Gone("its machine is gone")

    with ThreadPoolExecutor() as threads:
        first = threads.submit(pool.run, dies_slowly)
        assert entered.wait(30)
        second = threads.submit(pool.run, losing())  # waits for the only one
        go.set()
        for waiting in (first, second):
            with pytest.raises(NobodyLeft):
                waiting.result(30)


@pytest.mark.parametrize("question", ["exists", "start"])
def test_where_the_cluster_does_not_answer_nobody_waits(question: str) -> None:
    fakes, pool, said = pool_of("a")
    fakes.silent.add(question)
    for _ in range(2):
        with pytest.raises(NobodyLeft):
            pool.run(losing(0))
    assert (len(fakes.begun), pool.num_actors) == (int(question == "start"), 0)
    assert said == ["a worker was lost (the head does not answer); workers left: 0"]


def test_more_threads_than_workers_take_turns() -> None:
    _, pool, _ = pool_of("a", "b")
    busy, most, lock = 0, 0, threading.Lock()

    def work(actor: int) -> int:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        threading.Event().wait(0.01)
        with lock:
            busy -= 1
        return actor

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(lambda _: pool.run(work), range(24)))
    assert most <= 2
    assert set(done) == {0, 1}


def test_stopped_it_has_nobody() -> None:
    fakes, pool, _ = pool_of("a", "b")
    pool.stop()
    assert sorted(fakes.stopped) == [0, 1]
    with pytest.raises(NobodyLeft):
        pool.run(losing())
