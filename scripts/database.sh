# shellcheck shell=bash
# What is inside the database: the code, the state, the secrets.

# Run SQL from standard input as administrator, stopping at the first error.
# One row a line, columns apart by |.
sql() {
	"$PG_BIN/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$SOCKET" -p "$SERVER_PORT" -U "$ADMIN" -d "$DATABASE" "$@"
}

# Bring the database's code and state in line with the built extension; sets
# code_changed if anything had to be done.
apply_code() {
	local built state
	code_changed=
	built=$(code_checksum "$TREE/usr/share/postgresql/$PG_MAJOR/extension")
	state=$(code_state)
	[ "$state" != "$built" ] || return 0
	code_changed=yes
	case $state in
		none) say "creating the extension in the database $DATABASE" ;;
		*) say "bringing the database in line with the code" ;;
	esac
	refuse_to_drop
	sql --single-transaction -f "$ROOT/scripts/apply-code.sql" >/dev/null ||
		fail "the database does not take this code: the reason stands above"
	state=$(code_state)
	[ "$state" = "$built" ] || fail "after the migration the database has code $state, not $built"
}

# Have pg_cron run the jobs here: after a restore, with another port or another
# folder of the socket it would go on connecting to where it did before. Sets
# jobs_changed if anything had to be done.
schedule_jobs() {
	jobs_changed=$(sql -c "select job from keelson.jobs_install() where state <> 'unchanged'")
}

# Whether pg_cron's launcher runs. It ends for good when its database is dropped,
# and nobody but the server's start brings it back.
scheduler_runs() {
	[ "$(sql -c "select count(*) from pg_stat_activity where backend_type = 'pg_cron launcher'" 2>/dev/null)" != 0 ]
}

# End if the code has changed and cannot be replaced without dropping objects
# of the product's own: best asked while the old code still runs.
refuse_to_drop() {
	local lost
	case $(code_state) in
		none | "$(code_checksum "$ROOT/extension/keelson")") return ;;
	esac
	[ "$(installed_version)" = "$(default_version "$ROOT/extension/keelson")" ] || return 0
	lost=$(sql -f "$ROOT/scripts/code-dependants.sql")
	[ -z "$lost" ] || fail "the code of this version has changed, and replacing it would drop objects of yours:" "$lost" \
		"Drop them (make psql, with the code that the database has), make up again, and make them anew."
}

default_version() {
	sed -n "s/^default_version *= *'\(.*\)'/\1/p" "$1/keelson.control"
}

installed_version() {
	sql -c "select extversion from pg_extension where extname = 'keelson'"
}

# The checksum that the install script in a folder carries.
code_checksum() {
	sed -n "s/^as \\\$\\\$ select '\([0-9a-f]\{64\}\)' \\\$\\\$;/\1/p" "$1/keelson--$(default_version "$1").sql"
}

# The checksum of the code that the database has and is migrated to, else
# "none" (no extension), "old" or "unmigrated".
code_state() {
	sql <<-'END'
		select exists (select from pg_extension where extname = 'keelson') as created,
		    exists (select from pg_extension where extname = 'pg_cron') as scheduled \gset
		\if :created
		    select to_regprocedure('keelson._code_checksum()') is not null
		        and to_regprocedure('keelson.is_migrated()') is not null as known \gset
		    \if :known
		        select case when keelson.is_migrated() and :'scheduled' then keelson._code_checksum() else 'unmigrated' end;
		    \else
		        select 'old';
		    \endif
		\else
		    select 'none';
		\endif
	END
}
