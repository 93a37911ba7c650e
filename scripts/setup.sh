#!/usr/bin/env bash
# Makes the project's environments: .venv (Airflow) and .venv-train (training); `make setup`. Quick when nothing has changed.
#
#   scripts/setup.sh            both environments
#   scripts/setup.sh --deploy   and .venv-deploy: Airflow with PostgreSQL, Celery, FAB, Kubernetes and S3, for more than one machine (docs/deploy.md)
#   scripts/setup.sh --tests    and the test tools; .venv-train2: TensorFlow 2, to test on both TensorFlows where .venv-train has TensorFlow 1.15; and
#                               .venv-deploy, where the servers that its tests start are on this machine
#
# MTC_PYTHON_AIRFLOW   the Python for Airflow (3.10 to 3.14); else 3.11 or the next best that is found
# MTC_PYTHON37         the Python 3.7 for training; "none": TensorFlow 2 even if there is a 3.7; "auto": look for one. Remembered until it is set anew.
# MTC_PYTHON           an interpreter that has the training packages already (a container of CANN's, say): used as it is, no .venv-train is made
set -uo pipefail
MTC_HOME=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd) && cd -- "$MTC_HOME" || exit 1
source scripts/interpreters.sh
source scripts/venv.sh

case "${1:-}" in
    "") tests=no deploy=no ;;
    --deploy) tests=no deploy=yes ;;
    --tests)
        tests=yes deploy=yes
        servers_missing >/dev/null && deploy=no
        ;;
    *) fail "scripts/setup.sh takes --tests, --deploy or nothing, not $1" ;;
esac
# What users set for their own programs must not reach into the environments that are made here: pip would take CANN's packages on PYTHONPATH for installed.
pythonpath=${PYTHONPATH:-}
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off PIP_NO_INPUT=1 PIP_REQUIRE_VIRTUALENV=0 TF_CPP_MIN_LOG_LEVEL=3
export KERAS_HOME=$MTC_HOME/$LOG_DIR/keras MPLCONFIGDIR=$MTC_HOME/$LOG_DIR/matplotlib
unset PIP_TARGET PIP_PREFIX PIP_USER PIP_CONSTRAINT

mkdir -p "$LOG_DIR" 2>/dev/null || fail "$MTC_HOME cannot be written: clone the project to a folder of yours"
trap 'printf "\ninterrupted: run make setup again, it goes on with the first environment that is not whole\n" >&2; exit 130' INT TERM
if command -v flock >/dev/null; then
    exec 9>"$LOG_DIR/lock"
    flock -n 9 || { echo "another make setup is running here: waiting for it"; flock 9; }
fi

started=$SECONDS
log=$LOG_DIR/setup.log
reason=
# Without a wish, an environment keeps the interpreter that it has, whatever PATH is today.
{ [ -z "${MTC_PYTHON_AIRFLOW:-}" ] && airflow=$(interpreter_of .venv); } || airflow=$(find_airflow_python) || fail "$airflow"
build_venv .venv "$airflow" requirements/airflow-py311.lock -e 800 || fail ".venv could not be made: $reason"

if [ "$deploy" = yes ]; then
    build_venv .venv-deploy "$airflow" requirements/deploy-py311.lock -e 1500 requirements/deploy.txt || fail ".venv-deploy could not be made: $reason"
fi

# --- the front end of the Training page
if ! missing=$(PYTHONPATH=plugins .venv/bin/python -m mtc_airflow.training_page.vendor 2>&1); then
    echo "The Training page will show tables instead of charts: $(tail -n 1 <<<"$missing"). Run make setup again where the npm registry can be reached."
fi

