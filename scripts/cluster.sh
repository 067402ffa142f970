# shellcheck shell=bash
# The private cluster: making, configuring, starting and stopping it.

# Make the cluster once, with an empty database for Keelson. It gets its name
# last, so that what was interrupted is made anew.
create_cluster() {
	[ ! -e "$DATA" ] || return 0
	say "making the cluster in $DATA"
	rm -rf "$DATA.new"
	if is_root; then
		install -d -m 0700 -o "$SERVER_USER" -g "$SERVER_USER" "$DATA.new"
	else
		install -d -m 0700 "$DATA.new"
	fi
	quietly as_user "$SERVER_USER" "$PG_BIN/initdb" -D "$DATA.new" -U "$ADMIN" -E UTF8 --locale=C.UTF-8 \
		--data-checksums --auth-local=peer --auth-host=scram-sha-256
	echo "create database $DATABASE;" |
		quietly as_user "$SERVER_USER" "$PG_BIN/postgres" --single -D "$DATA.new" postgres
	write_access_rules "$DATA.new"
	cat >>"$DATA.new/postgresql.conf" <<-END

		# Keelson's settings, written anew by each "make up"; then the operator's own.
		include = '../conf/keelson.conf'
		include_if_exists = '../conf/local.conf'
	END
	mv "$DATA.new" "$DATA"
}

# Who may connect. Written once, then the operator's.
write_access_rules() {
	cat >"$1/pg_hba.conf" <<-END
		# Over the socket the operating system says who it is (pg_ident.conf); the
		# gateway has a password; nobody else gets in.
		# type  database  user             address  method
		local   all       $ADMIN                  peer map=keelson
		local   all       keelson_jobs              peer map=keelson
		local   all       keelson_gateway           scram-sha-256
		host    all       keelson_gateway  all      scram-sha-256
		local   all       all                       reject
		host    all       all              all      reject
	END
	{
		echo "# map    operating system user   database user"
		echo "keelson  $SERVER_USER  $ADMIN"
		echo "keelson  $SERVER_USER  keelson_jobs"
		! is_root || echo "keelson  root  $ADMIN"
	} >"$1/pg_ident.conf"
}

# Write the generated settings; sets file_changed.
configure_cluster() {
	local folder=$1
	{
		echo '# Written by "make up"; put your own settings into local.conf beside this.'
		server_settings "$folder"
		keelson_settings
	} | write_file "$CONF" 0644
}

# What the server needs to run here, and sane sizes for this machine.
server_settings() {
	local folder=$1 memory
	memory=$(megabytes_of_memory)
	cat <<-END
		listen_addresses = '127.0.0.1'
		port = $PGPORT
		unix_socket_directories = '$folder'
		unix_socket_permissions = 0770
		password_encryption = scram-sha-256
		shared_preload_libraries = 'pg_cron,keelson'
		cron.database_name = '$DATABASE'
		cron.host = '$folder'
		cron.use_background_workers = off
		cron.log_run = on
		max_connections = $(connections)
		max_worker_processes = 24
		shared_buffers = $(bounded $((memory / 8)) 64 2048)MB
		effective_cache_size = $(bounded $((memory / 2)) 128 65536)MB
		maintenance_work_mem = $(bounded $((memory / 32)) 32 512)MB
		max_wal_size = 2GB
		checkpoint_timeout = 15min
		wal_compression = lz4
		random_page_cost = 1.1
		jit = off
		timezone = 'UTC'
		log_timezone = 'UTC'
		logging_collector = on
		log_directory = $(quoted "$SERVER_LOGS")
		log_filename = 'server-%a.log'
		log_rotation_age = 1d
		log_rotation_size = 0
		log_truncate_on_rotation = on
		log_line_prefix = '%m [%p] %q%u@%d %a '
		log_parameter_max_length = 0
		log_parameter_max_length_on_error = 0
		log_checkpoints = on
		log_lock_waits = on
	END
	! is_root || echo "unix_socket_group = '$GATEWAY_USER'"
}

# Twice what the gateway takes, whose loops are as many as there are cores and
# have four each where these are many, and room for others.
connections() {
	local loops=${KEELSON_LOOPS:-$(getconf _NPROCESSORS_ONLN)}
	loops=$(bounded "$loops" 1 64)
	bounded $((loops * 2 * ${KEELSON_POOL:-4} + 100)) 200 10000
}

