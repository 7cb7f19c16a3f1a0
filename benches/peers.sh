#!/bin/bash
# Loads and unpacks the same images with plywood and with whatever other tools are installed, and prints a table. Where
# docker-registry and skopeo are installed, the images are also pulled, from a registry on this machine.
#
#   benches/peers.sh [--runs N] [--size SIZE] [--only 'NAME…'] [--markdown] LAYOUT…
#
# A LAYOUT is an OCI image layout with one image in it; skopeo makes one: skopeo copy docker://debian:12 oci:debian:12
#
# Every run is on an empty ext4 of its own, on a loop device in $TMPDIR: file systems that have just deleted many files
# are slow at creating files, and what one tool has written is still being flushed while the next one runs. The tools
# take turns, with a sync after each. The source is read once before, so that it is in memory. A time is the median of
# the runs, with the time of plywood (durability full) as 1; the CPU seconds of daemons are not counted.
#
# Needs root. plywood is taken from $PLYWOOD, else built. Programs of your own can take part: every executable in
# $PEERS_DIR is called with the layout and an empty directory.
set -euo pipefail

if [ "$(id -u)" = 0 ] && [ -z "${PEERS_APART:-}" ]; then
    # In a mount namespace of its own: others that are made meanwhile would keep the file systems busy.
    PEERS_APART=1 exec unshare --mount --propagation private "$0" "$@"
fi

runs=3 size=16G only= markdown=
while [ $# -gt 0 ]; do
    case $1 in
    --runs) runs=$2; shift 2 ;;
    --size) size=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --markdown) markdown=1; shift ;;
    -h | --help) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit ;;
    -*) echo "peers.sh: unknown option $1" >&2; exit 2 ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || { echo "usage: peers.sh [--runs N] [--size SIZE] [--only 'NAME…'] [--markdown] LAYOUT…" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "peers.sh: needs root, for file systems of its own" >&2; exit 1; }

here=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${PLYWOOD:-}" ]; then
    (cd "$here" && cargo build --quiet --release --features cli,registry)
    PLYWOOD=${CARGO_TARGET_DIR:-$here/target}/release/plywood
fi

work=$(mktemp -d "${TMPDIR:-/var/tmp}/plywood-peers.XXXXXX")
at=$work/mnt
mkdir "$at"
fallocate -l "$size" "$work/disk"
loop=$(losetup --find --show "$work/disk")
daemon= registry= address=127.0.0.1:${PEERS_PORT:-5057}

unmount() {
    # What tools have left mounted goes first, the deepest first.
    awk -v at="$at" 'index($2, at "/") == 1 || $2 == at {print $2}' /proc/mounts | sort -r | while read -r mount; do
        umount "$mount" 2>/dev/null || umount -l "$mount"
    done
}

fresh() {
    sync
    unmount
    for _ in $(seq 20); do
        # Nothing is left to be initialised in the background during the measurement.
        if mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$loop" 2>"$work/mkfs"; then
            mount -o noinit_itable "$loop" "$at"
            return
        fi
        sleep 0.5
    done
    cat "$work/mkfs" >&2
    exit 1
}

stop() {
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
        daemon=
    fi
}

finish() {
    stop
    close_registry
    unmount
    losetup --detach "$loop" || true
    rm -rf "$work"
}
trap finish EXIT

have() { command -v "$1" >/dev/null; }

# The layers of a layout, bottom first, as paths of blobs.
layers() {
    python3 - "$1" <<'PY'
import json, sys
root = sys.argv[1]
path = lambda digest: f"{root}/blobs/" + digest.replace(":", "/")
document = json.load(open(f"{root}/index.json"))
while "manifests" in document:
    document = json.load(open(path(document["manifests"][0]["digest"])))
print("\n".join(path(layer["digest"]) for layer in document["layers"]))
PY
}

# Waits until a command succeeds.
until_ready() {
    for _ in $(seq 100); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    return 1
}

# A registry with the image of a layout in it.
open_registry() {
    printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: "%s"}}\nhttp: {addr: "%s"}\n' "$work/registry" "$address" \
        >"$work/registry.yml"
    docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
    registry=$!
    until_ready bash -c "</dev/tcp/${address/://}"
    skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$1:$tag" "docker://$address/image:1"
}

close_registry() {
    if [ -n "$registry" ]; then
        kill "$registry" 2>/dev/null || true
        wait "$registry" 2>/dev/null || true
        registry=
    fi
    rm -rf "$work/registry"
}

