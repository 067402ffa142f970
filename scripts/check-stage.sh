# shellcheck shell=bash
# The stage: a folder of short name with a copy of the clone, where the tests'
# user may read and write whatever the clone's own path and modes are.
#
#   src/     the clone, built          pgsql/   PostgreSQL with the extension
#   vectors/ the published vectors     tools/   programs that are not installed
#   tmp/     scratch of the tests      sql/     the cluster of the SQL tests
#   small/   file systems that a test may fill, as root

CHECK_USER=keelson-check
TOOLS=$ROOT/regress/tools

make_stage() {
	local vectors=$1 folder
	make_check_user
	folder=$(scratch_folder)
	# What failed checks have left is kept for a day.
	find "$folder" -maxdepth 1 -name 'keelson-check.*' \( -user "$CHECK_USER" -o -user "$(id -u)" \) -mmin +1440 | while read -r STAGE; do
		remove_small_disks
		rm -rf "$STAGE"
	done
	STAGE=$(mktemp -d "$folder/keelson-check.XXXXXX")
	chmod 0755 "$STAGE"
	SOURCE=$STAGE/src
	mkdir "$SOURCE" "$STAGE/tmp" "$STAGE/tools" "$STAGE/sql"
	tar -C "$ROOT" --exclude=./var --exclude=./.git --exclude=./bench/peers/node_modules -cf - . | tar -C "$SOURCE" -xf -
	[ -z "$vectors" ] || cp -r "$vectors" "$STAGE/vectors"
	[ ! -d "$TOOLS" ] || cp -r "$TOOLS/." "$STAGE/tools"
	STAGE_BIN=$STAGE/pgsql/usr/lib/postgresql/$PG_MAJOR/bin
}

# Two file systems that a full disk can be tried on: in files, or else in
# memory. What cannot be had is skipped by the test.
make_small_disks() {
	local name size disk
	is_root || return 0
	for name in data:192 wal:96; do
		size=${name#*:}
		disk=$STAGE/small/${name%:*}
		mkdir -p "$disk"
		truncate -s "${size}M" "$disk.image"
		if ! { mkfs.ext4 -q -m 0 "$disk.image" && mount -o loop "$disk.image" "$disk"; } >/dev/null 2>&1 &&
			! mount -t tmpfs -o "size=${size}m" tmpfs "$disk" 2>/dev/null; then
			say "no small file system can be mounted: full disks are not tried"
			remove_small_disks
			return
		fi
	done
}

remove_small_disks() {
	local name
	for name in data wal; do
		! mountpoint -q "$STAGE/small/$name" || umount -l "$STAGE/small/$name"
	done
	rm -rf "$STAGE/small"
}

# As root the tests run as a system user of their own, who has nothing to do
# with any running cluster.
make_check_user() {
	if ! is_root; then
		CHECK_USER=$(id -un)
	elif ! id "$CHECK_USER" >/dev/null 2>&1; then
		say "creating the system user $CHECK_USER"
		useradd --system --user-group --no-create-home --home-dir /nonexistent \
			--shell /usr/sbin/nologin "$CHECK_USER" || fail "useradd $CHECK_USER failed"
	fi
}

give_stage() {
	chmod -R a+rX "$STAGE"
	! is_root || chown -R "$CHECK_USER:$CHECK_USER" "$STAGE"
}

# A folder of short name that programs may be run from.
scratch_folder() {
	local folder probe
	for folder in /tmp /var/tmp; do
		probe=$(mktemp "$folder/keelson-probe.XXXXXX") || continue
		printf '#!/bin/sh\n' >"$probe"
		chmod +x "$probe"
		if "$probe" 2>/dev/null; then
			rm -f "$probe"
			echo "$folder"
			return
		fi
		rm -f "$probe"
	done
	fail "neither /tmp nor /var/tmp lets programs be run"
}

# What the tests take from npm, as the lock file says.
fetch_npm_packages() {
	[ -f "$ROOT/regress/package-lock.json" ] || return 0
	[ "$ROOT/regress/package-lock.json" -nt "$ROOT/regress/node_modules/.package-lock.json" ] || return 0
	say "fetching the tests' npm packages"
	if (cd "$ROOT/regress" && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error) >&2; then
		touch "$ROOT/regress/node_modules/.package-lock.json"
	else
		say "npm failed: the tests that need its packages are skipped"
	fi
}

# promtool checks our metrics. It comes out of its package without the package
# being installed, which would start a Prometheus server.
fetch_promtool() {
	local folder
	! command -v promtool >/dev/null || return 0
	[ ! -x "$TOOLS/promtool" ] || return 0
	say "fetching promtool out of the Debian package prometheus"
	folder=$(mktemp -d)
	if (cd "$folder" && apt-get -q download prometheus >/dev/null 2>&1 && dpkg-deb -x ./*.deb .); then
		mkdir -p "$TOOLS"
		cp "$folder/usr/bin/promtool" "$TOOLS/"
	else
		say "it cannot be had: the test that needs it is skipped"
	fi
	rm -rf "$folder"
}
