# The only door: each target is one script of scripts/. Variables such as
# KEELSON_PORT=9090 or TESTS='dispatch t/010' may be given as arguments.

.DEFAULT_GOAL := help
.PHONY: help up down psql log example check check-asan check-valgrind check-pg17 coverage torture fuzz fuzz-api bench bench-peers performance-doc format lint clean install \
	keyring-status keyring-backup keyring-restore keyring-rotate keyring-retire

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r target what; do printf '%-24s%s\n' "$$target" "$$what"; done

up: ## install what is missing, build, start the server and the gateway
	@scripts/up

down: ## stop the gateway and the server
	@scripts/down

psql: ## open psql as administrator
	@scripts/psql

log: ## show what went wrong lately, and where the logs are
	@scripts/log

example: ## put the example product, examples/invoices, into the running Keelson
	@examples/invoices/run

keyring-status: ## show the master keys, and what rests on each
	@scripts/keyring status

keyring-backup: ## copy the keyring to FILE
	@scripts/keyring backup '$(FILE)'

keyring-restore: ## put the copy FILE of the keyring in place
	@scripts/keyring restore '$(FILE)'

keyring-rotate: ## add a master key and move everything to it
	@scripts/keyring rotate

keyring-retire: ## let the old master key KEY go (ACCEPT names what may be lost)
	@ACCEPT='$(ACCEPT)' scripts/keyring retire '$(KEY)'

check: ## run all tests (TESTS='dispatch t/010' runs some, VECTORS=dir gives test vectors)
	@scripts/check

check-asan: ## run the tests under AddressSanitizer and UBSan
	@scripts/check asan

check-valgrind: ## run the tests under valgrind
	@scripts/check valgrind

check-pg17: ## build and test on Debian 13 with PostgreSQL 17, in a system of its own (as root)
	@scripts/check-pg17

coverage: ## run the tests and report which lines of the C code they run, into ./coverage
	@scripts/check coverage

torture: ## break everything under load, ROUNDS times (100) as SEED says; FAULTS names some
	@TORTURE_ROUNDS='$(or $(ROUNDS),100)' TORTURE_SEED='$(or $(SEED),1815)' TORTURE_FAULTS='$(FAULTS)' CHECK_SECONDS=14400 TESTS=t/092_torture scripts/check

fuzz: ## fuzz the readers of what comes from outside, FUZZ_SECONDS each (60); TARGETS names some, FUZZ_SEED repeats
	@TARGETS='$(TARGETS)' FUZZ_SECONDS='$(or $(FUZZ_SECONDS),60)' FUZZ_SEED='$(FUZZ_SEED)' VECTORS='$(VECTORS)' scripts/fuzz

fuzz-api: ## send generated requests to every endpoint for FUZZ_SECONDS (600), and try the properties for FUZZ_ROUNDS (10) times as long
	@FUZZ_SECONDS='$(or $(FUZZ_SECONDS),600)' FUZZ_ROUNDS='$(or $(FUZZ_ROUNDS),10)' FUZZ_RUNS=40 FUZZ_SEED="$${FUZZ_SEED:-$$(date +%s)}" \
		CHECK_SECONDS=86400 TESTS='t/072_openapi_fuzz t/073_properties' scripts/check

bench: ## run the benchmarks, write bench/results.json
	@scripts/bench

bench-peers: ## measure what people use instead beside Keelson (PARTS names parts), write bench/results-peers.json
	@scripts/bench peers

performance-doc: ## write docs/performance.md and the README's figures from bench/results-peers.json
	@bench/performance-doc

format: ## format the C code
	@scripts/format

lint: ## check formatting and scripts, build with gcc and clang, warnings as errors
	@scripts/lint

clean: ## remove what the build made (never ./var)
	@scripts/clean

install: ## install the extension and the gateway on this system (DESTDIR, prefix, PG_CONFIG)
	@scripts/install
