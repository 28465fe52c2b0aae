#!/usr/bin/env bash
# The runtime on 64-bit Arm, without an Arm board: Debian arm64 under qemu-user runs tests/runtime and checks a bundle.
#
#   PYTHON=.venv/bin/python scripts/aarch64.sh [FOLDER]
#
# FOLDER keeps Debian, the wheels and the bundle between runs (3 GB; by default in the user's cache). Needs root, for
# chroot and mounts, and the Debian packages qemu-user-static, debootstrap and binfmt-support. Takes about ten
# minutes, of which half when FOLDER is there already. It proves that outputs are right; latencies of an emulation mean nothing.
set -euo pipefail

SUITE=bookworm
PYTHON_THERE=3.11
# Cores without a dot product, with it, and with all that qemu knows (i8mm, bf16, SVE): other kernels of ONNX Runtime each.
CORES=(cortex-a53 cortex-a76 max)
# Newer releases of ONNX Runtime crash under the qemu of Debian 12 (7.2) as soon as they are imported.
THERE=(numpy pillow filelock platformdirs 'onnxruntime<1.28')
FOR_TESTS=(pytest scipy onnx)

[ "$(id -u)" = 0 ] || { echo "aarch64.sh needs root, for chroot and mounts" >&2; exit 2; }
for tool in debootstrap qemu-aarch64-static update-binfmts; do
  command -v "$tool" >/dev/null || {
    echo "$tool is missing; run: apt-get install qemu-user-static debootstrap binfmt-support" >&2
    exit 2
  }
done
# Its own mounts, which are gone when this ends, however it ends.
[ "${EDGEMIM_AARCH64:-}" = mounts ] || EDGEMIM_AARCH64=mounts exec unshare --mount --propagation private "$0" "$@"

python=$(realpath -s "${PYTHON:-.venv/bin/python}")
folder=$(realpath -m "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/edgemim/aarch64}")
debian=$folder/debian
work=$debian/opt/edgemim
cd "$(dirname "$0")/.."

say() { echo "== $*" >&2; }
there() {
  chroot "$debian" /usr/bin/env -i HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 PYTHONPATH=/opt/edgemim/site "$@"
}

register() {
  [ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  [ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || update-binfmts --enable qemu-aarch64
}

install_debian() {
  [ -e "$debian/etc/edgemim-ready" ] && return
  say "Debian $SUITE arm64 into $debian"
  rm -rf "$debian"
  mkdir -p "$debian"
  debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 "$SUITE" "$debian" >&2
  # The second stage runs every package's scripts under emulation, for half an hour and more; Python needs only the files.
  for package in "$debian"/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --directory "$debian"
  done
  # In a container debootstrap leaves links to folders of this machine, which lead nowhere from inside.
  find "$debian/proc" "$debian/sys" "$debian/dev" -maxdepth 0 -type l -delete
  mkdir -p "$debian/proc" "$debian/sys" "$debian/dev"
  echo root:x:0:0:root:/root:/bin/sh >"$debian/etc/passwd"
  touch "$debian/etc/edgemim-ready"
}

# pip of this machine unpacks the wheels of the other one: that needs no emulation.
pip_there() {
  "$python" -m pip install --quiet --upgrade --target "$work/site" --only-binary=:all: --implementation cp \
    --python-version "$PYTHON_THERE" --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 "$@"
}

install_edgemim() {
  say "packages"
  rm -rf build "$work/wheel" "$work/tests" "$work/docs"  # build/ may hold modules that are gone since
  mkdir -p "$work/tests"
  "$python" -m build --wheel --outdir "$work/wheel" . >"$folder/build.log"
  [ -e "$work/site/onnxruntime" ] || pip_there "${THERE[@]}" "${FOR_TESTS[@]}"
  pip_there --no-deps "$work"/wheel/*.whl
  cp -r tests/conftest.py tests/runtime "$work/tests/"
  cp -r docs "$work/"  # tests read what the documents promise
  cp pyproject.toml "$work/"
}

make_bundle() {
  [ -e "$work/bundle/manifest.json" ] && return
  say "a small model of the built-in digits, and its bundle"
  "$python" -m edgemim pretrain --data digits --recipe mae-small --steps 50 --out "$folder/backbone" --overwrite \
    --set backbone.patch_size=8 --set backbone.embed_dim=64 --set backbone.depth=4 --set backbone.num_heads=2 >&2
  "$python" -m edgemim finetune "$folder/backbone" --data digits --recipe finetune-small --steps 500 \
    --out "$folder/model" --overwrite >&2
  "$python" -m edgemim export "$folder/model" --target arm64 --out "$work/bundle" --overwrite \
    --evaluation-count 200 >&2
}

run_tests() {
  say "tests/runtime"
  rm -f "$work/tests.xml"
  there sh -c 'cd /opt/edgemim && python3 -m pytest -p no:cacheprovider --junit-xml tests.xml tests/runtime' || true
}

check() {
  rm -rf "$work"/report-*
  for core in "${CORES[@]}"; do
    say "check on $core"
    local code=0
    there QEMU_CPU="$core" python3 -m edgemim.runtime check /opt/edgemim/bundle --out "/opt/edgemim/report-$core" \
      --threads 1 --runs 16 --seconds 0.1 --overwrite >"$work/report-$core.md" || code=$?
    echo "$code" >"$work/report-$core.code"
  done
  say "check on this machine"
  "$python" -m edgemim.runtime check "$work/bundle" --out "$work/report-host" --backend onnxruntime \
    --runs 16 --seconds 0.1 --overwrite >"$work/report-host.md" || true
}

mkdir -p "$folder"
export PYTHONPATH=$PWD
register
install_debian
mount -t proc proc "$debian/proc"
mount --rbind /sys "$debian/sys"
mount --rbind /dev "$debian/dev"
install_edgemim
make_bundle
run_tests
check
code=0
"$python" scripts/aarch64_summary.py "$work" "${CORES[@]}" >"$folder/summary.json" || code=$?
[ -s "$folder/summary.json" ] && cp "$folder/summary.json" benchmarks/results/aarch64.json
say "see benchmarks/results/aarch64.json"
exit "$code"
