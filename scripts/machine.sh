# Sourced by the scripts beside it, which set $name before: how they speak, install, and know a Postgres server.

say() { echo "$name: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# The major version of the whole server whose programs are in a directory; nothing where there is none.
server_version() {
    for program in initdb postgres pg_ctl; do
        [ -x "$1/$program" ] || return 0
    done
    "$1/postgres" --version 2>/dev/null | sed -n 's/.*(PostgreSQL) \([0-9]*\).*/\1/p'
}

# Where a machine has servers; the same places as in src/postgres/cluster.
server_directories() {
    pg_config --bindir 2>/dev/null || true
    ls -d /usr/lib/postgresql/*/bin /usr/bin /usr/local/pgsql/bin /opt/homebrew/opt/postgresql*/bin \
        /usr/local/opt/postgresql*/bin 2>/dev/null || true
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
