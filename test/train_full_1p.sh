#!/usr/bin/env bash
# The reference's full fine-tune, steps 390001 to 399999, on one device: bash test/train_full_1p.sh --data_path=DIR (docs/scripts.md).
KIND=acc RANKS=1 SCRIPT=train_full_1p.sh
# shellcheck source=test/train_case.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/train_case.sh"
