# shellcheck shell=bash
# Packages of another Debian release than this machine's, used without installing them. Sourced by scripts, after `set -eu`.
#
#   lists FOLDER SUITE…          FOLDER gets apt lists of its own, of these suites alone (deb and deb-src); needs no root
#   apt_of FOLDER COMMAND ARG…   `apt-COMMAND ARG…` by those lists, as in: apt_of "$folder" get download etcd-server
#   unpack FOLDER PACKAGE…       downloads the newest of these packages by FOLDER's lists, and unpacks them in FOLDER/root

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/tally  # what can be fetched or built again

mirror() {  # the machine's own mirror, else Debian's
  local found
  found=$(cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null |
    awk '/^URIs:/ {print $2; exit} /^deb / {for (i = 2; i <= NF; i++) if ($i ~ "^http") {print $i; exit}}')
  echo "${found:-http://deb.debian.org/debian}"
}

apt_of() {
  local folder=$1 command=$2
  shift 2
  # What is installed here is none of its business: a foreign package of the same name may call itself newer.
  "apt-$command" -q -oDir::State::status=/dev/null -oDir::Etc::sourcelist="$folder/sources.list" -oDir::Etc::sourceparts=/dev/null -oAPT::Sandbox::User=root \
    -oDir::State::Lists="$folder/lists" -oDir::Cache="$folder/cache" -oAcquire::Retries=3 -oAcquire::http::Timeout=20 "$@"
}

lists() {
  local folder=$1 suite kind
  shift
  mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
  for suite in "$@"; do
    for kind in deb deb-src; do
      echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $suite main"
    done
  done >"$folder/sources.list"
  apt_of "$folder" get update >&2
}

unpack() {
  local folder=$1 package
  shift
  (cd "$folder" && apt_of "$folder" get download "$@" >&2)
  for package in "$folder"/*.deb; do
    dpkg -x "$package" "$folder/root"
    rm "$package"
  done
}
