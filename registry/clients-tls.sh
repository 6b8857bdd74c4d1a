#!/usr/bin/env bash
# Moves images over TLS with Docker, podman and skopeo, which trust a registry by the authority in their folders of
# certificates, as a user and as a robot account.
#
#   MARGAY=BINARY registry/clients-tls.sh HOST:PORT USER PASSWORD CA.pem
#
# HOST is an address that is not loopback, MARGAY_HOME the home of the registry. Clients that are not installed are named and
# skipped. Root starts an engine of Docker for itself, in a mount namespace, without a network.
set -euo pipefail

[ $# -eq 4 ] || { sed -n 2,9p "$0"; exit 2; }
registry=$1 user=$2 password=$3 ca=$(realpath "$4")
name=tls
. "$(dirname "${BASH_SOURCE[0]}")/clients-common.sh"
mkdir -p "$home/certs" "$home/none" "$home/root"
cp "$ca" "$home/certs/ca.crt"

head -c 100000 /dev/urandom > "$home/root/bytes"
tar -C "$home/root" -cf "$home/root.tar" .

# A client is refused before so many seconds are over.
refused_within() {
    local end=$((SECONDS + $1))
    shift
    while "$@"; do [ "$SECONDS" -lt "$end" ] || return 1; sleep 0.2; done
}
robot() { "$MARGAY" registry robot "$@" 2> /dev/null; }

# A robot that is removed.
robots() { # CLIENT, which has said what login_as and pull are
    local client=$1 secret
    robot rm "$user+$client" > /dev/null || true
    secret=$(robot add "$user+$client" --scope push)
    check "$client logs in as a robot" login_as "$user+$client" "$secret"
    check "$client pulls as a robot" pull
    robot rm "$user+$client" > /dev/null
    check "$client is refused within 5 s of its removal" refused_within 5 pull
}

# And one that ends by itself, after the shortest time that there is, while the others do their work.
short=$(robot add "$user+short" --expires 60s)
ends=$((SECONDS + 60))

if have skopeo; then
    check "skopeo trusts no unknown authority" refused skopeo login --cert-dir "$home/none" -u "$user" -p "$password" "$registry"
    check "skopeo logs in" skopeo login --cert-dir "$home/certs" -u "$user" -p "$password" "$registry"
fi

if have podman; then
    check "podman trusts no unknown authority" refused pod login --cert-dir "$home/none" -u "$user" -p "$password" "$registry"
    check "podman logs in" pod login --cert-dir "$home/certs" -u "$user" -p "$password" "$registry"
    check "podman imports an image" pod import "$home/root.tar" "$registry/$user/tls:podman"
    check "podman pushes" pod push --cert-dir "$home/certs" "$registry/$user/tls:podman"
    check "podman pulls" pod pull --cert-dir "$home/certs" "$registry/$user/tls:podman"
    login_as() { pod login --cert-dir "$home/certs" -u "$1" -p "$2" "$registry"; }
    pull() { pod pull --cert-dir "$home/certs" "$registry/$user/tls:podman"; }
    robots podman
    chmod -R u+w "$home/podman" 2> /dev/null || true
fi

if command -v skopeo > /dev/null && command -v podman > /dev/null; then
    check "skopeo logs in again" skopeo login --cert-dir "$home/certs" -u "$user" -p "$password" "$registry"
    check "skopeo copies" skopeo copy --src-cert-dir "$home/certs" --dest-cert-dir "$home/certs" \
        "docker://$registry/$user/tls:podman" "docker://$registry/$user/tls:skopeo"
    login_as() { skopeo login --cert-dir "$home/certs" -u "$1" -p "$2" "$registry"; }
    pull() { skopeo inspect --cert-dir "$home/certs" "docker://$registry/$user/tls:skopeo"; }
    robots skopeo
fi

# Its daemon looks for the authority in /etc/docker/certs.d, which it has for itself here.
with_authority() {
    # shellcheck disable=SC2016
    exec unshare -m sh -c 'mount -t tmpfs margay-tls /etc/docker && mkdir -p "/etc/docker/certs.d/$registry" &&
        cp "$home/certs/ca.crt" "/etc/docker/certs.d/$registry/ca.crt" && exec "$@"' sh "$@"
}
start_with_authority() {
    [ -d /etc/docker ] || { mkdir /etc/docker && made=/etc/docker; } || return 1
    export registry home
    start_engine with_authority
}

if have docker; then
    if start_with_authority; then
        check "docker is refused with a wrong password" refused docker login -u "$user" -p wrong "$registry"
        check "docker logs in" docker login -u "$user" -p "$password" "$registry"
        check "docker imports an image" docker import "$home/root.tar" "$registry/$user/tls:docker"
        check "docker pushes" docker push "$registry/$user/tls:docker"
        check "docker removes and pulls" sh -c "docker rmi '$registry/$user/tls:docker' && docker pull '$registry/$user/tls:docker'"
        login_as() { docker login -u "$1" -p "$2" "$registry"; }
        pull() { docker pull "$registry/$user/tls:docker"; }
        robots docker
    else
        no_engine
    fi
fi

if declare -F pull > /dev/null && [ "$SECONDS" -lt $((ends - 5)) ]; then
    check "a robot for a minute logs in" login_as "$user+short" "$short"
    check "a robot for a minute pulls" pull
    check "a robot for a minute is refused within 5 s of its end" refused_within $((ends + 5 - SECONDS)) pull
    check "and not before that" test "$SECONDS" -ge $((ends - 1))
else
    echo "skip  a robot for a minute: it is over"
fi
robot rm "$user+short" > /dev/null || true

result
