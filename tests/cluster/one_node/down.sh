#!/usr/bin/env bash
# Ends a cluster that up.sh started, with all its containers, and removes its folder: down.sh FOLDER
set -u
[ -d "$1/pids" ] || { echo "no cluster is in $1" >&2; exit 1; }
folder=$(realpath "$1")
cd "$folder" || exit 1

end() {  # end NAME: SIGTERM, after 20 s SIGKILL; a number that the kernel has given to somebody else meanwhile is left alone
  local pid
  pid=$(cat "pids/$1" 2>/dev/null) || return 0
  grep -qF "$folder" "/proc/$pid/cmdline" 2>/dev/null || return 0
  kill "$pid" 2>/dev/null
  for _ in $(seq 100); do
    grep -qF "$folder" "/proc/$pid/cmdline" 2>/dev/null || return 0
    sleep 0.2
  done
  kill -9 "$pid" 2>/dev/null
}

for name in kubelet scheduler controller-manager apiserver etcd; do end "$name"; done
export DOCKER_HOST=unix://$folder/docker.sock
containers=$(timeout 20 docker ps -aq 2>/dev/null)
# shellcheck disable=SC2086  # one word for each container
[ -z "$containers" ] || timeout 60 docker rm -f $containers >/dev/null
end dockerd
awk -v folder="$folder/" 'index($2, folder) == 1 {print $2}' /proc/self/mounts | sort -r | xargs -r -d '\n' umount -l
cd / && rm -rf "$folder"
