#!/bin/bash
# Builds every guest and puts it beside its source.
#
#   build.sh            build, copy into the folders, rewrite SHA256SUMS and packages.lock
#   build.sh --check    build elsewhere and compare with SHA256SUMS; skipped where the toolchain is another one
#
# TARGET_DIR (default: samples/target) is where cargo works, JOBS (default 2) how many compilers run at once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"

case ${1:-} in
  '') mode=write ;;
  --check) mode=check ;;
  *) echo "usage: build.sh [--check]" >&2; exit 2 ;;
esac

# guest, target, file that cargo makes, file that is committed
guests() {
  cat <<'LIST'
httpd      wasm32-wasip2 httpd.wasm      httpd/httpd.wasm
adopt      wasm32-wasip2 adopt.wasm      adopt/adopt.wasm
hello      wasm32-wasip2 hello.wasm      hello/hello.wasm
hello      wasm32-wasip1 hello.wasm      hello/hello-p1.wasm
probe-http wasm32-wasip2 probe_http.wasm hostile/probe-http.wasm
probe-cli  wasm32-wasip2 probe-cli.wasm  hostile/probe-cli.wasm
probe-cli  wasm32-wasip1 probe-cli.wasm  hostile/probe-cli-p1.wasm
LIST
}

# Builds all guests of one target in a shell of its own, because guest-env.sh sets variables for that target.
build() (
  GUEST_TARGET=$1
  . "$here/guest-env.sh"
  echo "$GUEST_TOOLCHAIN" > "$target_dir/toolchain"
  packages=()
  while read -r guest target _; do
    [ "$target" != "$GUEST_TARGET" ] || packages+=(-p "$guest")
  done < <(guests)
  cargo build "${GUEST_CARGO_ARGS[@]}" --target-dir "$target_dir" -j"${JOBS:-2}" "${packages[@]}"
)

target_dir=${TARGET_DIR:-$here/target}
mkdir -p "$target_dir"
prefix=${GUEST_PREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/margay-guest-rust}

for target in wasm32-wasip2 wasm32-wasip1; do build "$target"; done

if [ "$mode" = write ]; then
  while read -r _ target made kept; do cp "$target_dir/$target/release/$made" "$kept"; done < <(guests)
  guests | while read -r _ _ _ kept; do sha256sum "$kept"; done | sort -k2 > SHA256SUMS
  if [ "$(cat "$target_dir/toolchain")" = debian ]; then cp "$prefix/packages.txt" packages.lock; fi
  guests | while read -r _ _ _ kept; do printf '%8d  %s\n' "$(stat -c %s "$kept")" "$kept"; done
  exit
fi

if [ "$(cat "$target_dir/toolchain")" != debian ] || ! cmp -s "$prefix/packages.txt" packages.lock; then
  echo "skipped: the guests build, but only the packages of packages.lock give the bytes of SHA256SUMS" >&2
  exit
fi
wrong=0
while read -r _ target made kept; do
  want=$(sed -n "s|^\([0-9a-f]*\)  $kept\$|\1|p" SHA256SUMS)
  got=$(sha256sum < "$target_dir/$target/release/$made" | cut -d' ' -f1)
  if [ "$got" != "$want" ]; then echo "error: \`$kept\` is not what its source builds: run build.sh" >&2; wrong=1; fi
done < <(guests)
sha256sum --quiet --check SHA256SUMS || wrong=1
[ "$wrong" = 1 ] || echo "every guest is what its source builds"
exit $wrong
