"""A warehouse out of the reach of signals: its verbs are carried out in a thread of their own.

Python turns a signal into an exception in the main thread, between any two instructions. A library that is interrupted like that
leaves a lock taken (SQLAlchemy, executors), goes on writing in threads of its own (PyIceberg), or does not notice (DuckDB). Here
a signal interrupts the wait for a verb, and never the verb: that is asked to end soon, and the next one waits until it has.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = SimpleQueue[tuple[Any, BaseException | None]]
"""Takes a result, or what was raised instead."""


class Interruptible(Protocol):
    def interrupt(self) -> None:
        """Called while another thread carries out a verb: that is to end soon, done or with nothing of it visible."""

    def proceed(self) -> None:
        """Called before each verb: an earlier one may have been interrupted."""

    def close(self) -> None: ...


W = TypeVar("W", bound=Interruptible)


def shielded(open_warehouse: Callable[[], W]) -> W:
    """What `open_warehouse` makes, out of the reach of signals."""
    return cast("W", _Shielded(open_warehouse))


class _Shielded:
    def __init__(self, open_warehouse: Callable[[], Interruptible]) -> None:
        # Queues of this kind have no lock that an interrupted caller could keep, as those of an Executor have.
        self._asked: SimpleQueue[tuple[Callable[[], Any], Answer] | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._warehouse: Any = None  # an Interruptible, once it is open
        try:
            self._warehouse = self._do(open_warehouse)
        except BaseException:
            self._asked.put(None)
            raise

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._warehouse, name)
        return partial(self._do, found) if callable(found) else found

    def close(self) -> None:
        if self._closed:
            return
        try:
            self._do(self._warehouse.close)
        finally:
            self._closed = True
            self._asked.put(None)
        self._thread.join()

    def _do(self, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._closed:
            raise RuntimeError("the warehouse is closed")
        answer: Answer = SimpleQueue()
        try:
            self._asked.put((partial(verb, *args, **kwargs), answer))
            done, failed = answer.get()
        except BaseException:
            if self._warehouse is not None:
                with suppress(Exception):  # it may be closed by now
                    self._warehouse.interrupt()
            raise
        if failed is not None:
            try:
                raise failed
            finally:
                del failed  # it refers to this frame, and so to the rows that were handed over
        return done

    def _work(self) -> None:
        while self._carry_out(self._asked.get()):  # nothing is kept here between verbs, such as rows
            pass

    def _carry_out(self, asked: tuple[Callable[[], Any], Answer] | None) -> bool:
        if asked is None:
            return False
        verb, answer = asked
        try:
            if self._warehouse is not None:
                self._warehouse.proceed()
            answer.put((verb(), None))
        except BaseException as exc:  # noqa: BLE001 - raised where it was asked for
            answer.put((None, exc))
        return True
