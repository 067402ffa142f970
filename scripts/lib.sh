# shellcheck shell=bash
# What every script of the door shares: messages, places, and running a
# command as one of Keelson's users. Sourced first by all of them.

set -euo pipefail
# The last command of a pipe runs in this shell, so that it can set variables.
shopt -s lastpipe
unset CDPATH MAKEFLAGS MFLAGS MAKELEVEL GNUMAKEFLAGS
export LC_ALL=C.UTF-8
umask 022

# Unset the variables of the environment whose names match.
unset_all() {
	local variable
	for variable in $(compgen -e | grep -E "$1" || true); do
		unset "$variable"
	done
}

# What tells clients of PostgreSQL whom to connect to, and how.
unset_all '^PG[A-Z]+$'

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# The major versions of PostgreSQL and clang that this Debian has.
# shellcheck disable=SC1091 # the system's
case $(. /etc/os-release 2>/dev/null && echo "${VERSION_ID:-}") in
	13) PG_MAJOR=17 CLANG_MAJOR=19 ;;
	*) PG_MAJOR=15 CLANG_MAJOR=14 ;;
esac
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/$PG_MAJOR/bin/pg_config}
PG_MAJOR=$(basename "$(dirname "$(dirname "$PG_CONFIG")")")

say() {
	printf '%s\n' "$*"
}

# Print the reason, and below it any further lines, and end.
fail() {
	printf 'keelson: %s\n' "$1" >&2
	shift
	[ $# -eq 0 ] || printf '  %s\n' "$@" >&2
	exit 1
}

# Run a command; show what it said only if it fails.
quietly() {
	local output
	if ! output=$("$@" 2>&1); then
		printf '%s\n' "$output" >&2
		fail "$* failed"
	fi
}

is_root() {
	[ "$(id -u)" = 0 ]
}

# Become a user and a command, outside the clone, which that user may not be
# able to enter. An ordinary person can only be that person.
become() {
	local user=$1
	shift
	cd /
	if is_root; then
		exec setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups \
			env HOME=/ USER="$user" LOGNAME="$user" "$@"
	fi
	exec "$@"
}

# Run a command as a user.
as_user() {
	(become "$@")
}

# Wait until a command succeeds, at most so many tenths of a second.
wait_for() {
	local tenths=$1
	shift
	while ! "$@"; do
		[ "$((tenths -= 1))" -gt 0 ] || return 1
		sleep 0.1
	done
}

# Write standard input to a file, by renaming, only if that changes it. Sets
# file_changed if it did.
write_file() {
	local file=$1 mode=$2
	file_changed=
	(umask 077 && cat >"$file.new")
	chmod "$mode" "$file.new"
	if cmp -s "$file.new" "$file"; then
		rm -f "$file.new"
	else
		mv -f "$file.new" "$file"
		file_changed=yes
	fi
}

# 32 random bytes in letters that need no quoting anywhere.
random_secret() {
	head -c 32 /dev/urandom | base64 -w 0 | tr '+/' '-_' | tr -d '='
}

checksum() {
	sha256sum "$@" | cut -c 1-64
}
