"""Errors that carry a decision: whose mistake it was and what the exit code of a command is.

`UserError` is raised at the boundary (config, files, URLs) with one sentence that names the file, field and value, what was
expected and what to do. `Stopped` means that a signal asked the run to end and that everything was saved. All other exceptions are bugs
or failures of the machine.
"""


class UserError(Exception):
    """Bad input: the message is one clear sentence for the person who gave it. Commands end with exit code 2."""


class Stopped(Exception):
    """A signal ended the run after its state was saved. Commands end with exit code 3."""
