# What the scripts that move images with other clients have in common. Sourced after `set -euo pipefail`, with `name` set.
# shellcheck shell=bash

# Lower case: podman takes a folder's path for a name.
home=${TMPDIR:-/tmp}/margay-$name.$$
mkdir -m 700 "$home"
engine= made=
leave() {
    [ -z "$engine" ] || { kill "$engine" && wait "$engine"; } 2> /dev/null || true
    [ -z "$made" ] || rmdir "$made" 2> /dev/null || true
    chmod -R u+w "$home"
    rm -rf "$home"
}
trap leave EXIT
export HOME=$home XDG_RUNTIME_DIR=$home DOCKER_CONFIG=$home/docker REGISTRY_AUTH_FILE=$home/auth.json
mkdir -p "$DOCKER_CONFIG"
failed=0 skipped=0

check() { # NAME COMMAND...
    local name=$1
    shift
    if "$@" > "$home/log" 2>&1; then
        echo "ok    $name"
    else
        echo "FAIL  $name"
        sed 's/^/      /' "$home/log" | tail -5
        failed=$((failed + 1))
    fi
}
refused() { ! "$@"; }
have() {
    command -v "$1" > /dev/null && return 0
    echo "skip  $1 is not installed"
    skipped=$((skipped + 1))
    return 1
}
# The overlay driver needs rights that a container may lack; vfs works everywhere.
pod() { podman --root "$home/podman" --runroot "$home/podman-run" --storage-driver vfs "$@"; }

# An engine of our own: nothing of the machine's firewall, bridges or cgroups is touched, and no mount outlives it. WRAP is a
# command that runs what it is given as arguments, in another surrounding.
start_engine() { # [WRAP...]
    [ "$(id -u)" = 0 ] && command -v dockerd > /dev/null || return 1
    export DOCKER_HOST=unix://$home/docker.sock
    "$@" dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs --data-root "$home/engine" \
        --exec-root "$home/engine-run" --pidfile "$home/engine.pid" --host "$DOCKER_HOST" > "$home/engine.log" 2>&1 &
    engine=$!
    for _ in $(seq 150); do
        docker info > /dev/null 2>&1 && return 0
        kill -0 "$engine" 2> /dev/null || break
        sleep 0.2
    done
    sed 's/^/      /' "$home/engine.log" | tail -5
    return 1
}
no_engine() {
    echo "skip  docker has no engine here"
    skipped=$((skipped + 1))
}

# The last command of a script.
result() {
    echo "failed: $failed, skipped: $skipped"
    [ "$failed" -eq 0 ] && { [ "${CLIENTS:-}" != all ] || [ "$skipped" -eq 0 ]; }
}
