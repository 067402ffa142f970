# shellcheck shell=bash
# Running each kind of test and counting what passed.

passed=0
failed=0
skipped=0
# How the unit tests are to be built.
UNIT_FLAGS=()
server_up=
# The process that runs tests beside ours.
beside=
# What runs as the tests' user now, and is waited for.
tester=

# Begin to run kinds of tests, one after the other, in a process of their own:
# those through HTTP mostly wait, and so do these now and then. What a kind
# says is shown when it has ended. There the shell ignores the signals that are
# typed; what is tested does not.
begin_beside() {
	(
		said=$STAGE/beside.said
		: >"$said"
		trap 'end_tester; stop_sql_server; cat "$said"' EXIT
		trap 'exit 130' TERM
		for kind in "$@"; do
			"$kind" >"$said" 2>&1
			cat "$said"
			: >"$said"
		done
		printf '%s\n' "$passed $failed $skipped" >"$STAGE/beside"
	) &
	beside=$!
}

# Wait for them, and count what passed.
end_beside() {
	wait "$beside" || true
	beside=
	add_counts "$STAGE/beside"
}

# Run a command as the tests' user, in the staged clone, in the surroundings
# that the tests expect (regress/lib/KeelsonTest.pm): with our standard input,
# or without any. We wait beside it, since a shell does not heed a signal
# before a command in front of it has ended, and "timeout" keeps what is typed
# from the tests.
as_tester_reads() {
	local status=0
	(
		unset_all '^(KEELSON_|PG|ALLOWED_ORIGINS$|CRON_SECRET$|STRIPE_WEBHOOK_SECRET$)'
		export PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
		export KEELSON_TEST_BINDIR=$STAGE_BIN KEELSON_TEST_GATEWAY=$SOURCE/gateway/keelson-gateway
		export PG_TEST_PORT_DIR=$STAGE/tmp/ports KEELSON_TEST_TMP=$STAGE/tmp KEELSON_TEST_TEMPLATE=$STAGE/tmp/template
		export PERL5LIB=$PGXS_TESTS/perl:$SOURCE/regress/lib
		export PG_REGRESS=$PGXS_TESTS/regress/pg_regress PATH="$STAGE/tools:$STAGE_BIN:$PATH" TMPDIR=$STAGE/tmp
		[ ! -d "$STAGE/vectors" ] || export VECTORS=$STAGE/vectors
		[ ! -d "$STAGE/small" ] || export KEELSON_TEST_SMALL=$STAGE/small
		memory_surroundings
		[ "$MODE" != coverage ] || coverage_surroundings
		become "$CHECK_USER" env --default-signal=INT,QUIT --chdir="$SOURCE" timeout -k 10 "${CHECK_SECONDS:-1200}" "$@"
	) <&0 &
	tester=$!
	wait "$tester" || status=$?
	tester=
	return "$status"
}

as_tester() {
	as_tester_reads "$@" </dev/null
}

# Does TESTS select the test of this kind and name?
is_selected() {
	local kind=$1 name=$2 word
	[ -n "${TESTS:-}" ] || return 0
	for word in $TESTS; do
		if [[ $word == */* && $kind/$name == "$word"* ]] || [[ $word != */* && $name == "$word"* ]]; then
			return 0
		fi
	done
	return 1
}

