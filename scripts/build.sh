# shellcheck shell=bash
# Building, as whoever runs make, and the private copy of PostgreSQL.

JOBS=$(nproc)

# Build the extension and the gateway in the clone, what has changed alone.
build() {
	[ -w "$ROOT/extension" ] || fail "$ROOT is not writable for $(id -un 2>/dev/null || id -u), who is to build in it"
	# Two makes at once take turns.
	exec 8<"$ROOT/Makefile"
	flock 8
	run_make "$ROOT/extension/keelson" "PG_CONFIG=$PG_CONFIG"
	run_make "$ROOT/gateway"
	run_make "$ROOT/extension/keelson/audit/verifier"
	exec 8<&-
}

# Run make in a folder, quietly unless it fails.
run_make() {
	local folder=$1 log
	shift
	log=$(mktemp)
	if ! make -C "$folder" -j "$JOBS" "$@" >"$log" 2>&1; then
		tail -n 40 "$log" >&2
		rm -f "$log"
		fail "make -C $folder $* failed (above are its last lines)"
	fi
	rm -f "$log"
}

# Bring the private PostgreSQL at $1 up to date: a copy of Debian's, since
# PostgreSQL finds its files relative to its program, with the extension built
# in $2 installed. Sets tree_changed if there was anything to do.
refresh_tree() {
	local tree=$1 extension=$2 stamp
	stamp=$(tree_stamp "$extension")
	tree_changed=
	[ "$stamp" != "$(cat "$tree/stamp" 2>/dev/null)" ] || return 0
	tree_changed=yes
	rm -rf "$tree.new"
	mkdir -p "$tree.new/usr/lib/postgresql/$PG_MAJOR/lib" "$tree.new/usr/share/postgresql"
	cp -a "/usr/lib/postgresql/$PG_MAJOR/bin" "$tree.new/usr/lib/postgresql/$PG_MAJOR/"
	cp -a "/usr/lib/postgresql/$PG_MAJOR/lib/"*.so "$tree.new/usr/lib/postgresql/$PG_MAJOR/lib/"
	cp -a "/usr/share/postgresql/$PG_MAJOR" "$tree.new/usr/share/postgresql/"
	run_make "$extension" "PG_CONFIG=$PG_CONFIG" "DESTDIR=$tree.new" install
	printf '%s\n' "$stamp" >"$tree.new/stamp"
	rm -rf "$tree.old"
	[ ! -e "$tree" ] || mv "$tree" "$tree.old"
	mv "$tree.new" "$tree"
	rm -rf "$tree.old"
}

# What a private PostgreSQL is made of, as one checksum.
tree_stamp() {
	{
		find "/usr/lib/postgresql/$PG_MAJOR/bin" "/usr/lib/postgresql/$PG_MAJOR/lib" "/usr/share/postgresql/$PG_MAJOR" \
			-maxdepth 2 -type f -printf '%p %s %T@\n' | sort
		(cd "$1" && sha256sum ./*.so ./*.control ./*--*.sql ./*/keelson-*.txt)
	} | checksum
}
