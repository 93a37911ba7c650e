#!/usr/bin/env bash
# Runs the speed measurements, python -m benchmarks.X for every benchmarks/X.py, or only the one in BENCHMARK; `make bench`.
set -uo pipefail
cd -- "$MTC_HOME" || exit 1

status=0
found=
for file in benchmarks/*.py; do
    name=$(basename -- "$file" .py)
    [ -f "$file" ] && [ "$name" != __init__ ] || continue
    found+=" $name"
    [ "${BENCHMARK:-$name}" = "$name" ] || continue
    echo "--- $name"
    "$MTC_PYTHON" -m "benchmarks.$name" || status=1
done
if [ -z "$found" ]; then
    echo "benchmarks/ holds no benchmark yet"
elif [ -n "${BENCHMARK:-}" ] && [[ "$found " != *" $BENCHMARK "* ]]; then
    echo "error: there is no benchmark $BENCHMARK; there are:$found" >&2
    status=2
fi
exit $status
