#!/usr/bin/env bash
# Runs all test suites and ends with one line that sums them up; `make test`. Arguments go to pytest.
#
# Three lanes run side by side: test/ without test/dag and test/deploy on each of two training environments (what is slow and marked `first` or `last` on
# one of them only), and in the third test/dag (about Airflow) in .venv, then test/deploy (on PostgreSQL, Redis and the like) in .venv-deploy. The first
# two compute all the time and give way to the third, which mostly waits, but not for ever. Counts come from pytest's own JUnit files; a suite that leaves
# none (a crash of the interpreter) counts as one failure.
set -uo pipefail
cd -- "$MTC_HOME" || exit 1
source scripts/interpreters.sh

passed=0 failed=0 skipped=0 summary=
memory=/dev/shm # the tests flush thousands of small files, which a slow disk makes minutes of
if [ -d "$memory" ] && [ -w "$memory" ] && [ "$(df -Pk "$memory" | awk 'NR == 2 { print $4 }')" -gt 6000000 ] && [ -z "${TMPDIR-}" ]; then
    folder=$(TMPDIR=$memory mktemp -d -t mtc-tests.XXXXXX)
    export TMPDIR=$folder
else
    folder=$(mktemp -d)
fi
trap 'rm -rf "$folder"' EXIT
trap 'touch "$folder/stopped"; for pid in "$folder"/*.pid; do kill -KILL -- "-$(cat "$pid")" 2>/dev/null; done; exit 130' INT TERM # tests handle the gentle signals themselves
group=() # what a suite beside the first is started with: a process group of its own, which its servers are in, too

# count REPORT KIND: a number from the suite's JUnit file; Python 3.7 writes its attributes in another order than newer ones.
count() {
    local head
    head=$(head -c 2000 "$1")
    [[ $head =~ \<testsuite\ [^\>]*$2=\"([0-9]+)\" ]] && echo "${BASH_REMATCH[1]}" || echo 0
}

# suite NAME PYTHON PYTEST-ARGUMENTS...: leaves $folder/NAME.{xml,status,seconds}
suite() {
    local name=$1 python=$2 started=$SECONDS way=()
    shift 2
    case $name in first | second) way=(nice -n 5) ;; esac
    PATH="$(dirname -- "$python"):$PATH" "${group[@]}" "${way[@]}" "$python" -m pytest -q --tb=short --durations=5 --junitxml="$folder/$name.xml" "$@"
    echo $? >"$folder/$name.status"
    echo $((SECONDS - started)) >"$folder/$name.seconds"
}

# tally NAME TITLE: add the suite's counts to the sums
tally() {
    local report="$folder/$1.xml" title=$2 status seconds
    status=$(cat "$folder/$1.status" 2>/dev/null || echo 1)
    seconds=$(cat "$folder/$1.seconds" 2>/dev/null || echo 0)
    if ! [ -s "$report" ]; then
        echo "$title: pytest ended with exit code $status and without a report"
        failed=$((failed + 1))
        summary+="  $title: broke off"$'\n'
        return
    fi
    local bad=$(($(count "$report" errors) + $(count "$report" failures))) passed_over all
    passed_over=$(count "$report" skipped) all=$(count "$report" tests)
    # 5: no test was selected, as ARGS="-k ..." may do in one of the suites. Any other trouble without a failed test is one all the same.
    [ "$bad" = 0 ] && [ "$status" != 0 ] && [ "$status" != 5 ] && bad=1 && all=$((all + 1))
    failed=$((failed + bad))
    skipped=$((skipped + passed_over))
    passed=$((passed + all - bad - passed_over))
    summary+="  $title: $((all - bad - passed_over)) passed, $bad failed, $passed_over skipped, $seconds s"$'\n'
}

versions_of() { cat "$1/.mtc-versions" 2>/dev/null || "$1/bin/python" --version; }

if [ "$MTC_PYTHON" = "$MTC_HOME/.venv-train/bin/python" ]; then
    first="training on $(versions_of .venv-train)"
else
    first="training on MTC_PYTHON=$MTC_PYTHON"
fi
# beside NAME PYTHON PYTEST-ARGUMENTS...: its output goes to $folder/NAME.txt
beside() {
    if [ -e "$folder/stopped" ] || ! [ -d "$folder" ]; then return; fi
    group=(setsid bash -c 'echo $$ >"$0"; exec "$@"' "$folder/$1.pid")
    suite "$@" >"$folder/$1.txt" 2>&1
}

airflow="Airflow $(versions_of .venv)"
deploy=
if [ -f .venv-deploy/.mtc-tests ] && ! servers_missing >/dev/null; then
    deploy="Airflow $(versions_of .venv-deploy) on several machines"
else
    skipped=1
    summary="  skipped: test/deploy, about several machines: there is no $(servers_missing || echo .venv-deploy) here"$'\n'
fi
{
    beside airflow "$MTC_HOME/.venv/bin/python" test/dag "$@"
    [ -z "$deploy" ] || beside deploy "$MTC_HOME/.venv-deploy/bin/python" test/deploy "$@"
} &
second= here=()
export MTC_CRASH_CYCLES=50 # of the test suites together
if [ -f .venv-train2/.mtc-tests ]; then
    second="training on $(versions_of .venv-train2)"
    MTC_CRASH_CYCLES=30 beside second "$MTC_HOME/.venv-train2/bin/python" test --ignore=test/dag --ignore=test/deploy -m "not first" "$@" &
    MTC_CRASH_CYCLES=20 here=(-m "not last")
fi
printf '\n--- %s (beside it: %s%s%s)\n' "$first" "$airflow" "${deploy:+; $deploy}" "${second:+; $second}"
suite first "$MTC_PYTHON" test --ignore=test/dag --ignore=test/deploy "${here[@]}" "$@"
tally first "$first"
wait
for name in ${second:+second} airflow ${deploy:+deploy}; do
    title=${!name}
    printf '\n--- %s\n' "$title"
    cat "$folder/$name.txt"
    tally $name "$title"
done

printf '\n%s\n' "$summary"
[ $((passed + failed)) -gt 0 ] || { echo "no test ran"; failed=1; }
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
