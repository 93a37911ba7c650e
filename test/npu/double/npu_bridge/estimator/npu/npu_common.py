"""Double of npu_bridge.estimator.npu.npu_common: who this process is, by the environment."""

import os


class NPUBasics:
    """Job and rank of a process; without JOB_ID there is no job behind it, and asking it is an AttributeError, as on the real stack."""

    def __init__(self, file_name=""):
        self._job = _Job() if os.environ.get("JOB_ID") else None

    @property
    def jobid(self):
        return self._job.job_id

    def size(self):
        """Return the number of ranks."""
        return self._job.rank_size()

    def rank(self):
        """Return this rank."""
        return self._job.rank_id()


class _Job:
    def __init__(self):
        self.job_id = os.environ["JOB_ID"]

    def rank_size(self):
        return int(os.environ.get("RANK_SIZE") or os.environ.get("CM_WORKER_SIZE") or 1)

    def rank_id(self):
        return int(os.environ.get("RANK_ID") or 0)
