#!/bin/sh
# Installs what building and testing walhook needs and this machine lacks: a C compiler (for aws-lc-rs), the programs of
# a Postgres server, on Linux libfaketime (for tests that set a clock), rustfmt and clippy. What is there is left alone.
# Knows apt and brew; elsewhere it says what to do.
set -eu

oldest=14

name=setup
. "$(dirname "$0")/machine.sh"

# The same rule as in src/postgres/cluster.
is_server() {
    version=$(server_version "$1")
    [ "${version:-0}" -ge "$oldest" ]
}

has_postgres() {
    # Where the variable is set, walhook looks nowhere else.
    if [ -n "${WALHOOK_POSTGRES_BIN:-}" ]; then
        is_server "$WALHOOK_POSTGRES_BIN"
        return
    fi
    for directory in $(server_directories); do
        if is_server "$directory"; then return 0; fi
    done
    return 1
}

# The same places as in tests/support/clock.rs.
has_faketime() {
    [ "$(uname -s)" = Linux ] || return 0
    for directory in "/usr/lib/$(uname -m)-linux-gnu" /usr/lib64 /usr/lib /usr/local/lib; do
        if [ -e "$directory/faketime/libfaketimeMT.so.1" ]; then return 0; fi
    done
    return 1
}

command -v cargo >/dev/null || fail "cargo is missing; install the Rust toolchain: https://rustup.rs"

missing=""
command -v cc >/dev/null || missing="$missing compiler"
has_postgres || missing="$missing postgres"

if [ -n "$missing" ]; then
    if [ -n "${WALHOOK_POSTGRES_BIN:-}" ] && ! has_postgres; then
        fail "WALHOOK_POSTGRES_BIN=$WALHOOK_POSTGRES_BIN holds no Postgres server of version $oldest or later"
    elif command -v apt-get >/dev/null; then
        packages=""
        case "$missing" in *compiler*) packages="$packages gcc libc6-dev" ;; esac
        case "$missing" in *postgres*) packages="$packages postgresql" ;; esac
        # shellcheck disable=SC2086 # a list of words
        apt_install $packages
    elif command -v brew >/dev/null; then
        case "$missing" in *compiler*) fail "a C compiler is missing; run: xcode-select --install" ;; esac
        say "installing with brew: postgresql@16"
        brew install postgresql@16
    else
        fail "missing:$missing; install a C compiler and a Postgres server of version $oldest or later"
    fi
    has_postgres || fail "still no Postgres server of version $oldest or later; newer ones: https://apt.postgresql.org"
fi

# Only the tests that set a clock need it, so nothing else is to fail without it.
if ! has_faketime; then
    if command -v apt-get >/dev/null; then apt_install libfaketime || true; fi
    has_faketime || say "libfaketime is missing, which the tests need that set a clock; install it"
fi

# Minimal toolchains come without these two; only `make check` needs them.
if command -v rustup >/dev/null; then
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
fi
