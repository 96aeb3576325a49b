"""Ctrl-C that waits for the end of a step, so that a step is done whole or not at all."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals with which terminals and schedulers stop a program."""


class Interrupts:
    """Turns a signal into `KeyboardInterrupt`: at once, or after the block of `deferred`.

    A terminal that is closed (SIGHUP) counts as SIGTERM. A second signal does not wait. Outside the
    main thread, where Python allows no handlers, it changes nothing.
    """

    def __init__(self) -> None:
        self._is_deferring = False
        self._is_pending = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._answer) for number in SIGNALS}
            # `nohup` lets a program ignore it. A server has a handler of its own for SIGTERM.
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                self._previous[signal.SIGHUP] = signal.signal(
                    signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM)
                )
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _answer(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_deferring and not self._is_pending:
            self._is_pending = True
            return
        raise KeyboardInterrupt

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Run the block to its end before the first signal counts."""
        self._is_deferring = True
        try:
            yield
        finally:
            self._is_deferring = False
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt
