#!/bin/sh
# Makes one package of the appliance: builds what is missing, then packs. Prints path, sizes and digest.
#   ./package_rts.sh [--model FILE.gguf] [--arch x86_64|aarch64] [--out FILE] [--sign KEYFILE]
#                    [--binary FILE] [--manifest FILE.toml] [--add NAME=FILE]...
# Without --model the generated system model goes in; without --binary the executables are built here, and with it
# a vb-services beside that file goes in too. The format is `vector_boot rts`'s alone.
set -eu
root=$(cd "$(dirname "$0")" && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/vector-boot"
PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"

fail() { # fail STATUS TEXT
	echo "package_rts.sh: $2" >&2
	exit "$1"
}

host=$(uname -m)
arch=$host model='' out=vector_boot.rts binary='' services=''
pack_words=0 # How many of the positional parameters are words for `rts pack`; they are kept at the end.
while [ "$#" -gt "$pack_words" ]; do
	word=$1
	shift
	case "$word" in
	--model | --arch | --out | --binary | --sign | --manifest | --add) ;;
	-h | --help)
		sed -n '2,6s/^# \{0,1\}//p' "$0"
		exit 0
		;;
	*) fail 2 "unknown word $word, expected one of --model --arch --out --sign --binary --manifest --add" ;;
	esac
	[ "$#" -gt "$pack_words" ] || fail 2 "$word: expected a value"
	value=$1
	shift
	case "$word" in
	--model) model=$value ;;
	--arch) arch=$value ;;
	--out) out=$value ;;
	--binary) binary=$value ;;
	*)
		set -- "$@" "$word" "$value"
		pack_words=$((pack_words + 2))
		;;
	esac
done
case "$arch" in
x86_64 | aarch64) ;;
*) fail 2 "--arch $arch: expected x86_64 or aarch64" ;;
esac
# A key or file that is not there is said before minutes of building, not after.
for file in "$model" "$binary"; do
	[ -z "$file" ] || [ -r "$file" ] || fail 1 "$file: cannot be read"
done

# The first cargo whose compiler is new enough: the user's own, then Debian's rustc-web.
find_cargo() {
	minimum=$(sed -n 's/^rust-version = "1\.\([0-9]*\)"$/\1/p' "$root/Cargo.toml")
	for cargo in "$(command -v cargo || true)" /usr/bin/cargo; do
		[ -x "$cargo" ] || continue
		tools=$(dirname "$cargo")
		found=$("$tools/rustc" --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
		[ "${found:-0}" -lt "$minimum" ] || return 0
	done
	fail 1 "no Rust of 1.$minimum or later"
}

# Outputs of this clone alone: two clones must not hand each other their executables.
target_folder="$cache/build/$(printf %s "$root" | sha256sum | cut -c1-8)"

build() { # build ARCH PROFILE: sets $built to the folder of the two executables
	target=$1-unknown-linux-gnu
	"$root/qemu/host-tools" build
	find_cargo
	if [ "$1" != "$host" ]; then
		command -v "$1-linux-gnu-gcc" >/dev/null || fail 1 "no linker for $1; run once: apt-get install gcc-$1-linux-gnu"
		[ -d "$("$tools/rustc" --print target-libdir --target "$target")" ] ||
			fail 1 "no Rust library for $target; run once: rustup target add $target (Debian: libstd-rust-web-dev of that architecture)"
		linker=$(echo "CARGO_TARGET_${target}_LINKER" | tr 'a-z-' 'A-Z_')
		export "$linker=$1-linux-gnu-gcc"
	fi
	echo "package_rts.sh: building for $target, profile $2" >&2
	# Static and movable (ASLR); no path of this host in the executables. Only here, never in .cargo/config.toml:
	# cargo would drop the cdylib there.
	(
		cd "$root"
		PATH="$tools:$PATH" CARGO_TARGET_DIR="$target_folder" \
			RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=pie --remap-path-prefix=$root=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo" \
			"$tools/cargo" build --locked --profile "$2" --target "$target" --package vector_boot --features standalone --bins
	) >&2
	built="$target_folder/$target/$2"
}

tool=''
if [ -n "$binary" ]; then
	services="$(dirname "$binary")/vb-services"
	[ -f "$services" ] || services=''
	# The packer is the binary itself where this host can run it.
	case "$binary" in */*) run=$binary ;; *) run=./$binary ;; esac
	if "$run" rts --help >/dev/null 2>&1; then tool=$run; fi
else
	build "$arch" appliance
	binary="$built/vector_boot" services="$built/vb-services"
	[ "$arch" != "$host" ] || tool=$binary
fi
if [ -z "$tool" ]; then
	build "$host" quick
	tool="$built/vector_boot"
fi

if [ -z "$model" ]; then
	mkdir -p "$target_folder"
	model="$target_folder/vectorland.gguf"
	"$tool" gguf default "$model"
fi
[ -z "$services" ] || set -- --services "$services" "$@"
exec "$tool" rts pack --arch "$arch" --binary "$binary" --model "$model" --out "$out" "$@"
