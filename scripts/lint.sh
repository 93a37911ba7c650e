#!/usr/bin/env bash
# Style, format, likely bugs and types of the Python code; `make lint`. All checks run, any finding makes it fail. Rules are in pyproject.toml.
set -uo pipefail
cd -- "$MTC_HOME" || exit 1

status=0
.venv/bin/ruff check . || status=1
.venv/bin/ruff format --check -q . || status=1
.venv/bin/mypy || status=1
for script in scripts/*.sh test/*.sh .ci/run; do
    bash -n "$script" || status=1
done
if command -v shellcheck >/dev/null; then
    shellcheck -x test/*.sh || status=1
fi
exit $status
