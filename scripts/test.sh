#!/usr/bin/env bash
# Runs all test suites, one after another, and ends with one line that sums them up; `make test`. Arguments go to pytest.
#
# test/ without test/dag runs on every training environment, test/dag (about Airflow) in .venv. Counts come from pytest's own JUnit files; a suite that leaves
# none (a crash of the interpreter) counts as one failure.
set -uo pipefail
cd -- "$MTC_HOME" || exit 1

passed=0 failed=0 skipped=0 summary=
report=$(mktemp)
trap 'rm -f "$report"' EXIT
trap 'exit 130' INT TERM

# count KIND: a number from the suite's JUnit file; Python 3.7 writes its attributes in another order than newer ones.
count() {
    local head
    head=$(head -c 2000 "$report")
    [[ $head =~ \<testsuite\ [^\>]*$1=\"([0-9]+)\" ]] && echo "${BASH_REMATCH[1]}" || echo 0
}

# suite TITLE PYTHON PYTEST-ARGUMENTS...
suite() {
    local title=$1 python=$2 status started=$SECONDS
    shift 2
    printf '\n--- %s\n' "$title"
    : >"$report"
    PATH="$(dirname -- "$python"):$PATH" "$python" -m pytest -q --tb=short --durations=5 --junitxml="$report" "$@"
    status=$?
    if ! [ -s "$report" ]; then
        echo "pytest ended with exit code $status and without a report"
        failed=$((failed + 1))
        summary+="  $title: broke off"$'\n'
        return
    fi
    local bad=$(($(count errors) + $(count failures))) passed_over=$(count skipped) all=$(count tests)
    # 5: no test was selected, as ARGS="-k ..." may do in one of the suites. Any other trouble without a failed test is one all the same.
    [ "$bad" = 0 ] && [ "$status" != 0 ] && [ "$status" != 5 ] && bad=1 && all=$((all + 1))
    failed=$((failed + bad))
    skipped=$((skipped + passed_over))
    passed=$((passed + all - bad - passed_over))
    summary+="  $title: $((all - bad - passed_over)) passed, $bad failed, $passed_over skipped, $((SECONDS - started)) s"$'\n'
}

versions_of() { cat "$1/.mtc-versions" 2>/dev/null || "$1/bin/python" --version; }

if [ "$MTC_PYTHON" = "$MTC_HOME/.venv-train/bin/python" ]; then
    suite "training on $(versions_of .venv-train)" "$MTC_PYTHON" test --ignore=test/dag "$@"
else
    suite "training on MTC_PYTHON=$MTC_PYTHON" "$MTC_PYTHON" test --ignore=test/dag "$@"
fi
if [ -f .venv-train2/.mtc-tests ]; then
    suite "training on $(versions_of .venv-train2)" "$MTC_HOME/.venv-train2/bin/python" test --ignore=test/dag "$@"
fi
suite "Airflow $(versions_of .venv)" "$MTC_HOME/.venv/bin/python" test/dag "$@"

printf '\n%s\n' "$summary"
[ $((passed + failed)) -gt 0 ] || { echo "no test ran"; failed=1; }
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
