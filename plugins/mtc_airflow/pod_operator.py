"""A step in a pod of its own on Kubernetes, which hands out the devices: for the steps that compute on one, where `MTC_DEVICE_POD` names a template.

Same contract as `step_operator`. The run directory is on a volume that workers, API server and pod share at the same path, so the Training page, the
step's record and the trainer's lock work as they do without pods. A try that finds the pod of an earlier one follows it (Airflow's own "durable").
Stopping deletes the pod with the grace period of its template: the trainer gets SIGTERM, saves and leaves. Needs the provider cncf.kubernetes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.providers.cncf.kubernetes.callbacks import KubernetesPodOperatorCallback
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import NEVER_EXPIRE
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from mtc_airflow import assets, endings, params, run_directory, step_operator

log = logging.getLogger(__name__)

CONTAINER = "mtc"
"""Name of the container in the template; its `command` is the training interpreter of its image."""
WAIT_FOR_DEVICE, WAIT_FOR_IMAGE = 7 * 24 * 3600, 3600
"""Seconds that a pod may wait for a node with a free device, and for its image."""


class PodStepOperator(KubernetesPodOperator):
    """Run `<command of the template> -m tasks.<command> --config … --run-dir …` in a pod.

    :param command: the module below `tasks` and its words; the step's record has the same name, with underscores.
    :param template: path of the pod template, such as deploy/kubernetes/pod-nvidia.yaml.
    :param options: further options of the command.
    """

    def __init__(self, *, command: str, template: str, options: Sequence[str] = (), choose=params.of_form, **kwargs: Any):
        super().__init__(
            pod_template_file=template, base_container_name=CONTAINER, get_logs=True, durable=True,
            schedule_timeout_seconds=WAIT_FOR_DEVICE, startup_timeout_seconds=WAIT_FOR_IMAGE,
            on_finish_action="delete_succeeded_pod", do_xcom_push=False, log_pod_spec_on_failure=False, **kwargs,
        )  # fmt: skip
        self.command = command
        self.options = options
        self.choose = choose

    def execute(self, context):
        """Start or find the pod, follow it to its end, and judge how it ended."""
        module, *words = self.command.split()
        run_dir = run_directory.run_directory(context["dag"].dag_id, context["run_id"])
        self.arguments = ["-m", f"tasks.{module}", *words, *self.choose(context), "--run-dir", str(run_dir), *self.options]
        self.callbacks = [_Progress(context.get("task_state_store"), run_dir)]
        try:
            super().execute(context)
        except AirflowException as error:
            raise self._failure(run_dir, error) from error
        if self._killed:
            raise self._failure(run_dir, AirflowException("stopped"))
        unchanged = (self._record(run_dir).get("unchanged") or {}).get("reason")
        result = {"run_dir": str(run_dir), "figures": run_directory.small_figures(run_dir, self._step)}
        context["ti"].xcom_push(key="return_value", value=result)  # Airflow does it itself only with a second container in the pod
        if unchanged:
            raise AirflowSkipException(f"nothing to do: {unchanged}")
        assets.tell(context, self.outlets, result)
        return result

    @property
    def _step(self) -> str:
        return self.command.replace(" ", "_")

    def _record(self, run_dir: Path) -> dict[str, Any]:
        """What the step has written of itself; {} where it has not, and what is there is an earlier try's."""
        if self.remote_pod is None:
            return {}
        job = {"prefix": str(run_dir / "logs" / self.task_id), "started": self.remote_pod.metadata.creation_timestamp.timestamp()}
        return run_directory.own_record(job, self._step)

    def _failure(self, run_dir, error: AirflowException) -> AirflowException:
        """What to raise for a pod that has failed."""
        record = self._record(run_dir)
        code = _exit_code(self.remote_pod)
        if code is None and not record:  # it never ran: no such image, no such volume, no room for it
            return endings.StepFailed(str(error))
        why = str(record.get("error") or "") if record.get("status") != "success" else ""
        sentence = endings.sentence(self.task_id, code, why, "see the log above")
        return endings.failure(sentence, code, stopping=self._killed, requested_by=record.get("requested_by"))


class _Progress(KubernetesPodOperatorCallback):
    """Puts step, loss and time to go into the task state store while the pod's output is followed."""

    def __init__(self, store, run_dir: Path):
        self._store, self._run_dir, self._last = store, run_dir, time.monotonic()

    def progress_callback(self, *, line: str, **kwargs) -> None:
        """Called for each line of output."""
        if self._store is None or time.monotonic() - self._last < step_operator.OFFSET_SECONDS:
            return
        self._last = time.monotonic()
        found = run_directory.progress(self._run_dir)
        try:
            if found:
                self._store.set("progress", found, retention=NEVER_EXPIRE)
        except Exception as error:
            log.warning("Airflow's server does not take the progress: %s", error)


def _exit_code(pod) -> int | None:
    """The exit code of the step's container; None where it has none."""
    for status in (getattr(getattr(pod, "status", None), "container_statuses", None) or []) if pod is not None else []:
        if status.name == CONTAINER and status.state and status.state.terminated:
            return status.state.terminated.exit_code
    return None
