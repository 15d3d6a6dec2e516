#!/usr/bin/env bash
# Runs the tests that meet a server on each of these major versions of Postgres (`scripts/test-matrix.sh 14 18`; all that
# walhook supports where none is given), or of them those named in ONLY. The other tests do not depend on the version.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -eq 0 ]; then set -- 14 15 16 17 18; fi

# All servers before the first test, so that one that cannot be had is said at once.
declare -A programs
for version in "$@"; do
    programs[$version]=$(scripts/postgres.sh "$version")
done

tests=()
for file in $(grep -lwE 'Scene|TestDatabase|Cluster' tests/*.rs tests/*/main.rs); do
    name=$(basename "${file%/main.rs}" .rs)
    if [[ -z ${ONLY:-} || " $ONLY " == *" $name "* ]]; then tests+=(--test "$name"); fi
done

failed=""
for version in "$@"; do
    echo "== Postgres $version: $("${programs[$version]}/postgres" --version)"
    WALHOOK_POSTGRES_BIN=${programs[$version]} ${CARGO:-cargo} test --no-fail-fast "${tests[@]}" || failed="$failed $version"
done

# Nothing is said where all passed: the output ends with the tests' own closing line.
if [ -n "$failed" ]; then
    echo "== failed on Postgres$failed" >&2
    exit 1
fi
