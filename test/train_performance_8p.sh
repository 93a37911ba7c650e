#!/usr/bin/env bash
# Its first 99 steps on eight devices (RANK_SIZE): bash test/train_performance_8p.sh --data_path=DIR --rank_table=FILE (docs/scripts.md).
KIND=perf RANKS=8 SCRIPT=train_performance_8p.sh
# shellcheck source=test/train_case.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/train_case.sh"
