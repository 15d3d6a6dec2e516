#!/bin/sh
# Installs what building and testing walhook needs and this machine lacks: a C compiler (for aws-lc-rs), the programs of
# a Postgres server, rustfmt and clippy. What is there is left alone. Knows apt and brew; elsewhere it says what to do.
set -eu

oldest=14

say() { echo "setup: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# A bin directory does when it holds a whole server that is new enough; the same rule as in src/postgres/cluster.
is_server() {
    for program in initdb postgres pg_ctl; do
        [ -x "$1/$program" ] || return 1
    done
    major=$("$1/postgres" --version | sed -n 's/.*(PostgreSQL) \([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge "$oldest" ]
}

has_postgres() {
    # Where the variable is set, walhook looks nowhere else.
    if [ -n "${WALHOOK_POSTGRES_BIN:-}" ]; then
        is_server "$WALHOOK_POSTGRES_BIN"
        return
    fi
    for directory in "$(pg_config --bindir 2>/dev/null || true)" /usr/lib/postgresql/*/bin /usr/bin \
        /usr/local/pgsql/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
        if is_server "$directory"; then return 0; fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "run this as root, or install sudo: $*"
    fi
}

# Installing Debian's server makes a cluster `main` and starts it on port 5432. Ours are private, so nothing needs to run:
# the standard way to say so for one installation is a policy-rc.d, which is taken away again. Changing
# createcluster.conf instead would also hold for everything that is installed later.
apt_install() {
    policy=/usr/sbin/policy-rc.d
    say "installing with apt-get: $*"
    as_root apt-get update
    if [ ! -e "$policy" ]; then
        trap 'as_root rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
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

# Minimal toolchains come without these two; only `make check` needs them.
if command -v rustup >/dev/null; then
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
fi
