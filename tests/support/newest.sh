#!/usr/bin/env bash
# Fetches the newest of a program that Debian has and that runs on this machine, into a cache, without installing it.
#
#     newest.sh PROGRAM PACKAGE…         as in: newest.sh etcd etcd-server etcd-client     (make etcd)
#
# Prints the folder to put on PATH. Debian's unstable release is asked first, then testing and stable: a program that needs a newer
# C library than this machine's does not start, and is passed over. Where no mirror answers, what the cache has is the newest.
set -euo pipefail
program=$1
shift
. "$(dirname "$0")/debian.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

runs() { "$1" --version >/dev/null 2>&1 || "$1" version --client >/dev/null 2>&1; }  # kubectl has no --version

for suite in sid testing stable; do
  folder=$work/$suite
  if lists "$folder" "$suite" && unpack "$folder" "$@" && runs "$folder/root/usr/bin/$program"; then
    version=$(apt_of "$folder" cache show --no-all-versions "$1" | awk '/^Version:/ {print $2; exit}')
    kept=$CACHE/newest/$program/$version
    if [ ! -d "$kept" ]; then
      mkdir -p "$(dirname "$kept")"
      mv -T "$folder/root/usr/bin" "$kept.$$" && { mv -T "$kept.$$" "$kept" 2>/dev/null || rm -rf "$kept.$$"; }
    fi
    break
  fi
done
kept=${kept:-$(find "$CACHE/newest/$program" -mindepth 1 -maxdepth 1 2>/dev/null | sort -V | tail -n 1 || true)}
[ -n "$kept" ] && runs "$kept/$program" || { echo "no $program could be fetched from $(mirror), and the cache has none" >&2; exit 1; }
ln -sfn "$kept" "$CACHE/newest/$program/current"
echo "$kept"