# prepare_NAME runs before the clock, run_NAME under it. Both get the layout.
run_plywood() { "$PLYWOOD" --root "$at/store" load "$1"; }
run_plywood_relaxed() { "$PLYWOOD" --root "$at/store" --durability relaxed load "$1"; }
run_podman() { podman --root "$at/root" --runroot "$at/run" --storage-driver overlay load --input "$archive"; }
run_skopeo() { skopeo --insecure-policy copy --quiet "oci:$1:$tag" "containers-storage:[overlay@$at/root+$at/run]localhost/image:1"; }
run_umoci() { umoci unpack --image "$1:$tag" "$at/bundle"; }
run_bsdtar() {
    mkdir "$at/out"
    local layer
    layers "$1" | while read -r layer; do bsdtar -xpf "$layer" -C "$at/out"; done
}
prepare_docker() {
    dockerd --data-root="$at/data" --exec-root="$work/exec" --pidfile="$work/dockerd.pid" --host="unix://$work/docker" \
        --iptables=false --ip6tables=false --bridge=none --storage-driver=overlay2 >"$work/log" 2>&1 &
    daemon=$!
    until_ready docker --host "unix://$work/docker" version
}
run_docker() { docker --host "unix://$work/docker" load --quiet --input "$docker_archive"; }
prepare_containerd() {
    printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >"$work/config"
    containerd --config="$work/config" --root="$at/root" --state="$work/state" --address="$work/containerd" \
        >"$work/log" 2>&1 &
    daemon=$!
    until_ready ctr --address "$work/containerd" version
}
run_containerd() { ctr --address "$work/containerd" images import "$archive"; }

run_plywood_pull() { "$PLYWOOD" --root "$at/store" pull "$address/image:1"; }
run_podman_pull() {
    podman --root "$at/root" --runroot "$at/run" --storage-driver overlay pull --tls-verify=false "$address/image:1"
}
prepare_docker_pull() { prepare_docker; }
run_docker_pull() { docker --host "unix://$work/docker" pull "$address/image:1"; }
prepare_containerd_pull() { prepare_containerd; }
run_containerd_pull() { ctr --address "$work/containerd" images pull --plain-http "$address/image:1"; }

contenders=(plywood plywood_relaxed)
for peer in podman skopeo umoci bsdtar; do
    have "$peer" && contenders+=("$peer")
done
have dockerd && have docker && contenders+=(docker)
have containerd && have ctr && contenders+=(containerd)
if have docker-registry && have skopeo; then
    for contender in plywood podman docker containerd; do
        [[ " ${contenders[*]} " != *" $contender "* ]] || contenders+=("${contender}_pull")
    done
fi
if [ -n "${PEERS_DIR:-}" ]; then
    for program in "$PEERS_DIR"/*; do
        [ -x "$program" ] || continue
        name=$(basename "$program" | tr -c 'A-Za-z0-9\n' _)
        eval "run_$name() { '$program' \"\$1\" '$at/own'; }"
        contenders+=("$name")
    done
fi
[ -z "$only" ] || read -r -a contenders <<<"$only"

now() { date +%s%N; }

# Prints the milliseconds that one run took, or nothing if the tool cannot do it.
measure() {
    local name=$1 layout=$2 begin end
    fresh
    if declare -F "prepare_$name" >/dev/null && ! "prepare_$name" "$layout"; then
        stop
        return
    fi
    begin=$(now)
    if "run_$name" "$layout" >"$work/out" 2>&1; then
        end=$(now)
        took=$(((end - begin) / 1000000))
    else
        echo "$name cannot load $layout: $(tail -n 1 "$work/out")" >&2
    fi
    stop
}

median() { sort -n | awk '{all[NR] = $1} END {print all[int((NR + 1) / 2)]}'; }

echo "$(nproc) CPUs, $(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo), Linux $(uname -r), ext4 on a loop device," \
    "medians of $runs, load average $(cut -d' ' -f1 /proc/loadavg) at the start"
for layout in "$@"; do
    layout=$(realpath "$layout")
    tag=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["manifests"][0].get("annotations", {}).get("org.opencontainers.image.ref.name", "latest"))' "$layout/index.json")
    archive=$work/archive.tar
    tar --create --file "$archive" --directory "$layout" oci-layout index.json blobs
    docker_archive=$archive
    if [[ " ${contenders[*]} " == *" docker "* ]] && have skopeo; then # docker reads OCI archives only since version 25
        docker_archive=$work/docker.tar
        skopeo --insecure-policy copy --quiet "oci:$layout:$tag" "docker-archive:$docker_archive:localhost/image:1"
    fi
    [[ " ${contenders[*]} " != *_pull\ * ]] || open_registry "$layout"
    declare -A times=()
    for _ in $(seq "$runs"); do
        cat "$archive" "$docker_archive" "$layout"/blobs/*/* >/dev/null
        for name in "${contenders[@]}"; do
            took=
            measure "$name" "$layout"
            [ -z "$took" ] || times[$name]+="$took "
        done
    done
    own=$(tr ' ' '\n' <<<"${times[plywood]:-}" | grep . | median)
    echo
    echo "$(basename "$layout"): $(du -sm "$layout" | cut -f1) MB, $(layers "$layout" | wc -l) layers"
    [ -z "$markdown" ] || printf '\n| %s | seconds | ratio |\n| --- | ---: | ---: |\n' "$(basename "$layout")"
    for name in "${contenders[@]}"; do
        [ -n "${times[$name]:-}" ] || continue
        one=$(tr ' ' '\n' <<<"${times[$name]}" | grep . | median)
        format='%-20s %7.2f s %6.2f\n'
        [ -z "$markdown" ] || format='| %s | %.2f | %.2f |\n'
        awk -v name="${name//_/ }" -v one="$one" -v own="${own:-0}" -v format="$format" \
            'BEGIN {printf format, name, one / 1000, own ? one / own : 0}'
    done
    close_registry
    unset times
    rm -f "$archive" "$docker_archive"
done
