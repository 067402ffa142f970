# shellcheck shell=bash
# Running the tests on code that counts which of its lines run (gcov), and the
# report of it (gcovr): a table, and pages in coverage/.
#
# A process adds its counts to those beside the objects when it ends, the
# server's also when they end in a hurry or are killed by a test. A killed
# gateway adds nothing.

build_for_coverage() {
	local flags='-O1 -g --coverage -fprofile-update=prefer-atomic'
	run_make "$SOURCE/extension/keelson" "PG_CONFIG=$PG_CONFIG" clean
	run_make "$SOURCE/extension/keelson" "PG_CONFIG=$PG_CONFIG" "COPT=$flags -Wl,-u,__gcov_dump"
	run_make "$SOURCE/gateway" clean
	run_make "$SOURCE/gateway" OPTIMIZE= "CFLAGS=$flags"
	UNIT_FLAGS=(OPTIMIZE= "CFLAGS=$flags")
	CHECK_SECONDS=7200
	build_teller
}

# What is put before the server's processes: when another was killed, they end
# by _exit(), which tells nothing; one that is to be killed is sent SIGRTMIN.
build_teller() {
	gcc -shared -fPIC -O1 -o "$STAGE/tools/teller.so" -x c - <<-'END'
		#define _GNU_SOURCE
		#include <dlfcn.h>
		#include <signal.h>
		#include <sys/syscall.h>
		#include <unistd.h>

		static void
		tell(void)
		{
			void (*dump)(void) = (void (*)(void)) dlsym(RTLD_DEFAULT, "__gcov_dump");

			if (dump != NULL)
				dump();
		}

		void
		_exit(int status)
		{
			tell();
			syscall(SYS_exit_group, status);
			__builtin_unreachable();
		}

		static void
		die(int number)
		{
			(void) number;
			tell();
			kill(getpid(), SIGKILL);
		}

		__attribute__((constructor)) static void
		begin(void)
		{
			signal(SIGRTMIN, die);
		}
	END
}

# Called where the tests' environment is put together.
coverage_surroundings() {
	export KEELSON_TEST_SLOW=2 KEELSON_TEST_GENTLE=yes LD_PRELOAD=$STAGE/tools/teller.so
}

# What some tests have run is added to what others have, on the same code; all of them begin anew.
report_coverage() {
	local pages=$ROOT/coverage counts=$ROOT/coverage/counts code
	local -a report=(gcovr --root "$SOURCE" --filter extension/ --filter gateway/ --exclude extension/keelson/audit/verifier/)
	code=$(cd "$SOURCE" && find extension gateway -name '*.[ch]' -print0 | sort -z | xargs -0 sha256sum | checksum)
	if [ -z "${TESTS:-}" ] || [ "$code" != "$(cat "$counts/code" 2>/dev/null)" ]; then
		rm -rf "$pages"
	fi
	mkdir -p "$counts"
	echo "$code" >"$counts/code"
	(
		cd "$SOURCE"
		"${report[@]}" --exclude-unreachable-branches --json "$(mktemp "$counts/XXXXXX.json")" extension gateway
		"${report[@]}" --add-tracefile "$counts/*.json" --txt --html-details "$pages/index.html" --html-title Keelson \
			--json "$pages/all.json"
	) || fail "gcovr failed"
	say "functions that nothing has called:"
	jq -r '.files[] | .file as $file | .functions[] | select(.execution_count == 0) | "  \($file): \(.name)"' "$pages/all.json"
	say "line by line: $pages/index.html"
}
