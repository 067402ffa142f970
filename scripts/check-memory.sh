# shellcheck shell=bash
# Running the tests under AddressSanitizer with UBSan, or under valgrind:
# building for it, putting it before the programs, counting what it reports.

watches_memory() {
	[ "$MODE" = asan ] || [ "$MODE" = valgrind ]
}

build_for_memory() {
	local flags='-O1 -g -fno-omit-frame-pointer' sanitize=''
	[ "$MODE" != asan ] || sanitize='-fsanitize=address,undefined -fno-sanitize-recover=undefined'
	run_make "$SOURCE/extension/keelson" "PG_CONFIG=$PG_CONFIG" clean
	run_make "$SOURCE/extension/keelson" "PG_CONFIG=$PG_CONFIG" "COPT=$flags $sanitize"
	run_make "$SOURCE/gateway" clean
	run_make "$SOURCE/gateway" "CFLAGS=$flags $sanitize" "LDFLAGS=$sanitize"
	UNIT_FLAGS=("CFLAGS=$flags $sanitize" "LDFLAGS=$sanitize")
	CHECK_SECONDS=14400
	REPORTS=$STAGE/reports
	mkdir "$REPORTS"
	[ "$MODE" != asan ] || build_asan_first
}

# Debian 12's p11-kit, which libpq brings along, deadlocks when its
# constructor runs before the sanitizer's. This one runs before all others.
build_asan_first() {
	gcc -shared -fPIC -Wl,-z,initfirst -Wl,--unresolved-symbols=ignore-all \
		-o "$STAGE/tools/asan_first.so" -x c - <<-'END'
		extern void __asan_init(void);
		__attribute__((constructor)) static void first(void) { __asan_init(); }
	END
}

# Put the checker before the server in the private PostgreSQL; not while
# initdb makes a cluster, which takes none of our code. The name stays, since
# a restart goes by it.
wrap_postgres() {
	local program=$STAGE_BIN/postgres
	mv "$program" "$program.plain"
	{
		# shellcheck disable=SC2016 # expanded by the wrapper
		printf '#!/bin/bash\ncase "${1:-}" in --boot|--check|-V|--describe-config) exec -a "$0" "$0.plain" "$@" ;; esac\n'
		if [ "$MODE" = asan ]; then
			echo "export ASAN_OPTIONS='detect_leaks=0:exitcode=99:log_path=$REPORTS/server'"
			echo "export UBSAN_OPTIONS='print_stacktrace=1:log_path=$REPORTS/server'"
			# libcrypt, since the sanitizer's own crypt_r calls that of a library which is there from the start; and behind
			# them what a test puts before the C library.
			echo "export LD_PRELOAD=\"$(gcc -print-file-name=libasan.so) $STAGE/tools/asan_first.so $(gcc -print-file-name=libcrypt.so.1)\${LD_PRELOAD:+ \$LD_PRELOAD}\""
			# shellcheck disable=SC2016 # expanded by the wrapper
			echo 'exec -a "$0" "$0.plain" "$@"'
		else
			echo "exec valgrind -q --trace-children=yes --leak-check=full --show-leak-kinds=definite --suppressions='$SOURCE/regress/valgrind.supp' --log-file='$REPORTS/server.%p' \"\$0.plain\" \"\$@\""
		fi
	} >"$program"
	chmod 0755 "$program"
}

# Under valgrind a whole server is too slow for the gateway's deadlines: the
# SQL and isolation tests run on it, the tests through HTTP on a plain one.
unwrap_postgres() {
	mv "$STAGE_BIN/postgres.plain" "$STAGE_BIN/postgres"
}

# Called where the tests' environment is put together.
memory_surroundings() {
	case $MODE in
		asan)
			export KEELSON_TEST_SLOW=3
			export KEELSON_TEST_GATEWAY_WRAPPER="env ASAN_OPTIONS=exitcode=99:log_path=$REPORTS/gateway UBSAN_OPTIONS=print_stacktrace=1:log_path=$REPORTS/gateway"
			;;
		valgrind)
			export KEELSON_TEST_SLOW=10
			export KEELSON_TEST_GATEWAY_WRAPPER="valgrind -q --leak-check=full --errors-for-leak-kinds=definite --log-file=$REPORTS/gateway.%p"
			;;
	esac
}

# Every report of the sanitizers is a failure (UBSan's stand in the servers'
# and gateways' own logs); of valgrind's on the server, those with a frame of
# ours, since PostgreSQL leaks a little by design.
count_memory_reports() {
	local report found=0
	collect_runtime_errors
	for report in "$REPORTS"/*; do
		[[ $MODE != valgrind || $report != */server.* ]] || keep_our_reports "$report"
		[ -s "$report" ] || continue
		found=$((found + 1))
		say "--- $report"
		head -n 60 "$report"
	done
	if [ "$found" -eq 0 ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + found))
	fi
}

# valgrind puts an empty line after each report, and after each frame the source's file, where it knows it.
keep_our_reports() {
	local files
	files=$(find "$SOURCE/extension/keelson" -name '*.c' ! -path '*/verifier/*' -printf '%f|')
	files=${files//./[.]}
	awk -v RS='==[0-9]+== \n' -v "ours=keelson[.]so|[(](${files%|}):" '$0 ~ ours' "$1" >"$1.ours"
	mv "$1.ours" "$1"
}

collect_runtime_errors() {
	local log
	{ grep -rlE --include='*.log' 'runtime error: ' "$STAGE/sql" "$STAGE/tmp" || true; } |
		while read -r log; do
			grep -h -A 4 'runtime error: ' "$log" >"$REPORTS/ubsan.$(basename "$log")"
		done
}
