# Source me: puts a Rust toolchain that can build $GUEST_TARGET into the environment and sets GUEST_CARGO_ARGS.
#
# GUEST_TOOLCHAIN=rustup  use a target that rustup has installed; never installs one
# GUEST_TOOLCHAIN=debian  use Debian's rustc-web, unpacked into $GUEST_PREFIX without root (864 MB, about 90 s)
# GUEST_TOOLCHAIN=auto    the first of the two that works (default)
GUEST_TARGET=${GUEST_TARGET:-wasm32-wasip2}
GUEST_TOOLCHAIN=${GUEST_TOOLCHAIN:-auto}
GUEST_PREFIX=${GUEST_PREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/margay-guest-rust}
_samples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

_installed() { [ -d "$(rustc --print sysroot)/lib/rustlib/$GUEST_TARGET/lib" ]; }

# Fetches the packages into $GUEST_PREFIX and links them into the places where rustc looks.
# Names that carry a version, like libllvm22, come from rustc-web's own dependencies.
_unpack_debian() (
  set -e
  rm -rf "$GUEST_PREFIX"
  mkdir -p "$GUEST_PREFIX/debs"
  [ "$(id -u)" != 0 ] || apt-get -qq update # an empty package list finds nothing
  std=$(apt-cache depends libstd-rust-web-dev | sed -n 's/.*Depends: \(libstd-rust-web-[0-9.]*\)$/\1/p')
  llvm=$(apt-cache depends rust-web-llvm | sed -n 's/.*Depends: llvm-\([0-9]*\)$/\1/p')
  if [ -z "$std" ] || [ -z "$llvm" ]; then
    echo "error: Debian's rustc-web is not in the package lists" >&2
    echo "hint: run apt-get update, or rustup target add $GUEST_TARGET" >&2
    exit 1
  fi
  cd "$GUEST_PREFIX/debs"
  apt-get -qq -o APT::Sandbox::User=root download rustc-web libstd-rust-web-dev "$std" rust-web-src rust-web-llvm \
    wasi-libc "lld-$llvm" "libllvm$llvm"
  for deb in *.deb; do dpkg -x "$deb" ..; done
  ls > ../packages.txt
  cd ..
  rm -rf debs
  usr=$GUEST_PREFIX/usr
  bin=$usr/lib/rustlib/x86_64-unknown-linux-gnu/bin
  mkdir -p "$bin"
  ln -sf "../../../llvm-$llvm/bin/wasm-ld" "$bin/wasm-ld"
  ln -sf "../../../llvm-$llvm/bin/lld" "$bin/rust-lld"
  for target in wasm32-wasip1 wasm32-wasip2; do
    own=$usr/lib/rustlib/$target/lib/self-contained
    mkdir -p "$own"
    cp "$usr"/lib/wasm32-wasi/{libc.a,crt1-reactor.o} "$own/"
    LD_LIBRARY_PATH=$usr/lib/x86_64-linux-gnu RUSTC_BOOTSTRAP=1 "$usr/bin/rustc" --target $target --edition 2021 \
      --crate-type lib --emit obj -Copt-level=s -Cpanic=abort -o "$own/crt1-command.o" "$_samples/crt1-command.rs"
  done
  touch "$GUEST_PREFIX/.ok"
)

case $GUEST_TOOLCHAIN in
  auto) if _installed; then GUEST_TOOLCHAIN=rustup; else GUEST_TOOLCHAIN=debian; fi ;;
  rustup)
    if ! _installed; then
      echo "error: the target \`$GUEST_TARGET\` is not installed" >&2
      echo "hint: run rustup target add $GUEST_TARGET, or set GUEST_TOOLCHAIN=debian" >&2
      return 1
    fi ;;
  debian) ;;
  *) echo "error: GUEST_TOOLCHAIN is \`$GUEST_TOOLCHAIN\`; it takes auto, rustup or debian" >&2; return 1 ;;
esac

GUEST_CARGO_ARGS=(--release --locked --target "$GUEST_TARGET")
_flags=("--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=/deps" "--remap-path-prefix=$_samples=/samples")
if [ "$GUEST_TOOLCHAIN" = debian ]; then
  [ -e "$GUEST_PREFIX/.ok" ] || _unpack_debian || return 1
  unset RUSTUP_TOOLCHAIN RUSTC_WRAPPER
  export LD_LIBRARY_PATH=$GUEST_PREFIX/usr/lib/x86_64-linux-gnu RUSTC=$GUEST_PREFIX/usr/bin/rustc RUSTC_BOOTSTRAP=1
  GUEST_CARGO_ARGS+=(-Zbuild-std=std,panic_abort)
  _flags+=("--remap-path-prefix=$GUEST_PREFIX/usr/lib/rustlib/src/rust=/rustc")
fi
# A heap from the start: a memory that grows while a request runs is grown and cut back for each request, two system calls.
_flags+=("-Clink-arg=--initial-heap=524288")
# No path of this machine may end up in a guest, or two machines would build different bytes.
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf '%s' "${_flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
echo "guest toolchain: $GUEST_TOOLCHAIN, $("${RUSTC:-rustc}" --version), target $GUEST_TARGET" >&2
