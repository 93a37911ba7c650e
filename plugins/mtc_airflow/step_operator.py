"""The operator of every task: runs one step of the project as a command in the training interpreter.

A try that finds the command of an earlier one still running goes on with it (Airflow's resumable-job machinery, `detached`), so a lost worker or a
restart of Airflow costs a training nothing. Exit codes are those of the step contract: 0 success, shown as skipped where the step found its work
done; 2 a user's mistake, not retried; 3 stopped after saving, not retried where somebody asked for it on the Training page; anything else is retried,
and the step resumes from what it saved.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import NEVER_EXPIRE, BaseOperator, ResumableJobMixin
from airflow.sdk.exceptions import AirflowFailException

from mtc_airflow import connections, detached, endings, environment, params, run_directory

POLL_SECONDS = 0.25
OFFSET_SECONDS = 15


class StepOperator(ResumableJobMixin, BaseOperator):
    """Run `python -m tasks.<command> --config … --set … --run-dir …` and return its small figures and its run directory.

    :param command: the module below `tasks` and its words: "train", "fetch coco". The step's record has the same name, with underscores.
    :param arguments: further options of the command.
    :param record: the name of the step's record, where the arguments give it another one.
    :param choose: function of the context that returns the words which say what to work on; the trigger form's, where it is not given.
    """

    external_id_key = "command"
    template_fields: Sequence[str] = ("arguments", "record")

    def __init__(self, *, command: str, arguments: Sequence[str] = (), record: str = "", choose=params.of_form, **kwargs: Any):
        super().__init__(**kwargs)
        self.command = command
        self.arguments = arguments
        self.record = record
        self.choose = choose
        self._job: Mapping[str, Any] | None = None
        self._offset = 0
        self._started_here = False
        self._stopping = self._asked = False

    def execute(self, context):
        """Start or find the command, follow it to its end, and judge how it ended."""
        try:
            result = self.execute_resumable(context)
        except KeyboardInterrupt:  # Ctrl-C in `airflow dags test`, which would count it as a failure and try again
            self.on_kill()
            with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C leaves it to itself while it saves
                self._follow_to_the_end(context)
            raise AirflowFailException(f"stopped by Ctrl-C: {self._ending()}") from None
        store = context.get("task_state_store")
        if store is not None:  # else clearing the finished task would bring back this result and run nothing
            store.delete(self.external_id_key)
            store.delete("log_offset")
        return endings.success(context, self.outlets, result, self._record())

    def on_kill(self) -> None:
        """Ask the command to save and leave. Airflow calls this from a signal handler and goes on after it."""
        self._stopping = True
        self._ask_to_leave()

    # ---- what ResumableJobMixin asks for

    def submit_job(self, context) -> dict[str, Any]:
        """Start the command, or adopt one that still runs though no try knows of it."""
        run_dir = run_dir_of(context)
        prefix = run_directory.log_prefix(run_dir, self.task_id, _map_index(context))
        old = detached.last(prefix)
        if old is not None and detached.status(old) == detached.RUNNING:
            self.log.info("the command of an earlier try still runs (process %s): following it", old["pid"])
            return old
        return self._start(context, prefix)

    def get_job_status(self, external_id, context) -> str:
        """`detached.status` of the job, as text."""
        return str(detached.status(external_id))

    def is_job_active(self, status: str) -> bool:
        """Whether to go on with a job instead of starting another."""
        return status == detached.RUNNING

    def is_job_succeeded(self, status: str) -> bool:
        """Whether the command ended well while nobody looked."""
        return status == "0"

    def poll_until_complete(self, external_id, context):
        """Copy the command's output to the task log until it ends; return the result, or raise what Airflow should make of the exit code."""
        self._job = external_id
        if self._stopping:  # the signal came before there was a job to stop
            self._ask_to_leave()
        self._offset = self._first_offset(context)
        code = self._follow_to_the_end(context)
        if code == endings.STOPPED and not self._started_here and not self._stopping:
            # An earlier try was stopped (cleared, timed out) and its command was still saving when this one began.
            self.log.info("the command of an earlier try has saved and left: starting again from there")
            job = self._start(context, Path(external_id["prefix"]))
            if context.get("task_state_store") is not None:
                context["task_state_store"].set(self.external_id_key, job)
            code = self._follow_to_the_end(context)
        if code == 0:
            return self.get_job_result(self._job, context)
        raise endings.failure(self._ending(), code, stopping=self._stopping, requested_by=self._record().get("requested_by"))

    def get_job_result(self, external_id, context) -> dict[str, Any]:
        """{"run_dir": …, "figures": …} for the tasks that follow."""
        return result_of(context, self._step)

    # ----

    @property
    def _step(self) -> str:
        return self.record or self.command.replace(" ", "_")

    def _record(self) -> dict[str, Any]:
        """What the command has written of itself."""
        return run_directory.own_record(self._job, self._step) if self._job else {}

    def _start(self, context, prefix: Path) -> dict[str, Any]:
        python = str(environment.training_python())
        if not os.access(python, os.X_OK):
            raise AirflowFailException(f"the training interpreter {python} is missing: run `make setup`, or set MTC_PYTHON")
        command = [python, *words(self.command, self.choose, context, self.arguments)]
        self.log.info("%s", shlex.join(command))
        environ = {**environment.clean_environment(), **connections.of_storage(self.log)}
        home = str(environment.airflow_home())
        job = detached.start(command, prefix=prefix, cwd=environment.project(), env=environ, owner=home, step=self._step)
        self._job, self._started_here, self._asked = job, True, False
        if self._stopping:  # the signal came while the command was being started
            self._ask_to_leave()
        return job

    def _ask_to_leave(self) -> None:
        """Send SIGTERM, once: a second one could disturb the saving."""
        if self._job is not None and not self._asked:
            self._asked = True
            self.log.warning("stopping %s: it saves and leaves", self.task_id)
            detached.stop(self._job)

    def _first_offset(self, context) -> int:
        """Where to begin in the output: after what an earlier try has copied to its log."""
        store = context.get("task_state_store")
        if self._started_here or store is None:
            return self._job["offset"]
        return max(self._job["offset"], store.get("log_offset", default=0) or 0)

    def _follow_to_the_end(self, context) -> str | int:
        """Copy new output to the task log until the command has ended; return its status."""
        if self._job is None:
            return detached.LOST
        store, remembered = context.get("task_state_store"), time.monotonic()
        with open(f"{self._job['prefix']}.log", "rb") as output:
            while True:
                status = detached.status(self._job)  # before reading: what it prints last is read after it has ended
                self._offset = _copy_lines(output, self._offset, self.log.info, whole=status != detached.RUNNING)
                if status != detached.RUNNING:
                    return status
                if store is not None and time.monotonic() - remembered > OFFSET_SECONDS:  # each write is a request to the API server
                    remember(store, self.log, context, self.command, log_offset=self._offset)
                    remembered = time.monotonic()
                time.sleep(POLL_SECONDS)

    def _ending(self) -> str:
        """One sentence on how the command ended."""
        if self._job is None:
            return f"{self.task_id} had not started"
        code, where = detached.status(self._job), f"see {self._job['prefix']}.log"
        if code == detached.RUNNING:
            return f"{self.task_id} is still saving; {where}"
        return endings.sentence(self.task_id, None if code == detached.LOST else code, run_directory.error(self._job, self._step), where)


