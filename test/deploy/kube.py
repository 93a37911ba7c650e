"""The part of Kubernetes' API that pods need, with processes of this machine as containers.

A pod is checked against Kubernetes' own schema, strictly, before it is accepted. Its container "mtc" becomes a process: the program of this test in
place of the first word of its command, its arguments, its environment. Deleting sends SIGTERM, and SIGKILL after the grace period, as a kubelet does.
"""

import contextlib
import datetime
import http.server
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.parse
import uuid

import kubernetes_validate

from test.dag.conftest import ROOT

PODS = re.compile(r"/api/v1/namespaces/([a-z0-9-]+)/pods(?:/([a-z0-9.-]+)(?:/(log))?)?")


class Cluster:
    """A server of one node. Use as a context manager; `requests` has what was asked of it, `pods` all pods by name; it takes no pod while `refusal`
    says why."""

    def __init__(self, folder, python):
        self.folder, self.python = folder, python
        self.pods, self.processes, self.requests = {}, {}, []
        self.refusal = None
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self):
                cluster.serve(self)

            do_GET = do_POST = do_PATCH = do_DELETE = _serve

            def log_message(self, *words):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.kubeconfig = folder / "kubeconfig"
        url = f"http://127.0.0.1:{self._server.server_port}"
        document = {"apiVersion": "v1", "kind": "Config", "current-context": "test"}
        document["clusters"] = [{"name": "test", "cluster": {"server": url}}]
        document["contexts"] = [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}]
        document["users"] = [{"name": "test", "user": {}}]
        self.kubeconfig.write_text(json.dumps(document))

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()
        for process in self.processes.values():
            process.kill()
            process.wait()

    # ---- the API

    def serve(self, request):
        path = urllib.parse.urlsplit(request.path)
        query = {key: values[-1] for key, values in urllib.parse.parse_qs(path.query).items()}
        body = json.loads(request.rfile.read(int(request.headers.get("Content-Length") or 0)) or "null")
        self.requests.append((request.command, request.path, body))
        found = PODS.fullmatch(path.path)
        if path.path.endswith("/events"):
            return _answer(request, 200, {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": []})
        if not found:
            return _answer(request, 404, _status(404, path.path))
        _, name, log = found.groups()
        if request.command == "POST":
            return self._create(request, body)
        if name is None:
            items = [self._seen(n) for n in sorted(self.pods) if _matches(self.pods[n], query.get("labelSelector", ""))]
            return _answer(request, 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
        if name not in self.pods:
            return _answer(request, 404, _status(404, f'pods "{name}" not found'))
        if log:
            return self._log(request, name, follow=query.get("follow") in ("true", "True"))
        if request.command == "PATCH":
            self.pods[name]["metadata"]["labels"].update(body.get("metadata", {}).get("labels", {}))
        if request.command == "DELETE":
            self._delete(name, query, body)
        return _answer(request, 200, self._seen(name) if name in self.pods else _status(200, ""))

    def _create(self, request, pod):
        if self.refusal:
            return _answer(request, 403, _status(403, self.refusal))
        try:
            kubernetes_validate.validate(pod, "1.37", strict=True)
        except kubernetes_validate.ValidationError as error:
            return _answer(request, 422, _status(422, str(error)))
        name = pod["metadata"]["name"]
        pod["metadata"].update(creationTimestamp=_now(), uid=str(uuid.uuid4()), resourceVersion="1")
        self.pods[name] = pod
        container = next(c for c in pod["spec"]["containers"] if c["name"] == "mtc")
        environ = {"PATH": os.environ["PATH"], **{e["name"]: e["value"] for e in container.get("env", []) if "value" in e}}
        environ.update(PYTHONPATH=str(ROOT), MTC_RUNS=os.environ["MTC_RUNS"])
        with open(self.folder / f"{name}.log", "wb") as output:
            self.processes[name] = subprocess.Popen(
                [str(self.python), *container["args"]],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return _answer(request, 201, self._seen(name))

    def _delete(self, name, query, body):
        seconds = int(
            query.get("gracePeriodSeconds") or (body or {}).get("gracePeriodSeconds") or self.pods[name]["spec"]["terminationGracePeriodSeconds"]
        )
        self.pods[name]["metadata"].update(deletionTimestamp=_now(), deletionGracePeriodSeconds=seconds)
        process = self.processes[name]

        def end():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
            time.sleep(1.0)  # a moment in which the pod is terminated and can still be seen
            self.pods.pop(name, None)

        threading.Thread(target=end, daemon=True).start()

    def _log(self, request, name, follow):
        request.send_response(200)
        request.send_header("Content-Type", "text/plain")
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        with open(self.folder / f"{name}.log", "rb") as output:
            while True:
                ended = self.processes[name].poll() is not None
                for line in output:
                    _chunk(request, f"{_now(fine=True)} ".encode() + line.rstrip(b"\n") + b"\n")
                if ended or not follow:
                    break
                time.sleep(0.05)
        with contextlib.suppress(OSError):
            request.wfile.write(b"0\r\n\r\n")

    def _seen(self, name):
        """The pod with its status of this moment."""
        pod, code = self.pods[name], self.processes[name].poll()
        started = pod["metadata"]["creationTimestamp"]
        if code is None:
            phase, state = "Running", {"running": {"startedAt": started}}
        else:
            code = 128 - code if code < 0 else code
            phase, reason = ("Succeeded", "Completed") if code == 0 else ("Failed", "Error")
            state = {"terminated": {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": _now(), "containerID": "c"}}
        container = {"name": "mtc", "image": "mtc", "imageID": "mtc", "ready": code is None, "restartCount": 0, "state": state}
        return {**pod, "status": {"phase": phase, "startTime": started, "containerStatuses": [container]}}


def _matches(pod, selector):
    labels = pod["metadata"]["labels"]
    for term in filter(None, selector.split(",")):
        if term.startswith("!"):
            fits = term[1:] not in labels
        elif "!=" in term:
            key, value = term.split("!=")
            fits = labels.get(key) != value
        else:
            key, value = term.replace("==", "=").split("=")
            fits = labels.get(key) == value
        if not fits:
            return False
    return True


def _status(code, message):
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure" if code >= 400 else "Success", "message": message, "code": code}


def _answer(request, code, document):
    body = json.dumps(document).encode()
    request.send_response(code)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def _chunk(request, data):
    with contextlib.suppress(OSError):
        request.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        request.wfile.flush()


def _now(fine=False):
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds" if fine else "seconds").replace("+00:00", "Z")
