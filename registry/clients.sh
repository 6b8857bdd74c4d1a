#!/usr/bin/env bash
# Moves images with the clients that people have: skopeo, podman, crane, oras, regctl, and Docker's own words over the API.
#
#   registry/clients.sh HOST:PORT USER PASSWORD
#
# The registry must speak plain HTTP on loopback, and USER must be one of its users. Clients that are not installed are
# named and skipped; with CLIENTS=all they are a failure. Debian has skopeo and podman; the others come from Go's module registry:
#
#   go install github.com/google/go-containerregistry/cmd/crane@latest
#   go install oras.land/oras/cmd/oras@latest
#   go install github.com/regclient/regclient/cmd/regctl@latest
#
# `docker` needs its engine. When none answers, root starts one for itself, with its files and without a network.
set -euo pipefail

[ $# -eq 3 ] || { sed -n 2,13p "$0"; exit 2; }
registry=$1 user=$2 password=$3
name=clients
. "$(dirname "${BASH_SOURCE[0]}")/clients-common.sh"
base=$registry/$user

# An OCI layout with one image, made here so that nothing is downloaded: a layer of random bytes, so that it is always new.
make_layout() { # FOLDER ARCHITECTURE OS
    local folder=$1 layer diff config manifest
    mkdir -p "$folder/blobs/sha256" "$folder/root"
    head -c 3000000 /dev/urandom > "$folder/root/bytes"
    echo "$2" > "$folder/root/architecture"
    tar --sort=name --mtime=@0 --owner=0 --group=0 -C "$folder/root" -cf "$folder/layer" bytes architecture
    [ "$3" != linux ] || tar -C "$folder/root" -cf "$home/root.tar" .
    rm -r "$folder/root"
    diff=$(sha256sum < "$folder/layer" | cut -d' ' -f1)
    gzip -n "$folder/layer"
    keep() { local name; name=$(sha256sum < "$1" | cut -d' ' -f1); mv "$1" "$folder/blobs/sha256/$name"; echo "$name"; }
    size() { stat -c %s "$folder/blobs/sha256/$1"; }
    layer=$(keep "$folder/layer.gz")
    printf '{"architecture":"%s","os":"%s","config":{"Cmd":["/bytes"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$2" "$3" "$diff" > "$folder/config"
    config=$(keep "$folder/config")
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:%s","size":%s}]}' \
        "$config" "$(size "$config")" "$layer" "$(size "$layer")" > "$folder/manifest"
    manifest=$(keep "$folder/manifest")
    printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"org.opencontainers.image.ref.name":"v1"},"platform":{"architecture":"%s","os":"%s"}}]}' \
        "$manifest" "$(size "$manifest")" "$2" "$3" > "$folder/index.json"
    echo '{"imageLayoutVersion":"1.0.0"}' > "$folder/oci-layout"
    echo "sha256:$manifest"
}

native=$(make_layout "$home/native" amd64 linux)
wasm=$(make_layout "$home/wasm" wasm wasi)

same() { [ "$1" = "$2" ] || { echo "got $1, wanted $2"; return 1; }; }

if have skopeo; then
    check "skopeo is refused with a wrong password" refused skopeo login --tls-verify=false -u "$user" -p wrong "$registry"
    check "skopeo logs in" skopeo login --tls-verify=false -u "$user" -p "$password" "$registry"
    check "skopeo pushes a native image" skopeo copy --dest-tls-verify=false "oci:$home/native:v1" "docker://$base/skopeo:native"
    check "skopeo pushes a layered Wasm image" \
        skopeo copy --dest-tls-verify=false "oci:$home/wasm:v1" "docker://$base/skopeo:wasm"
    check "skopeo converts to Docker schema 2" \
        skopeo copy --format v2s2 --dest-tls-verify=false "oci:$home/native:v1" "docker://$base/skopeo:v2s2"
    check "skopeo copies between repositories" \
        skopeo copy --src-tls-verify=false --dest-tls-verify=false "docker://$base/skopeo:native" "docker://$base/skopeo-copy:v1"
    check "skopeo pulls" skopeo copy --src-tls-verify=false "docker://$base/skopeo:wasm" "oci:$home/skopeo:v1"
    check "skopeo sees the same digest" \
        same "$(skopeo inspect --tls-verify=false --raw "docker://$base/skopeo:wasm" | sha256sum | cut -c1-64)" "${wasm#sha256:}"
    check "skopeo lists tags" skopeo list-tags --tls-verify=false "docker://$base/skopeo"
    check "skopeo deletes" skopeo delete --tls-verify=false "docker://$base/skopeo-copy:v1"
fi

