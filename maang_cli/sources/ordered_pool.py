"""A few calls at the same time, with the answers in the order of the questions."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class OrderedPool(Generic[Item, Answer]):
    """Daemon threads that run one function: unlike an Executor's, a stalled call does not keep the process alive."""

    def __init__(self, function: Callable[[Item], Answer], size: int) -> None:
        self._function = function
        self._size = size
        self._todo: queue.SimpleQueue[tuple[Future[Answer], Item] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def map(self, items: Iterable[Item], ahead: int) -> Iterator[Answer]:
        """The answers, in order. At most `ahead` of them are being computed or wait to be used, which bounds the memory."""
        pending: deque[Future[Answer]] = deque()
        for item in items:
            pending.append(self._submit(item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _submit(self, item: Item) -> Future[Answer]:
        if len(self._threads) < self._size:
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()
        future: Future[Answer] = Future()
        self._todo.put((future, item))
        return future

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            future, item = job
            try:
                future.set_result(self._function(item))
            except BaseException as exc:  # noqa: BLE001 - raised again where the answer is used
                future.set_exception(exc)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Calls that have not started are dropped."""
        try:
            while True:
                self._todo.get_nowait()
        except queue.Empty:
            for _ in self._threads:
                self._todo.put(None)