# --- the training interpreter: the user's own, else Python 3.7, else the one of Airflow
own=${MTC_PYTHON:-}
[ "$own" = "$MTC_HOME/.venv-train/bin/python" ] && own=
remembered() { sed -n "s/^$1 //p" "$LOG_DIR/choice" 2>/dev/null; }
request=${MTC_PYTHON37:-$(remembered request)}
request=${request:-auto}
refused=
[ -n "${MTC_PYTHON37:-}" ] || refused=$(remembered refused)
train=
why=
case $request in
    none) why="MTC_PYTHON37=none asks for it" ;;
    auto)
        train=$(interpreter_of .venv-train) && [ "$(minor_of "$train")" = 3.7 ] || train=$(find_version 3.7)
        if [ -n "$train" ] && [ "$train" = "$refused" ]; then
            why=$(remembered why)
            train=
        elif [ -n "$train" ]; then
            why="Python 3.7 was found at $(path_of "$train"), and TensorFlow 1.15.0, the version of Ascend 910, runs on it"
        else
            why="no Python 3.7 was found, which TensorFlow 1.15.0 needs (MTC_PYTHON37=/path/to/python3.7 names one)"
        fi
        ;;
    *)
        train=$(probe "$request") || fail "MTC_PYTHON37=$request does not run: name a Python 3.7, or set MTC_PYTHON37=auto to look for one, or none for TensorFlow 2"
        [ "$(minor_of "$train")" = 3.7 ] || fail "MTC_PYTHON37=$request is Python $(version_of "$train"): name a Python 3.7, or set MTC_PYTHON37=none for TensorFlow 2"
        can_make_venv "$(path_of "$train")" || fail "$(without_venv "$train")"
        why="MTC_PYTHON37=$request names it"
        ;;
esac
if [ -n "$own" ]; then
    : >"$log"
    run "MTC_PYTHON=$own: does it work?" env PYTHONPATH="$pythonpath" "$own" scripts/check_training.py ||
        fail "MTC_PYTHON=$own does not have what training needs: $(tail -n 1 "$log"); install it there, or unset MTC_PYTHON to have .venv-train made"
    why="MTC_PYTHON names it"
    train=
elif [ -n "$train" ] && ! build_venv .venv-train "$train" requirements/train-py37.lock -v 3000; then
    [ "$request" = auto ] || fail ".venv-train could not be made on MTC_PYTHON37=$request: $reason"
    why="Python 3.7 is at $(path_of "$train"), but there is $reason"
    refused=$train
    train=
fi
if [ -z "$own" ] && [ -z "$train" ]; then
    build_venv .venv-train "$airflow" requirements/train-py311.lock -v 3500 || fail ".venv-train could not be made: $reason"
fi
printf 'request %s\nwhy %s\nrefused %s\n' "$request" "$why" "$refused" >"$LOG_DIR/choice"

# --- what the tests need
if [ "$tests" = yes ]; then
    add_test_tools .venv "$airflow" requirements/test-airflow-py311.lock
    [ "$deploy" = no ] || add_test_tools .venv-deploy "$airflow" requirements/test-deploy-py311.lock
    if [ -n "$train" ]; then
        add_test_tools .venv-train "$train" requirements/test-train-py37.lock
        build_venv .venv-train2 "$airflow" requirements/train-py311.lock -v 3500 || fail ".venv-train2 could not be made: $reason"
        add_test_tools .venv-train2 "$airflow" requirements/test-train-py311.lock
    elif [ -z "$own" ]; then
        add_test_tools .venv-train "$airflow" requirements/test-train-py311.lock
    fi
fi

# --- what there is now
echo "Set up in $((SECONDS - started)) s: Airflow $(cat .venv/.mtc-versions) in .venv, on Python $(version_of "$airflow")"
[ "$deploy" = no ] || echo "For several machines: Airflow $(cat .venv-deploy/.mtc-versions) with PostgreSQL, Celery, FAB, Kubernetes and S3, in .venv-deploy"
if [ -n "$own" ]; then
    training=$own
    echo "Training: $(tail -n 1 "$log"), in $own"
else
    training=.venv-train/bin/python
    echo "Training: $(cat .venv-train/.mtc-versions), in .venv-train"
fi
echo "          because $why"
if PYTHONPATH=$pythonpath "$training" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("npu_bridge") is None)' 2>/dev/null; then
    echo "          npu_bridge is there: train.device=npu trains on Ascend"
fi
[ "$tests" = yes ] || echo "Next: make demo (the whole job in minutes), make airflow (the web page), or source scripts/env.sh and use airflow and \"\$MTC_PYTHON\" yourself"
