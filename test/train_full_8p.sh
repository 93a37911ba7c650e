#!/usr/bin/env bash
# The full fine-tune on eight devices (RANK_SIZE): bash test/train_full_8p.sh --data_path=DIR --rank_table=FILE (docs/scripts.md).
KIND=acc RANKS=8 SCRIPT=train_full_8p.sh
# shellcheck source=test/train_case.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/train_case.sh"
