#!/usr/bin/env bash
# Measures speed and memory against the reference's shape, python -m benchmarks.bench; `make bench`. Arguments go to it; DATA=folder: real images.
set -uo pipefail
cd -- "$MTC_HOME" || exit 1

exec "$MTC_PYTHON" -m benchmarks.bench ${DATA:+--data "$DATA"} "$@"
