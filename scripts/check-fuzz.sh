# shellcheck shell=bash
# Fuzzing: building the targets of regress/fuzz in the clone, running them in
# the stage. Those of the gateway are programs; those of the extension run in a
# server of one process, in which a build of the extension with libFuzzer in it
# stands for the extension.
#
#   fuzz/pgsql/   the stage's PostgreSQL with that build
#   fuzz/data/    its cluster            fuzz/keyring/  its master key
#   fuzz/corpus/  a folder of inputs for each target

FUZZ_INPUTS=3000

# Build in the clone, so that the next run finds it done.
build_fuzz() {
	exec 8<"$ROOT/Makefile"
	flock 8
	run_make "$ROOT/regress/fuzz" "PG_CONFIG=$PG_CONFIG"
	exec 8<&-
}

# Put the seeds, and what a folder of inputs has, if one is given, into the
# stage; make the cluster.
stage_fuzz() {
	local data=$STAGE/fuzz/data
	mkdir "$STAGE/fuzz" "$STAGE/fuzz/keyring" "$STAGE/fuzz/found"
	"$ROOT/regress/fuzz/corpora" "$STAGE/fuzz/corpus" ${1:+"$1"}
	[ ! -d "${2:-}" ] || cp -r "$2/." "$STAGE/fuzz/corpus"
	cp -al "$STAGE/pgsql" "$STAGE/fuzz/pgsql"
	cp --remove-destination "$ROOT/regress/fuzz/build/keelson.so" "$ROOT/regress/fuzz/build/sanitizer_first.so" \
		"$STAGE/fuzz/pgsql/usr/lib/postgresql/$PG_MAJOR/lib/"
	printf 'key 1 %s\n' "$(head -c 32 /dev/urandom | base64 -w 0)" >"$STAGE/fuzz/keyring/keyring"
	chmod -R a+rX "$STAGE/fuzz"
	chmod 0600 "$STAGE/fuzz/keyring/keyring"
	! is_root || chown -R "$CHECK_USER:$CHECK_USER" "$STAGE/fuzz"
	as_tester initdb -D "$data" -U postgres -E UTF8 --locale=C.UTF-8 --no-sync --auth=trust >"$STAGE/fuzz/initdb.log" || return
	printf '%s\n' 'shared_preload_libraries = keelson' "keelson.keyring_file = '$STAGE/fuzz/keyring/keyring'" \
		'shared_buffers = 32MB' 'max_connections = 10' 'fsync = off' 'log_min_messages = fatal' |
		as_tester_writes "$data/postgresql.conf"
	echo 'create database keelson' | single_server postgres >"$STAGE/fuzz/setup.log" 2>&1 || return
	# A line is a statement. The last one makes the key that tokens are signed with.
	single_server keelson >>"$STAGE/fuzz/setup.log" 2>&1 <<-'END'
		create extension keelson cascade
		select keelson.migrate()
		insert into keelson.seal_purposes (name, scope, description) values ('fuzz-server', 'server', 'What fuzzing seals.')
		create function keelson_fuzz(target text, variadic arguments text[]) returns void language c as '$libdir/keelson'
		select keelson.jwt_sign('{"exp": 4000000000}') is not null
	END
}

# A server of one process, which takes its statements from standard input.
single_server() {
	local tree=$STAGE/fuzz/pgsql/usr/lib/postgresql/$PG_MAJOR sanitizer
	sanitizer=$(clang -print-resource-dir)/lib/linux/libclang_rt.asan-$(uname -m).so
	as_tester_reads env "LD_PRELOAD=$sanitizer $tree/lib/sanitizer_first.so" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 GLIBC_TUNABLES=glibc.rtld.optional_static_tls=16384 \
		"$tree/bin/postgres" --single -D "$STAGE/fuzz/data" "$1"
}

# Run a target with libFuzzer's arguments, on its corpus; the exit status is libFuzzer's.
fuzz_target() {
	local name=$1 corpus=$STAGE/fuzz/corpus/$1 arguments
	shift
	set -- "-artifact_prefix=$STAGE/fuzz/found/$name-" "$@" "$corpus"
	case $name in
		framing) set -- -max_len=4096 "-dict=$SOURCE/regress/fuzz/gateway/http.dict" "$@" ;;
		# A head has 16 KiB.
		request) set -- -max_len=20480 "-dict=$SOURCE/regress/fuzz/gateway/http.dict" "$@" ;;
		*) set -- -max_len=4096 "$@" ;;
	esac
	if [ -x "$SOURCE/regress/fuzz/build/$name" ]; then
		as_tester "$SOURCE/regress/fuzz/build/$name" "$@"
	else
		printf -v arguments ", '%s'" "$@"
		echo "select keelson_fuzz('$name'$arguments)" | single_server keelson
	fi
}

selected_targets() {
	local name
	for name in $("$ROOT/regress/fuzz/corpora"); do
		! is_selected fuzz "$name" || echo "$name"
	done
}

# The bounded run of "make check": the same inputs each time.
run_fuzz() {
	local -a names
	local name vectors=
	[ "$MODE" = plain ] || return 0
	mapfile -t names < <(selected_targets)
	[ "${#names[@]}" -gt 0 ] || return 0
	say "== fuzzing"
	[ ! -d "$STAGE/vectors" ] || vectors=$STAGE/vectors
	if ! stage_fuzz "$vectors"; then
		failed=$((failed + 1))
		tail -n 30 "$STAGE/fuzz/setup.log"
		return
	fi
	for name in "${names[@]}"; do
		if fuzz_target "$name" -seed=1815 "-runs=$FUZZ_INPUTS" -timeout=120 -verbosity=0 >"$STAGE/fuzz/$name.log" 2>&1; then
			passed=$((passed + 1))
		else
			failed=$((failed + 1))
			say "fuzz/$name failed: $(grep -aE 'does not hold|an error was raised|runtime error|ERROR' "$STAGE/fuzz/$name.log" | head -n 3)"
		fi
	done
}
