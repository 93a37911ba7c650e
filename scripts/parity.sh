#!/usr/bin/env bash
# Compares this code with a folder of golden numbers on every TensorFlow that is set up; `make parity GOLDEN=DIR`. Exit code 1: a mismatch, 2: no such folder.
set -uo pipefail
cd -- "$MTC_HOME" || exit 1

golden=$1
[ -d "$golden" ] || { echo "error: there is no folder $golden: say make parity GOLDEN=/path/to/golden" >&2; exit 2; }

status=0
"$MTC_PYTHON" -m test.parity --golden "$golden" || status=1
if [ -f .venv-train2/.mtc-tests ]; then
    .venv-train2/bin/python -m test.parity --golden "$golden" || status=1
fi
exit $status
