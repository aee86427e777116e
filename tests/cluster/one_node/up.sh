#!/usr/bin/env bash
# Starts a real one-node Kubernetes on loopback, built by build.sh where that was not done yet: up.sh FOLDER     (root, on Debian)
#
# Prints the path of its kubeconfig. All that it writes is in FOLDER, all its ports are free ones: several run side by side.
# Its node has no network for pods: they need hostNetwork. Its one image is busybox:1.36, of Debian's static busybox. End: down.sh FOLDER
set -euo pipefail
mkdir -p "$1"
folder=$(realpath "$1")  # a short path: a socket's name has at most 107 characters
here=$(cd "$(dirname "$0")" && pwd)

missing=()
for program in etcd dockerd docker runc conntrack openssl curl python3; do command -v "$program" >/dev/null || missing+=("$program"); done
[ -e /usr/share/doc/busybox-static ] || missing+=(busybox-static)
[ "$(id -u)" = 0 ] || missing+=("the rights of root")
if [ ${#missing[@]} != 0 ]; then
  echo "a one-node cluster needs what is missing here: ${missing[*]}" >&2
  echo "on Debian: apt-get install etcd-server docker.io runc conntrack openssl curl busybox-static" >&2
  exit 1
fi
[ ! -e "$folder/kubeconfig" ] || { echo "a cluster is in $folder already: $here/down.sh $folder ends it" >&2; exit 1; }

bin=$("$here/build.sh")
cd "$folder"
mkdir -p certs logs docker pids
why="it was stopped"
trap '[ $? = 0 ] || { tail -n 5 logs/* >&2; "$here/down.sh" "$folder"; echo "no cluster: $why" >&2; }' EXIT

start() {  # start NAME COMMAND…: in the background, in a session of its own, with its log in logs/NAME
  local name=$1
  shift
  setsid "$@" >"logs/$name" 2>&1 </dev/null &
  echo $! >"pids/$name"
}

await() {  # await NAME SECONDS COMMAND…: until the command succeeds, or NAME has ended
  local name=$1 limit=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    kill -0 "$(cat "pids/$name")" 2>/dev/null || { why="$name has ended, see the end of its log above"; return 1; }
    [ $SECONDS -lt $limit ] || { why="$name was not ready in time, see the end of its log above"; return 1; }
    sleep 0.2
  done
}

read -r api_port kubelet_port etcd_port peer_port < <(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(each.getsockname()[1] for each in sockets))')
token=$(openssl rand -hex 16)
api=https://127.0.0.1:$api_port

start etcd etcd --data-dir "$folder/etcd" --log-level error --listen-client-urls "http://127.0.0.1:$etcd_port" \
  --advertise-client-urls "http://127.0.0.1:$etcd_port" --listen-peer-urls "http://127.0.0.1:$peer_port" \
  --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" --initial-cluster "default=http://127.0.0.1:$peer_port" --unsafe-no-fsync

# Where root may not make a process less likely to be killed for memory (no CAP_SYS_RESOURCE), runc would refuse to start the pause
# container, whose score is negative.
cat >runc <<R
#!/usr/bin/env bash
before=""
for argument in "\$@"; do
  [ "\$before" != --bundle ] || sed -i -E 's/"oomScoreAdj":-[0-9]+/"oomScoreAdj":0/' "\$argument/config.json"
  before=\$argument
done
exec $(command -v runc) "\$@"
R
chmod +x runc
echo '{}' >docker/config.json  # not the machine's own
# A kubelet removes what it does not know from /var/log/pods, which no flag moves: dockerd and the kubelet have one of their own,
# in a mount namespace that goes with them.
mkdir -p /var/log/pods pod-logs
# shellcheck disable=SC2016  # for the inner shell
start dockerd unshare --mount sh -c 'mount --bind "$0/pod-logs" /var/log/pods && exec "$@"' "$folder" dockerd --config-file "$folder/docker/config.json" -H "unix://$folder/docker.sock" --iptables=false --ip6tables=false \
  --bridge=none --data-root "$folder/docker/data" --exec-root "$folder/docker/exec" -p "$folder/docker/pid" \
  --exec-opt native.cgroupdriver=cgroupfs --add-runtime "scored=$folder/runc" --default-runtime scored

openssl genrsa -out certs/accounts.key 2048 2>/dev/null
openssl rsa -in certs/accounts.key -pubout -out certs/accounts.pub 2>/dev/null
(umask 077; echo "$token,admin,admin,\"system:masters\"" >tokens.csv)
await etcd 60 curl -sf --noproxy '*' "http://127.0.0.1:$etcd_port/health"
start apiserver "$bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd_port" --secure-port="$api_port" --insecure-port=0 \
  --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --cert-dir="$folder/certs/api" --token-auth-file="$folder/tokens.csv" \
  --authorization-mode=RBAC --service-account-key-file="$folder/certs/accounts.pub" --service-account-issuer=https://tally.invalid \
  --service-account-signing-key-file="$folder/certs/accounts.key" --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true \
  --disable-admission-plugins=ServiceAccount

export DOCKER_HOST=unix://$folder/docker.sock
await dockerd 60 docker version
mkdir -p image/bin image/tmp
cp /bin/busybox image/bin/
for command in $(busybox --list); do [ "$command" = busybox ] || ln -s busybox "image/bin/$command"; done
tar -C image -c . | docker import - busybox:1.36 >/dev/null
tar -C image -c . | docker import -c 'CMD ["/bin/sleep", "2147483647"]' - pause:local >/dev/null

(umask 077; cat >kubeconfig.new) <<K
apiVersion: v1
kind: Config
clusters: [{name: one-node, cluster: {server: "$api", certificate-authority: "$folder/certs/api/apiserver.crt"}}]
users: [{name: admin, user: {token: "$token"}}]
contexts: [{name: one-node, context: {cluster: one-node, user: admin, namespace: default}}]
current-context: one-node
K
ask() { curl -sf --noproxy '*' --cacert certs/api/apiserver.crt -H "Authorization: Bearer $token" "$api$1"; }
await apiserver 120 ask /readyz
start controller-manager "$bin/kube-controller-manager" --kubeconfig="$folder/kubeconfig.new" --port=0 --secure-port=0 \
  --leader-elect=false --kube-api-qps=100 --kube-api-burst=150 --service-account-private-key-file="$folder/certs/accounts.key" \
  --controllers='*,-nodeipam,-route,-cloud-node-lifecycle,-attachdetach,-persistentvolume-binder'
start scheduler "$bin/kube-scheduler" --kubeconfig="$folder/kubeconfig.new" --port=0 --secure-port=0 --leader-elect=false

# The node is named by its address, so that the API server finds the kubelet without a line in /etc/hosts.
start kubelet nsenter --mount --target "$(cat pids/dockerd)" "$bin/kubelet" --kubeconfig="$folder/kubeconfig.new" --hostname-override=127.0.0.1 --address=127.0.0.1 --port="$kubelet_port" \
  --read-only-port=0 --healthz-port=0 --container-runtime=docker --docker-endpoint="unix://$folder/docker.sock" \
  --pod-infra-container-image=pause:local --root-dir="$folder/kubelet" --cert-dir="$folder/certs/kubelet" --cgroup-driver=cgroupfs \
  --cgroups-per-qos=false --enforce-node-allocatable= --fail-swap-on=false --eviction-hard= --max-pods=400 --kube-api-qps=50 --kube-api-burst=100
ready() { ask /api/v1/nodes/127.0.0.1 | python3 -c '
import json, sys
conditions = {each["type"]: each["status"] for each in json.load(sys.stdin)["status"]["conditions"]}
sys.exit(conditions.get("Ready") != "True")'; }
await kubelet 120 ready
account() { ask /api/v1/namespaces/default/serviceaccounts/default; }
await controller-manager 60 account  # its controllers run
mv kubeconfig.new kubeconfig
echo "$folder/kubeconfig"