# The environment's part that belongs to the database: one line per variable
# that is set, name of the variable, name of the setting.
keelson_settings() {
	local variable setting
	echo "keelson.database = '$DATABASE'"
	echo "keelson.keyring_file = $(quoted "$KEYRING")"
	echo "keelson.environment = $(quoted "${KEELSON_ENV:-development}")"
	# In development receivers on this machine are what is tested with.
	local private=off
	[ "${KEELSON_ENV:-development}" != development ] || private=on
	echo "keelson.allow_private_targets = $(quoted "${KEELSON_ALLOW_PRIVATE_TARGETS:-$private}")"
	echo "keelson.public_url = $(quoted "${KEELSON_PUBLIC_URL:-http://127.0.0.1:$PORT}")"
	while read -r variable setting; do
		[ -z "${!variable:-}" ] || echo "$setting = $(quoted "${!variable}")"
	done <<-END
		KEELSON_APP_URL keelson.app_url
		ALLOWED_ORIGINS keelson.allowed_origins
		KEELSON_RATE_LIMITS keelson.rate_limits
		KEELSON_CAPTCHA_URL keelson.captcha_url
		KEELSON_MAIL_FROM keelson.mail_from
	END
}

# A value for postgresql.conf.
quoted() {
	local value=${1//\\/\\\\}
	printf "'%s'" "${value//\'/\'\'}"
}

bounded() {
	local value=$1
	[ "$value" -ge "$2" ] || value=$2
	[ "$value" -le "$3" ] || value=$3
	echo "$value"
}

# The memory that this machine, or our control group in it, has.
megabytes_of_memory() {
	local memory group
	memory=$(($(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo) / 1024))
	group=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
	if [[ $group =~ ^[0-9]+$ ]] && [ $((group / 1048576)) -lt "$memory" ]; then
		memory=$((group / 1048576))
	fi
	echo "$memory"
}

# Print the postmaster's pid if it runs. After a reboot the pid in the file
# may be another program's, so what counts is that it works in our folder.
server_pid() {
	local pid
	pid=$(head -n 1 "$DATA/postmaster.pid" 2>/dev/null) || return 1
	[[ $pid =~ ^[0-9]+$ ]] || return 1
	[ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$DATA" ] || return 1
	echo "$pid"
}

server_runs() {
	server_pid >/dev/null
}

# Learn the running server's SOCKET and SERVER_PORT.
find_server() {
	mapfile -t address < <(sed -n '4,5p' "$DATA/postmaster.pid")
	SERVER_PORT=${address[0]}
	SOCKET=${address[1]}
}

start_server() {
	local log=$SERVER_LOGS/start.log
	forget_stale_pid
	as_user "$SERVER_USER" rm -f "$log"
	touch "$RUN/starting"
	# What is handed in to be sealed has no place in the server's environment.
	if ! (
		unset CRON_SECRET STRIPE_WEBHOOK_SECRET KEELSON_SMTP_URL KEELSON_CAPTCHA_SECRET KEELSON_METRICS_TOKEN
		as_user "$SERVER_USER" "$PG_BIN/pg_ctl" start -D "$DATA" -w -t 600 -s -l "$log"
	) </dev/null >/dev/null 2>&1 9>&-; then
		show_server_logs
		fail "the server did not start: above are the last lines of its log (in $SERVER_LOGS)"
	fi
	find_server
}

# PostgreSQL takes care of its own stale pid file unless, after a reboot, an
# other program of this user has that pid.
forget_stale_pid() {
	local pid
	pid=$(head -n 1 "$DATA/postmaster.pid" 2>/dev/null || true)
	if [ -n "$pid" ] && [ -d "/proc/$pid" ] && ! works_in_data; then
		rm -f "$DATA/postmaster.pid"
	fi
}

# True if any process has the data folder as its working directory.
works_in_data() {
	local process
	for process in /proc/[0-9]*; do
		[ "$(readlink "$process/cwd" 2>/dev/null)" != "$DATA" ] || return 0
	done
	return 1
}

stop_server() {
	server_runs || return 0
	as_user "$SERVER_USER" "$PG_BIN/pg_ctl" stop -D "$DATA" -w -t 60 -s -m fast >/dev/null 2>&1 9>&- ||
		as_user "$SERVER_USER" "$PG_BIN/pg_ctl" stop -D "$DATA" -w -t 10 -s -m immediate 9>&- ||
		fail "the server (pid $(server_pid)) does not stop"
}

# Show the ends of what the server has logged since it was told to start. Its
# log collector may outlive it a little.
show_server_logs() {
	local log
	sleep 0.5
	find "$SERVER_LOGS" -name '*.log' -newer "$RUN/starting" | sort -r | while read -r log; do
		show_log "$log"
	done
}

# Show the end of a file, or of standard input for "-".
show_log() {
	{ tail -n 15 -- "$1" 2>/dev/null || true; } | sed 's/^/  | /' >&2
}