def words(command: str, choose, context, arguments: Sequence[str]) -> list[str]:
    """The command line of a step, after its interpreter."""
    module, *more = command.split()
    told = [*more, *choose(context), "--run-dir", str(run_dir_of(context)), *arguments]
    if command != "train":
        return ["-m", f"tasks.{module}", *told]
    machine = max(0, _map_index(context) + 1)  # the first has a task of its own, the others are mapped
    launcher = params.launcher(context["params"], run_dir_of(context), machine)
    return ["-m", "tasks.launch", *launcher, *told] if launcher else ["-m", "tasks.train", *told]


def result_of(context, step: str) -> dict[str, Any]:
    """What a task returns: {"run_dir": …, "figures": …} for the tasks that follow."""
    run_dir = run_dir_of(context)
    return {"run_dir": str(run_dir), "figures": run_directory.small_figures(run_dir, step)}


def remember(store, log, context, command: str, **values: Any) -> None:
    """Keep values in the task's store for another try, and a training's progress for people. The server may be away: the training is not."""
    try:
        for name, value in values.items():
            store.set(name, value, retention=NEVER_EXPIRE)
        progress = run_directory.progress(run_dir_of(context)) if command == "train" else {}
        if progress:
            store.set("progress", progress, retention=NEVER_EXPIRE)
    except Exception as error:
        log.warning("Airflow's server does not take the progress: %s", error)


def _map_index(context) -> int:
    index = getattr(context.get("ti"), "map_index", -1)
    return -1 if index is None else index


def run_dir_of(context) -> Path:
    """The run directory of a task's run."""
    return run_directory.run_directory(context["dag"].dag_id, context["run_id"])


def _copy_lines(output, offset: int, write: Callable[..., None], *, whole: bool) -> int:
    """Write the lines from `offset` on; an unfinished last one waits, unless the `whole` rest is due. Returns the offset reached."""
    output.seek(offset)
    for line in output:
        if not (line.endswith(b"\n") or whole):
            break
        write("%s", run_directory.shown(line))
        offset += len(line)
    return offset
