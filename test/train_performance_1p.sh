#!/usr/bin/env bash
# Its first 99 steps, to measure speed: bash test/train_performance_1p.sh --data_path=DIR (docs/scripts.md).
KIND=perf RANKS=1 SCRIPT=train_performance_1p.sh
# shellcheck source=test/train_case.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/train_case.sh"
