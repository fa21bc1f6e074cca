"""The numbers of tries: what is asked later has the greater one."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from luigi_spendguard.proxy.tries import Tries


def test_what_is_asked_later_has_the_greater_number_in_another_process_too() -> None:
    tries = Tries()
    ours, theirs = multiprocessing.get_context("fork").Pipe()

    def answer() -> None:
        while theirs.recv():
            theirs.send(tries.next())

    tries.next()
    child = multiprocessing.get_context("fork").Process(target=answer)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(tries._lock.acquire).result()
        child.start()
        pool.submit(tries._lock.release).result()
    numbers = []
    for _ in range(3):
        numbers += [tries.next() for _ in range(3)]
        ours.send(True)
        assert ours.poll(20)
        numbers.append(ours.recv())
    ours.send(False)
    child.join(20)
    assert child.exitcode == 0
    assert numbers == sorted(set(numbers))
    assert abs(numbers[-1] / 1e6 - time.time()) < 60


def test_no_two_threads_have_the_same_and_a_clock_that_is_set_back_gives_no_lesser_one() -> None:
    now = [5_000_000]
    tries, begin = Tries(lambda: now[0]), threading.Barrier(4)

    def some(_: int) -> list[int]:
        begin.wait(10)
        return [tries.next() for _ in range(500)]

    with ThreadPoolExecutor(4) as pool:
        each = list(pool.map(some, range(4)))
    assert sorted(one for numbers in each for one in numbers) == list(range(5000, 7000))
    assert all(one == sorted(one) for one in each)
    now[0] = 1_000
    assert (tries.next(), tries.next()) == (7000, 7001)
