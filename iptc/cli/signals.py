"""Turns signals that end a command into exceptions, so that the command tidies up before it ends."""

import contextlib
import signal

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """The signal `number` asked the command to end."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stoppable():
    """Within this, a signal that ends programs raises `Stopped`; one that is ignored, or that has a handler, is left
    alone."""
    plain = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in _ENDING}
    ours = [number for number in _ENDING if before[number] in plain]

    def stop(number, frame):
        # once: what tidies up is not to be stopped by a second one
        for other in ours:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    try:
        for number in ours:
            signal.signal(number, stop)
    except ValueError:
        # not the main thread: no signal arrives here
        ours = []
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
