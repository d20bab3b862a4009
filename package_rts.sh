#!/bin/sh
# Makes one package of the appliance: builds what is missing, then packs. Prints path, sizes and digest.
#   ./package_rts.sh [--model FILE.gguf] [--arch x86_64|aarch64] [--out FILE] [--sign KEYFILE]
#                    [--binary FILE] [--manifest FILE.toml] [--add NAME=FILE]...
# Without --model the generated system model goes in; without --binary the executables are built here, and with it
# a vb-services beside that file goes in too. The format is `vector_boot rts`'s alone.
set -eu
root=$(cd "$(dirname "$0")" && pwd)
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

build() { # build ARCH PROFILE: sets $built to the folder of the two executables
	"$root/qemu/host-tools" build -- --arch "$1"
	built=$(PYTHONPATH="$root/qemu" PYTHONDONTWRITEBYTECODE=1 python3 -m machine.toolchain --arch "$1" --profile "$2")
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
	scratch=$(mktemp -d)
	trap 'rm -rf "$scratch"' EXIT
	model="$scratch/vectorland.gguf"
	"$tool" gguf default "$model"
fi
[ -z "$services" ] || set -- --services "$services" "$@"
"$tool" rts pack --arch "$arch" --binary "$binary" --model "$model" --out "$out" "$@"
