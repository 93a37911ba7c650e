"""A step in a pod of its own on Kubernetes, which hands out the devices: for the steps that compute on one, where `MTC_DEVICE_POD` names a template.

Same contract as `step_operator`. The run directory is on a volume that workers, API server and pod share at the same path, so the Training page, the
step's record and the trainer's lock work as they do without pods. A try that finds the pod of an earlier one follows it (Airflow's own "durable").
Stopping deletes the pod with the grace period of its template: the trainer gets SIGTERM, saves and leaves. Needs the provider cncf.kubernetes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.callbacks import KubernetesPodOperatorCallback
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException

from mtc_airflow import endings, params, run_directory, step_operator

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
    :param record: the name of the step's record, where it has another one.
    """

    def __init__(self, *, command: str, template: str, options: Sequence[str] = (), record: str = "", choose=params.of_form, **kwargs: Any):
        super().__init__(
            pod_template_file=template, base_container_name=CONTAINER, get_logs=True, durable=True,
            schedule_timeout_seconds=WAIT_FOR_DEVICE, startup_timeout_seconds=WAIT_FOR_IMAGE,
            on_finish_action="delete_succeeded_pod", do_xcom_push=False, log_pod_spec_on_failure=False, **kwargs,
        )  # fmt: skip
        self.command = command
        self.options = options
        self.record = record
        self.choose = choose

    def execute(self, context):
        """Start or find the pod, follow it to its end, and judge how it ended."""
        self.arguments = step_operator.words(self.command, self.choose, context, self.options)
        self.callbacks = [_Progress(context, self.command)]
        try:
            super().execute(context)
        except AirflowException as error:
            raise self._failure(context, error) from error
        if self._killed:
            raise self._failure(context, AirflowException("stopped"))
        result = step_operator.result_of(context, self._step)
        context["ti"].xcom_push(key="return_value", value=result)  # Airflow does it itself only with a second container in the pod
        return endings.success(context, self.outlets, result, self._record(context))

    @property
    def _step(self) -> str:
        return self.record or self.command.replace(" ", "_")

    def _record(self, context) -> dict[str, Any]:
        """What the step has written of itself."""
        if self.remote_pod is None:
            return {}
        started = self.remote_pod.metadata.creation_timestamp.timestamp()
        return run_directory.record_since(step_operator.run_dir_of(context), self._step, started)

    def _failure(self, context, error: AirflowException) -> AirflowException:
        """What to raise for a pod that has failed."""
        record, code = self._record(context), _exit_code(self.remote_pod)
        if code is None and not record:  # it never ran: no such image, no such volume, no room for it
            return endings.StepFailed(str(error))
        why = str(record.get("error") or "") if record.get("status") != "success" else ""
        sentence = endings.sentence(self.task_id, code, why, "see the log above")
        return endings.failure(sentence, code, stopping=self._killed, requested_by=record.get("requested_by"))


class _Progress(KubernetesPodOperatorCallback):
    """Puts step, loss and time to go into the task state store while the pod's output is followed."""

    def __init__(self, context, command: str):
        self._context, self._command, self._last = context, command, time.monotonic()

    def progress_callback(self, *, line: str, **kwargs) -> None:
        """Called for each line of output."""
        store = self._context.get("task_state_store")
        if store is not None and time.monotonic() - self._last > step_operator.OFFSET_SECONDS:
            self._last = time.monotonic()
            step_operator.remember(store, log, self._context, self._command)


def _exit_code(pod) -> int | None:
    """The exit code of the step's container; None where it has none."""
    statuses = pod.status.container_statuses if pod is not None and pod.status else None
    for status in statuses or []:
        if status.name == CONTAINER and status.state and status.state.terminated:
            return status.state.terminated.exit_code
    return None
