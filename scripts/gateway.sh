# shellcheck shell=bash
# The gateway: starting, waiting for and stopping it.

# The variables that the gateway sees: all KEELSON_*, less the secrets that the
# database alone needs.
gateway_variables() {
	compgen -e | grep -E '^(KEELSON_[A-Za-z0-9_]*|ALLOWED_ORIGINS)$' |
		grep -vxE 'KEELSON_(SMTP_URL|CAPTCHA_SECRET)' | sort || true
}

# Check the environment before anything is touched, and end with all faults.
# The gateway knows what every variable may be.
check_environment() {
	local faults
	faults=$(
		KEELSON_DATABASE_URL=${KEELSON_DATABASE_URL:-postgresql:///$DATABASE} \
			"$ROOT/gateway/keelson-gateway" --check 2>&1 || true
		[ "${KEELSON_ENV:-}" != production ] || [ -n "$EXTERNAL_DATABASE" ] || production_faults
	)
	[ -z "$faults" ] || fail "the environment has faults, so nothing was done:" "${faults//$'\n'/$'\n'  }"
}

# What production needs besides, and the database alone would know.
production_faults() {
	[ -n "${CRON_SECRET:-}" ] || echo "CRON_SECRET is not set: production takes none that was generated"
	[ -n "${KEELSON_SMTP_URL:-}" ] || echo "KEELSON_SMTP_URL is not set: production needs a mail server"
}

# The pid file holds the pid and when that process began, since a pid may be
# another program's after a reboot.
gateway_pid() {
	local pid began
	read -r pid began 2>/dev/null <"$RUN/gateway.pid" || return 1
	[ -n "$pid" ] && [ "$(process_began "$pid")" = "$began" ] || return 1
	echo "$pid"
}

gateway_runs() {
	gateway_pid >/dev/null
}

# Print when a process began, in ticks since boot; nothing if it has ended, be
# it that nobody has asked for its status (in containers nobody may).
process_began() {
	local stat
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
	# The second field, a name in brackets, may hold blanks.
	read -ra stat <<<"${stat##*) }"
	[ "${stat[0]}" = Z ] || echo "${stat[19]}"
}

# What the running gateway is made of: its program and its environment.
gateway_stamp() {
	{
		checksum "$ROOT/gateway/keelson-gateway"
		gateway_variables | while read -r variable; do printf '%s=%s\n' "$variable" "${!variable}"; done
		echo "$DATABASE_URL"
	} | checksum
}

start_gateway() {
	local pid program=$GATEWAY_HOME/keelson-gateway
	! port_answers || fail "port $PORT on $PROBE is taken by another program" \
		"Stop that, or choose another port: make up KEELSON_PORT=9090"
	install -m 0755 "$ROOT/gateway/keelson-gateway" "$program.new"
	mv -f "$program.new" "$program"
	(
		clean_environment
		PATH=/usr/bin:/bin
		export KEELSON_DATABASE_URL=$DATABASE_URL
		[ -n "${EXTERNAL_DATABASE:-}" ] || export PGPASSFILE=$GATEWAY_HOME/pgpass
		# shellcheck disable=SC2016 # expanded by the inner shell
		become "$GATEWAY_USER" setsid sh -c 'umask 077 && exec "$1" >>"$2" 2>&1' sh "$program" "$GATEWAY_LOG"
	) </dev/null >/dev/null 2>&1 9>&- &
	pid=$!
	echo "$pid $(process_began "$pid")" >"$RUN/gateway.pid"
	gateway_stamp | write_file "$RUN/gateway.stamp" 0600
}

# Unset every exported variable but those that the gateway is to see.
clean_environment() {
	local variable allowed
	allowed=" $(gateway_variables | paste -s -d ' ') PATH LC_ALL "
	for variable in $(compgen -e); do
		[[ $allowed == *" $variable "* ]] || unset "$variable"
	done
}

# Wait until the gateway says that it is ready, or end with its log.
await_gateway() {
	wait_for 300 gateway_settled || true
	gateway_ready && return
	# Less our own questions.
	{ grep -v '"route":"ready"' "$GATEWAY_LOG" || true; } | show_log -
	gateway_runs || fail "the gateway did not start: above are the last lines of its log ($GATEWAY_LOG)"
	fail "the gateway is not ready after half a minute: $(curl -s -m 5 "http://$PROBE:$PORT/ready" || echo no answer)"
}

gateway_settled() {
	! gateway_runs || gateway_ready
}

gateway_ready() {
	gateway_runs && curl -fs -m 5 -o /dev/null "http://$PROBE:$PORT/ready"
}

port_answers() {
	(exec 3<>"/dev/tcp/${PROBE//[\[\]]/}/$PORT") 2>/dev/null
}

# Let the gateway finish what it has in hand.
stop_gateway() {
	local pid
	pid=$(gateway_pid) || return 0
	kill -TERM "$pid"
	if ! wait_for $(((${KEELSON_DRAIN_SECONDS:-30} + 5) * 10)) gateway_gone; then
		say "the gateway does not end: killing it"
		kill -KILL "$pid"
		wait_for 50 gateway_gone || fail "the gateway (pid $pid) cannot be killed"
	fi
	rm -f "$RUN/gateway.pid"
}

gateway_gone() {
	! gateway_runs
}