if have podman; then
    check "podman logs in" pod login --tls-verify=false -u "$user" -p "$password" "$registry"
    check "podman loads a native image" pod pull "oci:$home/native:v1"
    check "podman pushes a native image" pod push --tls-verify=false "$(pod images -q | head -1)" "$base/podman:native"
    check "podman removes it" pod rmi -af
    check "podman pulls a native image" pod pull --tls-verify=false "$base/podman:native"
    check "podman pulls a layered Wasm image" pod pull --tls-verify=false --arch wasm --os wasi "$base/skopeo:wasm"
    check "podman pushes a layered Wasm image" pod push --tls-verify=false "$base/skopeo:wasm" "$base/podman:wasm"
    chmod -R u+w "$home/podman" 2> /dev/null || true
fi

if have crane; then
    check "crane is refused with a wrong password" \
        refused sh -c "crane auth login -u '$user' -p wrong '$registry' && crane --insecure ls '$base/skopeo'"
    check "crane logs in" crane auth login -u "$user" -p "$password" "$registry"
    check "crane pushes a layout" crane --insecure push "$home/wasm" "$base/crane:wasm"
    check "crane sees the same digest" same "$(crane --insecure digest "$base/crane:wasm")" "$wasm"
    check "crane pulls" crane --insecure pull --format oci "$base/crane:wasm" "$home/crane"
    check "crane mounts across repositories" crane --insecure copy "$base/crane:wasm" "$base/crane-copy:v1"
    check "crane tags" crane --insecure tag "$base/crane:wasm" v2
    check "crane lists tags" crane --insecure ls "$base/crane"
    check "crane lists the catalogue" crane --insecure catalog "$registry"
    check "crane validates what it pulls" crane --insecure validate --remote "$base/crane:wasm"
    check "crane deletes" crane --insecure delete "$base/crane-copy@$wasm"
fi

if have oras; then
    echo '{"cat": "tabby"}' > "$home/cat.json"
    cd "$home"
    check "oras is refused with a wrong password" refused oras login --plain-http -u "$user" -p wrong "$registry"
    check "oras logs in" oras login --plain-http -u "$user" -p "$password" "$registry"
    check "oras pushes an artifact" oras push --plain-http --artifact-type application/x-cat "$base/oras:v1" cat.json:application/json
    check "oras attaches a referrer" oras attach --plain-http --artifact-type application/x-note "$base/oras:v1" cat.json:application/json
    check "oras discovers it" sh -c "oras discover --plain-http --format json '$base/oras:v1' | grep -q application/x-note"
    check "oras pulls" oras pull --plain-http -o "$home/oras" "$base/oras:v1"
    check "oras copies a layout" oras cp --from-oci-layout --to-plain-http "$home/wasm:v1" "$base/oras:wasm"
    check "oras copies between repositories" \
        oras cp -r --from-plain-http --to-plain-http "$base/oras:v1" "$base/oras-copy:v1"
    check "oras lists tags" oras repo tags --plain-http "$base/oras"
    check "oras deletes" oras manifest delete --plain-http -f "$base/oras-copy:v1"
    cd - > /dev/null
fi

if have regctl; then
    check "regctl speaks plain HTTP" regctl registry set --tls disabled "$registry" --skip-check
    check "regctl is refused with a wrong password" refused regctl registry login -u "$user" -p wrong "$registry"
    check "regctl logs in" regctl registry login -u "$user" -p "$password" "$registry"
    check "regctl pushes a layout" regctl image copy "ocidir://$home/wasm:v1" "$base/regctl:wasm"
    check "regctl sees the same digest" same "$(regctl image digest "$base/regctl:wasm")" "$wasm"
    check "regctl pushes in chunks" regctl blob put "$base/regctl" < "$home/cat.json"
    check "regctl copies between repositories" regctl image copy "$base/regctl:wasm" "$base/regctl-copy:v1"
    check "regctl pulls" regctl image copy "$base/regctl:wasm" "ocidir://$home/regctl:v1"
    check "regctl lists tags" regctl tag ls "$base/regctl"
    check "regctl deletes a tag" regctl tag delete "$base/regctl-copy:v1"
    check "regctl lists repositories" regctl repo ls "$registry"
fi

if have docker; then
    if docker info > /dev/null 2>&1 || start_engine; then
        check "docker is refused with a wrong password" refused docker login -u "$user" -p wrong "$registry"
        check "docker logs in" docker login -u "$user" -p "$password" "$registry"
        check "docker imports a native image" sh -c "docker import -c 'CMD [\"/bytes\"]' '$home/root.tar' '$base/docker:v1'"
        check "docker pushes a native image" docker push "$base/docker:v1"
        pushed=$(docker inspect -f '{{index .RepoDigests 0}}' "$base/docker:v1" || true)
        check "docker pulls what skopeo pushed" docker pull "$base/skopeo:native"
        check "docker removes and pulls its own again" sh -c "docker rmi '$base/docker:v1' && docker pull '$base/docker:v1'"
        check "docker sees the same digest" same "$(docker inspect -f '{{index .RepoDigests 0}}' "$base/docker:v1")" "$pushed"
        check "docker pulls by digest" docker pull "$pushed"
        check "docker does not find what is not there" refused docker pull "$base/docker:none"
    else
        no_engine
    fi
fi

result
