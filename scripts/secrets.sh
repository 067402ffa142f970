# shellcheck shell=bash
# Keys, passwords and secrets: made once, handed to the database unseen.

# The master keys. Without them nothing sealed can be opened, so they are made
# before the cluster, never later and never again.
create_keyring() {
	local key
	[ ! -e "$KEYRING" ] || return 0
	[ ! -e "$DATA" ] || fail "the keyring $KEYRING is missing" \
		"The cluster in $DATA has sealed data with its keys: put your copy of it back."
	say "making the keyring $KEYRING: keep a copy of it elsewhere"
	key=$(head -c 32 /dev/urandom | base64 -w 0)
	# shellcheck disable=SC2016 # expanded by the inner shell
	printf '# The master keys of Keelson. Without them nothing that it sealed can be opened.\nkey 1 %s\n' "$key" |
		as_user "$SERVER_USER" sh -c 'umask 077 && cat >"$1.new" && sync "$1.new" && mv "$1.new" "$1"' sh "$KEYRING"
}

# Print the secret of the cron endpoints: the one given, or one made once.
cron_secret() {
	if [ -n "${CRON_SECRET:-}" ]; then
		printf '%s' "$CRON_SECRET"
	else
		[ -s "$SECRETS/cron-secret" ] || random_secret | write_file "$SECRETS/cron-secret" 0600
		cat "$SECRETS/cron-secret"
	fi
}

# Hand the database the secrets that the environment holds and that are new to
# it.
hand_in_secrets() {
	[ "$(sql -c "select to_regproc('keelson.secret_set') is not null")" = t ] || return 0 #DEV
	CLUSTER_ID=$(sql -c 'select system_identifier from pg_control_system()')
	hand_in_secret cron_secret "$(cron_secret)"
	hand_in_secret stripe_webhook_secret "${STRIPE_WEBHOOK_SECRET:-}"
	hand_in_secret smtp_url "${KEELSON_SMTP_URL:-}"
	hand_in_secret captcha_secret "${KEELSON_CAPTCHA_SECRET:-}"
}

# What was handed in last is remembered as a salted hash.
hand_in_secret() {
	local name=$1 value=$2 mark
	[ -n "$value" ] || return 0
	[ -s "$SECRETS/salt" ] || random_secret | write_file "$SECRETS/salt" 0600
	mark=$(printf '%s\n' "$(cat "$SECRETS/salt")" "$CLUSTER_ID" "$value" | checksum)
	[ "$mark" != "$(cat "$SECRETS/handed-in.$name" 2>/dev/null)" ] || return 0
	printf '%s' "$value" | hand_in secret "$name" || fail "the database does not take the secret $name"
	echo "$mark" | write_file "$SECRETS/handed-in.$name" 0600
}

# The gateway's password: random, in a file that its user alone can read.
create_gateway_password() {
	local file=$GATEWAY_HOME/pgpass password
	! gateway_logs_in || return 0
	password=$(random_secret)
	printf '%s' "$password" | hand_in password keelson_gateway || fail "the gateway's password cannot be set"
	rm -f "$file"
	(umask 077 && printf '*:*:*:keelson_gateway:%s\n' "$password" >"$file")
	! is_root || chown "$GATEWAY_USER" "$file"
}

gateway_logs_in() {
	[ -s "$GATEWAY_HOME/pgpass" ] &&
		PGPASSFILE=$GATEWAY_HOME/pgpass as_user "$GATEWAY_USER" "$PG_BIN/psql" -X -w -h "$SOCKET" -p "$SERVER_PORT" \
			-U keelson_gateway -d "$DATABASE" -c 'select 1' >/dev/null 2>&1
}

# Run the tool that puts standard input where no log or process list shows it.
hand_in() {
	local tool=$VAR/conf/hand_in
	if [ ! -x "$tool" ] || [ "$ROOT/scripts/hand_in.c" -nt "$tool" ]; then
		# shellcheck disable=SC2046 # a list of words
		gcc -O2 -Wall -Wextra -o "$tool" "$ROOT/scripts/hand_in.c" $(pkg-config --cflags --libs libpq) ||
			fail "scripts/hand_in.c does not compile"
	fi
	PGHOST=$SOCKET PGPORT=$SERVER_PORT PGUSER=$ADMIN PGDATABASE=$DATABASE "$tool" "$@"
}
