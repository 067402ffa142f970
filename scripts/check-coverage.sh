# shellcheck shell=bash
# Running the tests on code that counts which of its lines run (gcov), and the
# report of it (gcovr): a table, and pages in coverage/.
#
# A process adds its counts to those beside the objects when it ends: the
# clusters of the tests are stopped, not killed. A process that a test kills
# adds nothing.

build_for_coverage() {
	local flags='-O1 -g --coverage -fprofile-update=prefer-atomic'
	run_make "$SOURCE/extension/keelson" "PG_CONFIG=$PG_CONFIG" clean
	run_make "$SOURCE/extension/keelson" "PG_CONFIG=$PG_CONFIG" "COPT=$flags"
	run_make "$SOURCE/gateway" clean
	run_make "$SOURCE/gateway" OPTIMIZE= "CFLAGS=$flags"
	UNIT_FLAGS=(OPTIMIZE= "CFLAGS=$flags")
	CHECK_SECONDS=7200
}

# Called where the tests' environment is put together.
coverage_surroundings() {
	export KEELSON_TEST_SLOW=2 KEELSON_TEST_GENTLE=yes
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
