#!/usr/bin/env bash
# Builds the four programs of a one-node Kubernetes, from Debian 12's own source package (1.20.2): build.sh
#
# Prints the folder that has kube-apiserver, kube-controller-manager, kube-scheduler and kubelet. Needs dpkg-dev, xz-utils, 2 GB of
# disk and, where the machine is quiet, three minutes on two cores; nothing is installed, and no root is needed: the Go that builds
# is unpacked beside the source. The result is kept in ${XDG_CACHE_HOME:-~/.cache}/tally, one folder for each version of the source and of this script.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../support/debian.sh"

release=bookworm  # its Kubernetes is the last one that builds with no more than a compiler, and that runs containers by Docker
programs="kube-apiserver kube-controller-manager kube-scheduler kubelet"

for program in apt-get dpkg-source xz; do
  command -v "$program" >/dev/null || { echo "$program is missing: a build needs Debian with dpkg-dev and xz-utils" >&2; exit 1; }
done
mkdir -p "$CACHE/one-node"
work=$(mktemp -d "$CACHE/one-node/build.XXXXXX")
trap 'rm -rf "$work"' EXIT

if lists "$work" "$release"; then
  version=$(apt_of "$work" cache showsrc kubernetes | awk '/^Version:/ {print $2; exit}')
  kept=$CACHE/one-node/$version-$(cksum <"$here/build.sh" | cut -d' ' -f1)
else  # no mirror answers: what was built before serves
  kept=$(find "$CACHE/one-node" -mindepth 1 -maxdepth 1 -not -name 'build.*' | sort -V | tail -n 1)
fi
if [ -x "$kept/kubelet" ]; then
  echo "$kept"
  exit
fi

unpack "$work" golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev
(cd "$work" && apt_of "$work" get source --download-only kubernetes >&2)
source=$work/gopath/src/k8s.io/kubernetes  # where GOPATH wants it
mkdir -p "$(dirname "$source")" "$work/bin"
dpkg-source --no-check -x "$work"/kubernetes_*.dsc "$source" >&2
cd "$source"
# The reflect2 that comes with it corrupts memory under Go 1.18 and later, at each map that becomes JSON (modern-go/reflect2#24).
rm vendor/github.com/modern-go/reflect2/*
cp "$work"/root/usr/share/gocode/src/github.com/modern-go/reflect2/* vendor/github.com/modern-go/reflect2/
# A pod that is deleted goes when its dead containers do, up to a minute later: tests wait for that more than for all else.
sed -i 's/ContainerGCPeriod = time.Minute/ContainerGCPeriod = 5 * time.Second/' pkg/kubelet/kubelet.go
export GOROOT=$work/root/usr/lib/go-1.19 GOPATH=$work/gopath GOCACHE=$work/gocache GO111MODULE=off CGO_ENABLED=0 GOTOOLCHAIN=local
export PATH=$GOROOT/bin:$PATH

# Debian leaves out the generated OpenAPI definitions, without which the API server does not link.
if [ ! -s pkg/generated/openapi/zz_generated.openapi.go ]; then
  go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  libraries="api apimachinery apiextensions-apiserver apiserver kube-aggregator metrics component-base"
  # shellcheck disable=SC2086  # one word for each library
  inputs=$(grep -rl --include=doc.go '+k8s:openapi-gen=' pkg staging/src/k8s.io $(printf 'vendor/k8s.io/%s ' $libraries) 2>/dev/null |
    xargs -n 1 dirname | sed -e 's#^staging/src/##' -e 's#^vendor/##' -e 's#^pkg#k8s.io/kubernetes/pkg#' |
    grep -v -e sample -e testdata -e /test/ | sort -u | paste -sd,)
  machinery=k8s.io/apimachinery/pkg
  "$work/openapi-gen" -h hack/boilerplate/boilerplate.generatego.txt -O zz_generated.openapi -r "$work/violations" \
    -i "$inputs,$machinery/version,$machinery/runtime,$machinery/util/intstr,$machinery/api/resource" \
    -p k8s.io/kubernetes/pkg/generated/openapi --logtostderr >/dev/null 2>&1
fi

number=${version#*really}  # 1.20.5+really1.20.2-1.1+deb12u1 is 1.20.2
number=${number%%[-+]*}
flags="-s -w"
for package in k8s.io/kubernetes/vendor/k8s.io/component-base/version k8s.io/component-base/version; do
  flags="$flags -X $package.gitVersion=v$number -X $package.gitMajor=1 -X $package.gitMinor=$(echo "$number" | cut -d. -f2)"
done
for program in $programs; do
  echo "building $program $number" >&2
  go build -p 2 -tags providerless -ldflags "$flags" -o "$work/bin/$program" "./cmd/$program"
done
mv -T "$work/bin" "$kept"
echo "$kept"
