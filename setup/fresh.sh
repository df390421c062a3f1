#!/usr/bin/env bash
# Prove the README on a bare machine: a Debian with nothing but Python, make, curl and git, made by debootstrap and entered by a mount and pid
# namespace and pivot_root (in a chroot the kernel refuses user namespaces, and sandboxes need them). Takes root, and about 6 GB of disk.
#
#   setup/fresh.sh [--keep] [VERB ...]      make's verbs to run in it, one after the other; default: demo stop test
#
# The committed state is cloned into it. The bare system is cached in $OPENINSPECT_FRESH_CACHE (default: ~/.cache/openinspect-fresh); each run
# works on a copy, which goes with the run unless --keep is given. The network is this machine's; so are its package clients' settings.
set -euo pipefail

SUITE=bookworm
PACKAGES=ca-certificates,curl,git,make,python3
SECONDS_AT_MOST=5400

fail() { printf '\nfresh: %s\nWhat to do: %s\n' "$1" "$2" >&2; exit 1; }
say() { printf '== %s\n' "$*"; }

# --- inside the namespaces, still with the old root ------------------------------------------------------------------------------------
if [ "${1:-}" = --enter ]; then
  root=$2; shift 2
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs -o mode=755 run "$root/run"
  cd "$root"
  mkdir -p .old
  pivot_root . .old
  cd /
  umount -l /.old
  rmdir /.old
  exec env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM="${TERM:-dumb}" LANG=C.UTF-8 \
    bash /root/run-verbs "$@"
fi

# --- outside ---------------------------------------------------------------------------------------------------------------------------
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${OPENINSPECT_FRESH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/openinspect-fresh}
keep=
if [ "${1:-}" = --keep ]; then keep=yes; shift; fi
[ $# -gt 0 ] || set -- demo stop test

[ "$(id -u)" = 0 ] || fail "this takes root" "run it as root: sudo make fresh"
if ! command -v debootstrap >/dev/null; then
  command -v apt-get >/dev/null || fail "debootstrap is missing" "install it with your package manager"
  say "installing debootstrap"
  apt-get install -y --no-install-recommends debootstrap >/dev/null ||
    fail "debootstrap could not be installed" "run: apt-get update && apt-get install debootstrap"
fi
git -C "$checkout" rev-parse HEAD >/dev/null || fail "$checkout is not a git checkout" "run this from a clone"
[ -z "$(git -C "$checkout" status --porcelain --untracked-files=no)" ] ||
  say "note: only what is committed is tried; there are changes that are not"

mkdir -p "$cache"
base=$cache/$SUITE-$(dpkg --print-architecture 2>/dev/null || uname -m)-$(printf %s "$PACKAGES" | sha256sum | cut -c1-8).tar
run=$(mktemp -d "$cache/run.XXXXXX")
clean_up() {
  # The mounts went with the namespace; --one-file-system in case anything should ever be left.
  if [ -n "$keep" ]; then say "kept: $run"; else rm -rf --one-file-system "$run"; fi
}
trap clean_up EXIT

if [ ! -f "$base" ]; then
  say "making a bare Debian $SUITE (once; about a minute)"
  mirror=
  if command -v apt-get >/dev/null; then
    mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null | awk -v s=$SUITE '$1 == s {print $2; exit}')
  fi
  # shellcheck disable=SC2086  # no mirror: debootstrap's own
  debootstrap --variant=minbase --include="$PACKAGES" $SUITE "$run/base" $mirror >"$cache/debootstrap.log" 2>&1 ||
    fail "debootstrap failed; the end of its log: $(tail -n 3 "$cache/debootstrap.log")" "see $cache/debootstrap.log"
  rm -rf "$run"/base/var/cache/apt/archives/*.deb "$run"/base/var/lib/apt/lists/*
  tar -C "$run/base" -cf "$base.new" .
  mv "$base.new" "$base"
  rm -rf --one-file-system "$run/base"
fi

say "unpacking it and cloning $(git -C "$checkout" rev-parse --short HEAD)"
root=$run/root
mkdir "$root"
tar -C "$root" -xf "$base"
(cd "$checkout" && PYTHONDONTWRITEBYTECODE=1 python3 -m setup.clients "$root")
for file in /etc/resolv.conf /etc/hosts; do [ ! -f $file ] || cat $file >"$root$file"; done
[ -z "$(ls -A "$root/usr/local/share/ca-certificates" 2>/dev/null)" ] || chroot "$root" update-ca-certificates >/dev/null 2>&1 || true
git clone -q --no-hardlinks "$checkout" "$root/root/open-inspect"

# The network is shared: where this machine's own server has the usual port, take another.
port=8910
if (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null; then
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi
printf 'export OPENINSPECT_PORT=%s\n' "$port" >>"$root/etc/openinspect-fresh.env"

cat >"$root/root/run-verbs" <<'INSIDE'
set -u
. /etc/openinspect-fresh.env
cd /root/open-inspect
report= status=0
for verb in "$@"; do
  printf '\n== make %s\n' "$verb"
  begun=$SECONDS
  if make "$verb"; then word=passed; else word="FAILED"; status=1; fi
  report+=$(printf '  make %-8s %s in %d s' "$verb" "$word" $((SECONDS - begun)))$'\n'
  [ $status = 0 ] || break
done
# Nothing of the run may stay on the machine outside: what still runs ends with the pid namespace, control groups are the server's to remove.
[ ! -x .venv/bin/openinspect ] || timeout 60 make stop >/dev/null 2>&1 || true
printf '\n== on a bare Debian (%s):\n%s' "$(cat /etc/debian_version)" "$report"
exit $status
INSIDE

status=0
timeout --foreground $SECONDS_AT_MOST \
  unshare --mount --propagation private --pid --fork --kill-child bash "$checkout/setup/fresh.sh" --enter "$root" "$@" || status=$?
[ $status != 124 ] || fail "it took longer than $SECONDS_AT_MOST s and was ended" "see above which verb it was"
exit $status
