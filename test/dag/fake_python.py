"""Stands in for the training interpreter: `fake_python.py -m tasks.X …` honours the step contract and does as the test's plan says.

The plan is a JSON file beside the runs, {"train": ["fail", "ok"]}: one word for each start of a step, "ok" when none is left. Every start is noted
in starts.jsonl.
"""

import json
import os
import signal
import sys
import time


def main():
    words = sys.argv[2:]
    record = ""
    if words[0] == "tasks.launch":
        launcher, words = words[1 : words.index("--")], ["tasks.train"] + words[words.index("--") + 1 :]
        record = launcher[launcher.index("--record") + 1] if "--record" in launcher else ""
    step = record or "_".join([words[0].split(".")[1], *(w for w in words[1:2] if not w.startswith("--"))])
    run_dir = words[words.index("--run-dir") + 1]
    stopped = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    started = time.time()
    home = os.environ["MTC_RUNS"]
    with open(os.path.join(home, "starts.jsonl"), "a+") as notes:
        notes.seek(0)
        earlier = [json.loads(line)["step"] for line in notes].count(step)
        notes.write(json.dumps({"step": step, "pid": os.getpid(), "argv": sys.argv, "environ": dict(os.environ), "cwd": os.getcwd()}) + "\n")
    with open(os.path.join(home, "plan.json")) as f:
        plan = json.load(f).get(step, [])
    act = plan[earlier] if earlier < len(plan) else "ok"

    def end(code, status, **more):
        os.makedirs(os.path.join(run_dir, "steps"), exist_ok=True)
        shard = "_shard_{}_of_{}".format(*words[words.index("--shard") + 1].split("/")) if "--shard" in words else ""
        path = os.path.join(run_dir, "steps", step + shard + ".json")
        with open(path + ".tmp", "w") as f:
            json.dump({"v": 1, "step": step, "status": status, "started": started, **more}, f)
        os.replace(path + ".tmp", path)
        sys.exit(code)

    print("10%\r50%\rstep " + step + " begins", flush=True)
    if act == "user_error":
        print("error: train.steps=0: must be above 0", file=sys.stderr)
        end(2, "user_error", error="train.steps=0: must be above 0")
    if act == "fail":
        end(1, "failed", error="RuntimeError: the disk is on fire")
    if act == "trained":
        end(0, "success", figures={"step": 600, "loss": 0.5, "uploaded": "file:///storage/r/checkpoints/step-00000600", "checkpoint": "/r/c"})
    if act == "unchanged":
        end(0, "success", unchanged={"time": started, "reason": "another run has done it"}, figures={"answer": 41})
    if act == "asked":
        end(3, "stopped", error="stopped by alice at step 3; saved it", requested_by="alice")
    if act == "wait":  # runs until it is stopped, or released by the test; saving takes its time
        while not stopped and not os.path.exists(os.path.join(home, "release")):
            time.sleep(0.05)
        if stopped:
            os.makedirs(run_dir, exist_ok=True)
            while os.path.exists(os.path.join(home, "slow_save")):
                time.sleep(0.05)
            with open(os.path.join(run_dir, "checkpoint"), "w") as f:
                f.write("saved")
            end(3, "stopped", error="SIGTERM")
    if step == "report":
        scores = {"0.1": 0.5, "0.2": 0.75}
        loss = {"last_mean": 0.001, "last_mean_2d": 0.001, "baseline_2d": 0.002, "last_mean_pof": 0.0, "baseline_pof": None}
        report = {"loss": loss, "pck": {"trained": scores, "untrained": scores, "mean_pose": scores}}
        report.update(throughput={"images_per_second": 12.5}, warnings=["few samples"])
        with open(os.path.join(run_dir, "report.json"), "w") as f:
            json.dump(report, f)
    print("no newline at the end", end="", flush=True)
    end(0, "success", figures={"answer": 42, "long": "x" * 5000})


if __name__ == "__main__":
    main()
