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

# Print the secret that the cron endpoints have when none is given.
generated_cron_secret() {
	[ -s "$SECRETS/cron-secret" ] || random_secret | write_file "$SECRETS/cron-secret" 0600
	cat "$SECRETS/cron-secret"
}

# Hand the database the secrets of the environment, those that are new to it.
# A variable that is not set leaves the database's as it is. Sets
# secrets_changed if there were any.
hand_in_secrets() {
	local name value changed
	secrets_changed=
	sql -c 'select name, extract(epoch from changed_at) from keelson.secrets order by name' |
		while IFS='|' read -r name changed; do
			case $name in
				cron_secret) value=${CRON_SECRET:-} ;;
				stripe_webhook_secret) value=${STRIPE_WEBHOOK_SECRET:-} ;;
				smtp_url) value=${KEELSON_SMTP_URL:-} ;;
				captcha_secret) value=${KEELSON_CAPTCHA_SECRET:-} ;;
				*) continue ;;
			esac
			[ "$name$value$changed" != cron_secret ] || value=$(generated_cron_secret)
			[ -z "$value" ] || hand_in_secret "$name" "$value" "$changed" </dev/null
		done
}

# Hand in one secret unless the database has just this one: what was handed in
# last is remembered by a salted hash, with the time that the database noted.
hand_in_secret() {
	local name=$1 value=$2 changed=$3 file=$SECRETS/handed-in.$1
	[ -s "$SECRETS/salt" ] || random_secret | write_file "$SECRETS/salt" 0600
	[ "$(secret_mark "$value" "$changed")" != "$(cat "$file" 2>/dev/null)" ] || return 0
	printf '%s' "$value" | hand_in secret "$name" || fail "the database does not take the secret $name"
	changed=$(sql -c "select extract(epoch from changed_at) from keelson.secrets where name = '$name'")
	secret_mark "$value" "$changed" | write_file "$file" 0600
	secrets_changed=yes
}

secret_mark() {
	printf '%s\n' "$(cat "$SECRETS/salt")" "$1" "$2" | checksum
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
	compile_hand_in
	PGHOST=$SOCKET PGPORT=$SERVER_PORT PGUSER=$ADMIN PGDATABASE=$DATABASE "$HAND_IN" "$@"
}

compile_hand_in() {
	HAND_IN=$VAR/conf/hand_in
	[ ! -x "$HAND_IN" ] || [ "$ROOT/scripts/hand_in.c" -nt "$HAND_IN" ] || return 0
	# shellcheck disable=SC2046 # a list of words
	gcc -O2 -Wall -Wextra -o "$HAND_IN" "$ROOT/scripts/hand_in.c" $(pkg-config --cflags --libs libpq) ||
		fail "scripts/hand_in.c does not compile"
}
