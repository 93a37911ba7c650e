"""SIGTERM and SIGINT of a training: noted, to be obeyed between two steps."""

import contextlib
import os
import signal
import threading


@contextlib.contextmanager
def caught(at_once):
    """Yield a list that SIGTERM and SIGINT append their names to, so that the loop ends after the step under way; at_once(name) is called at once.

    Python runs a handler between two of its own instructions, so not before the step has ended; the byte that it writes to the wake-up pipe arrives
    at once, in a thread.
    """
    names, (awake, wake) = [], os.pipe()
    os.set_blocking(wake, False)

    def watch():
        while True:
            number = os.read(awake, 1)
            if number in (b"", b"\0"):
                return
            at_once(signal.Signals(number[0]).name)

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    old_wake = signal.set_wakeup_fd(wake)
    old = {number: signal.signal(number, lambda n, frame: names.append(signal.Signals(n).name)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield names
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_wake)
        os.write(wake, b"\0")
        watcher.join()
        os.close(wake)
        os.close(awake)
