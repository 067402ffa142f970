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

report_coverage() {
	local pages=$ROOT/coverage
	rm -rf "$pages"
	mkdir "$pages"
	(
		cd "$SOURCE"
		gcovr --root "$SOURCE" --filter extension/ --filter gateway/ --exclude extension/keelson/audit/verifier/ \
			--exclude-unreachable-branches --txt --html-details "$pages/index.html" --html-title Keelson extension gateway
	) || fail "gcovr failed"
	say "line by line: $pages/index.html"
}