# Print the names of the tests of a kind that TESTS selects: files of a folder
# without their ending.
selected() {
	local kind=$1 folder=$2 ending=$3 file name
	for file in "$folder"/*"$ending"; do
		[ -e "$file" ] || continue
		name=$(basename "$file" "$ending")
		! is_selected "$kind" "$name" || echo "$name"
	done
}

run_unit() {
	local -a names
	mapfile -t names < <(selected unit "$SOURCE/regress/unit" _test.c)
	[ "${#names[@]}" -gt 0 ] || return 0
	say "== unit tests"
	if ! as_tester make -s -C gateway -j "$JOBS" unit-tests "${UNIT_FLAGS[@]}"; then
		failed=$((failed + 1))
		return
	fi
	run_harness "${names[@]/#/regress/unit/}"
}

# The SQL tests and the isolation tests share one cluster with the extension
# in it.
run_sql() {
	local -a names specs
	mapfile -t names < <(selected sql "$SOURCE/sql" .sql)
	mapfile -t specs < <(selected specs "$SOURCE/regress/specs" .spec)
	[ "$((${#names[@]} + ${#specs[@]}))" -gt 0 ] || return 0
	if ! start_sql_server; then
		failed=$((failed + 1))
		tail -n 30 "$STAGE/sql/server.log"
		return
	fi
	if [ "${#names[@]}" -gt 0 ]; then
		say "== SQL tests"
		run_pg_regress "$PGXS_TESTS/regress/pg_regress" "$SOURCE" "${names[@]}"
	fi
	if [ "${#specs[@]}" -gt 0 ]; then
		say "== isolation tests"
		run_pg_regress "$PGXS_TESTS/isolation/pg_isolation_regress" "$SOURCE/regress" "${specs[@]}"
	fi
	stop_sql_server
}

start_sql_server() {
	local data=$STAGE/sql/data keyring=$STAGE/sql/keyring
	printf 'key 1 %s\n' "$(head -c 32 /dev/urandom | base64 -w 0)" | as_tester_writes "$keyring"
	as_tester initdb -D "$data" -U postgres -E UTF8 --locale=C.UTF-8 --no-sync --auth=trust >"$STAGE/sql/initdb.log" || return
	{
		cat "$SOURCE/regress/regress.conf"
		echo "unix_socket_directories = '$STAGE/sql'"
		echo "cron.host = '$STAGE/sql'"
		echo "keelson.keyring_file = '$keyring'"
	} | as_tester_writes "$data/postgresql.conf"
	server_up=yes
	as_tester pg_ctl start -D "$data" -w -s -l "$STAGE/sql/server.log" >/dev/null || return
	sql_as_tester postgres -c 'create database keelson' || return
	# pgcrypto is the tests' own: they sign by it what Keelson is to check.
	sql_as_tester keelson -c 'create extension pg_cron' -c 'create extension pgcrypto' -c 'create extension keelson cascade' \
		-c 'select keelson.migrate()' || return
}

stop_sql_server() {
	[ -n "$server_up" ] || return 0
	as_tester pg_ctl stop -D "$STAGE/sql/data" -s -m fast >/dev/null 2>&1 || true
	server_up=
}

sql_as_tester() {
	local database=$1
	shift
	as_tester psql -X -q -v ON_ERROR_STOP=1 -h "$STAGE/sql" -p 54328 -U postgres -d "$database" "$@" >>"$STAGE/sql/server.log" 2>&1
}

as_tester_writes() {
	# shellcheck disable=SC2016 # expanded by the inner shell
	as_user "$CHECK_USER" sh -c 'umask 077 && cat >>"$1"' sh "$1"
}

# Run pg_regress or its isolation sister, and count its lines.
run_pg_regress() {
	local program=$1 input=$2 output
	shift 2
	output=$STAGE/sql/$(basename "$program")
	as_user "$CHECK_USER" mkdir -p "$output"
	as_tester "$program" --use-existing --dbname=keelson --host="$STAGE/sql" --port=54328 --user=postgres \
		--bindir="$STAGE_BIN" --inputdir="$input" --outputdir="$output" "$@" >"$output.out" 2>&1 || true
	cat "$output.out"
	count_lines "$output.out" "$#"
	[ ! -s "$output/regression.diffs" ] || head -n 400 "$output/regression.diffs"
}

# A test has passed that the report says so of; all others have failed.
count_lines() {
	local ok
	ok=$(grep -cE '^(test |     )?[^ ].* \.\.\. ok|^ok ' "$1" || true)
	passed=$((passed + ok))
	failed=$((failed + $2 - ok))
	if grep -qE 'PANIC|TRAP|terminated by signal' "$STAGE/sql/server.log"; then
		say "--- the end of $STAGE/sql/server.log"
		tail -n 40 "$STAGE/sql/server.log"
	fi
}

# The door's own test runs as whoever runs make: not here.
run_tap() {
	local -a names
	mapfile -t names < <(selected t "$SOURCE/regress/t" .pl | grep -v '_door$')
	[ "${#names[@]}" -gt 0 ] || return 0
	say "== tests through HTTP"
	names=("${names[@]/#/regress/t/}")
	run_harness "${names[@]/%/.pl}"
}

# Run TAP programs in the stage, three at a time but under valgrind; what a failed one logged is shown.
run_harness() {
	local counts=$STAGE/tmp/counts at_once=1 program
	[ "$MODE" = valgrind ] || at_once=3
	# shellcheck disable=SC2016 # expanded by the inner shell
	printf '%s\n' "$@" | as_tester_reads sh -c 'tac | xargs -P "$1" -I{} sh -c "perl scripts/run-tap \"$2.\$(basename {})\" {}"' sh "$at_once" "$counts" || true
	for program in "$@"; do
		program=$counts.$(basename "$program")
		add_counts "$program"
		show_failed_logs "$program.failed"
	done
}

add_counts() {
	local ok=0 not_ok=1 skip=0
	[ ! -s "$1" ] || read -r ok not_ok skip <"$1"
	passed=$((passed + ok))
	failed=$((failed + not_ok))
	skipped=$((skipped + skip))
	rm -f "$1"
}

show_failed_logs() {
	local name log
	[ -s "$1" ] || return 0
	while read -r name; do
		find "$STAGE/tmp" -name "*$name*.log" -o -name "regress_log_$name*" | sort | while read -r log; do
			say "--- the end of $log"
			tail -n 40 "$log"
		done
	done <"$1"
	rm -f "$1"
}

# The test of make up and make down themselves, in the clone.
run_door() {
	local -a names
	[ "$MODE" = plain ] || return 0
	mapfile -t names < <(selected t "$ROOT/regress/t" .pl | grep '_door$')
	[ "${#names[@]}" -gt 0 ] || return 0
	say "== the door"
	(
		cd "$ROOT"
		unset_all '^(KEELSON_|ALLOWED_ORIGINS$|CRON_SECRET$|STRIPE_WEBHOOK_SECRET$)'
		names=("${names[@]/#/regress/t/}")
		env --default-signal=INT,QUIT perl scripts/run-tap "$STAGE/door" "${names[@]/%/.pl}"
	) </dev/null || true
	add_counts "$STAGE/door"
}

# End what runs as the tests' user, if anything does.
end_tester() {
	[ -n "$tester" ] || return 0
	kill "$tester" 2>/dev/null || true
	wait "$tester" || true
	tester=
}

# End what tests that were cut off have left: their servers have sessions of
# their own, which "timeout" does not reach.
end_left() {
	local left
	left=$(left_running)
	[ -n "$left" ] || return 0
	# shellcheck disable=SC2086 # a list of words
	kill -QUIT $left 2>/dev/null || true
	wait_for 100 nothing_left || true
}

nothing_left() {
	[ -z "$(left_running)" ]
}

# Print the processes that work in the stage or run a program of it.
left_running() {
	local process folder
	folder=$(readlink -f "$STAGE")
	for process in /proc/[0-9]*; do
		[[ "$(readlink "$process/cwd" "$process/exe" 2>/dev/null)" != *"$folder/"* ]] || echo "${process#/proc/}"
	done
}

end_check() {
	local status=$?
	end_tester
	if [ -n "$beside" ]; then
		kill "$beside" 2>/dev/null || true
		wait "$beside" || true
	fi
	stop_sql_server
	end_left
	remove_small_disks
	[ "$status" -ne 0 ] || rm -rf "$STAGE"
}

PGXS_TESTS=/usr/lib/postgresql/$PG_MAJOR/lib/pgxs/src/test
