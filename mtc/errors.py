"""Errors that carry a decision: whose mistake it was and what the exit code of a command is.

`UserError` is raised at the boundary (config, files, URLs) with one sentence that names the file, field and value, what was
expected and what to do. `RunFailed` means that the work could not be finished, and why. `Stopped` means that a signal or a person asked the run to
end and that everything was saved. All other exceptions are bugs.
"""

EXIT_CODES = {"success": 0, "failed": 1, "user_error": 2, "stopped": 3}
"""{how a command ended, as its record says: its exit code}."""


def status_of(code):
    """Return how a command with this exit code ended."""
    return next((status for status, of_it in EXIT_CODES.items() if of_it == code), "failed")


class UserError(Exception):
    """Bad input: the message is one clear sentence for the person who gave it. Commands end with exit code 2."""


class RunFailed(Exception):
    """The machine, the storage or the numbers do not let the run go on; nothing that was saved is lost. Commands end with exit code 1."""


class TakenOver(RunFailed):
    """Another trainer has taken over the run while this one was cut off: this one must not write any more."""


class Stopped(Exception):
    """A signal, or somebody's request, ended the run after its state was saved. Commands end with exit code 3."""

    def __init__(self, message, requested_by=None):
        """requested_by: name of the person who asked for it ("" where it is not known), None for a signal."""
        super().__init__(message)
        self.requested_by = requested_by
