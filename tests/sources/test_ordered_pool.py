"""`sources.ordered_pool`: a few calls at the same time, with their answers in order."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from maang_cli.sources.ordered_pool import OrderedPool


def test_answers_come_in_the_order_of_the_items() -> None:
    chance = random.Random(3)
    pauses = [chance.random() / 100 for _ in range(50)]

    def answer(number: int) -> int:
        time.sleep(pauses[number])
        return number * number

    with OrderedPool(answer, 4) as pool:
        assert list(pool.map(range(50), 8)) == [number * number for number in range(50)]


@pytest.mark.parametrize("ahead", [1, 2, 100])
def test_all_items_are_answered_whatever_the_look_ahead(ahead: int) -> None:
    with OrderedPool(str, 3) as pool:
        assert list(pool.map([1, 2, 3], ahead)) == ["1", "2", "3"]
        assert list(pool.map([], ahead)) == []


def test_calls_run_at_the_same_time_up_to_the_size() -> None:
    together = threading.Barrier(4, timeout=20)
    lock = threading.Lock()
    running = most = 0

    def meet(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()  # breaks if fewer than four calls run at the same time
        with lock:
            running -= 1
        return number

    with OrderedPool(meet, 4) as pool:
        assert list(pool.map(range(12), 12)) == list(range(12))
    assert most == 4


def test_look_ahead_limits_how_many_items_are_taken() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    with OrderedPool(int, 2) as pool:
        answers = pool.map(items(), 5)
        for used in range(16):
            assert next(answers) == used
            assert len(taken) == used + 5
        assert list(answers) == [16, 17, 18, 19]


def test_error_is_raised_in_the_place_of_its_answer() -> None:
    def answer(number: int) -> int:
        if number == 2:
            raise LookupError(f"item {number}")
        return number

    with OrderedPool(answer, 3) as pool:
        answers = pool.map(range(5), 5)
        assert [next(answers), next(answers)] == [0, 1]
        with pytest.raises(LookupError, match="item 2"):
            next(answers)


def test_exit_drops_the_calls_that_have_not_started() -> None:
    started: list[int] = []
    first_started, may_end = threading.Event(), threading.Event()

    def answer(number: int) -> int:
        started.append(number)
        first_started.set()
        may_end.wait(20)
        return number

    with OrderedPool(answer, 1) as pool:
        answers = pool.map(range(5), 5)
        reader = threading.Thread(target=next, args=(answers,))
        reader.start()
        first_started.wait(20)
        while pool._todo.qsize() < 4:
            time.sleep(0.01)
    may_end.set()
    reader.join(20)
    for thread in pool._threads:
        thread.join(20)
        assert not thread.is_alive()
    assert started == [0]


STALLED = """
import threading
from maang_cli.sources.ordered_pool import OrderedPool

with OrderedPool(lambda item: threading.Event().wait(), 2) as pool:
    answers = pool.map([1, 2], 3)
    threading.Thread(target=next, args=(answers,), daemon=True).start()
print("done")
"""


def test_stalled_call_does_not_keep_the_process_alive() -> None:
    done = subprocess.run([sys.executable, "-c", STALLED], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
