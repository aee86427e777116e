#!/bin/sh
# Makes an authority and the certificates of etcd and of Tally, for the try-out overlay: certificates.sh [FOLDER] [DAYS]
# A real installation leaves this to its own authority (cert-manager, Vault); the names and usages are then to be these.
set -eu
folder=${1:-$(dirname "$0")/certificates}
days=${2:-365}
umask 077
mkdir -p "$folder"
cd "$folder"

authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$days" -subj "/CN=tally try-out" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.crt
}

# No common names: an etcd with users (`tally auth init --enable`) refuses clients that have one.
certificate() {  # certificate NAME USAGES [NAMES]
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/O=$1" -keyout "$1.key" -out "$1.csr"
  { echo "extendedKeyUsage=$2"; [ -z "${3:-}" ] || echo "subjectAltName=$3"; } > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" -extfile "$1.ext" -out "$1.crt"
  rm "$1.csr" "$1.ext"
}

[ -e ca.crt ] || authority
# etcd's JSON gateway, which Tally uses, is a client of etcd itself: hence both usages.
certificate etcd serverAuth,clientAuth "DNS:*.etcd.tally.svc,DNS:*.etcd.tally.svc.cluster.local,DNS:etcd.tally.svc,DNS:localhost,IP:127.0.0.1"
certificate tally clientAuth
echo "made $folder: keep ca.key off the cluster"
