# Settings of this project's Airflow and training, for bash and zsh: `source scripts/env.sh`. The Makefile's recipes use it too.
#
# After it, `airflow dags trigger mtc_train` and `"$MTC_PYTHON" -m tasks.train` work in the same shell. What is set already stays as it is where
# a choice makes sense: MTC_PYTHON (the training interpreter), MTC_RUNS (where runs are kept), MTC_PORT (of the web page).

if [ -n "${BASH_VERSION:-}" ]; then
    MTC_HOME=${BASH_SOURCE[0]}
else
    eval 'MTC_HOME=${(%):-%x}' # zsh's name for the file that is being read; other shells could not parse it
fi
MTC_HOME=$(CDPATH= cd -- "$(dirname -- "$MTC_HOME")/.." && pwd)
export MTC_HOME
export MTC_PYTHON="${MTC_PYTHON:-$MTC_HOME/.venv-train/bin/python}"
export MTC_RUNS="${MTC_RUNS:-$MTC_HOME/runs}"
export MTC_PORT="${MTC_PORT:-8080}"

case ":$PATH:" in
    *":$MTC_HOME/.venv/bin:"*) ;;
    *) export PATH="$MTC_HOME/.venv/bin:$PATH" ;;
esac
case ":${PYTHONPATH:-}:" in
    *":$MTC_HOME:"*) ;;
    *) export PYTHONPATH="$MTC_HOME${PYTHONPATH:+:$PYTHONPATH}" ;;
esac

export AIRFLOW_HOME="$MTC_HOME/.airflow"
export AIRFLOW__CORE__DAGS_FOLDER="$MTC_HOME/dags"
export AIRFLOW__CORE__PLUGINS_FOLDER="$MTC_HOME/plugins"
export AIRFLOW__CORE__LOAD_EXAMPLES=False

# The web page and the API that tasks report to: this machine only.
export AIRFLOW__API__HOST=127.0.0.1
export AIRFLOW__API__PORT="$MTC_PORT"
export AIRFLOW__API__BASE_URL="http://127.0.0.1:$MTC_PORT"
export AIRFLOW__CORE__EXECUTION_API_SERVER_URL="http://127.0.0.1:$MTC_PORT/execution/"
export AIRFLOW__API__WORKERS=1
export AIRFLOW__CORE__PARALLELISM=4 # the default forks 32 workers

# A training takes days. With Airflow's defaults an API server that is away for half a minute kills it; both settings are needed.
export AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS=120
export AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT=1800
# How soon a restarted scheduler takes up the tasks of the one before, and how soon an edited DAG file is seen (default of both: 300 s).
export AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL=30
export AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL=30

export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}" # TensorFlow's remarks about the CPU and missing CUDA say nothing about a run
# Their small files, which would else appear in the home folder.
export KERAS_HOME="${KERAS_HOME:-$MTC_HOME/.setup/keras}"
export MPLCONFIGDIR="${MPLCONFIGDIR:-$MTC_HOME/.setup/matplotlib}"
