"""End a process at SIGTERM, which cluster schedulers send, or Ctrl-C, after what is trained has been saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "end_if_pending", "install", "interruptible", "pending", "saving"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """A signal ends the process; the exit code is 128 plus its number, as shells report it: 143 or 130."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class Received:
    """The signal that was received, and whether a training is running that saves its state before it ends."""

    number: int | None = None
    saving = False
    handled = False  # inside `interruptible`


received = Received()


def receive(number: int, frame: FrameType | None) -> None:
    """Handle a signal: end at once, or let the running training save first; a second Ctrl-C ends at once.

    A second SIGTERM is not that: schedulers send it to a process more than once.
    """
    again, received.number = received.number is not None, number
    if not received.saving or (again and number == signal.SIGINT):
        raise Interrupted(number)


def install() -> None:
    """Install the handlers again inside `interruptible`: Lightning's own end a training without saving it."""
    if received.handled:
        for number in SIGNALS:
            signal.signal(number, receive)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `Interrupted` inside the block; outside of the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    received.number, received.handled = None, True
    install()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        received.number, received.handled = None, False


def pending() -> bool:
    """Tell whether a signal has been received that a training is to save its state for; call it after every step."""
    return received.number is not None


def end_if_pending() -> None:
    """Raise `Interrupted` if a signal has been received."""
    if received.number is not None:
        raise Interrupted(received.number)


@contextmanager
def saving() -> Iterator[None]:
    """Let a signal wait inside the block for `end_if_pending`, which is also called at its end."""
    received.saving = True
    try:
        yield
    finally:
        received.saving = False
    end_if_pending()
