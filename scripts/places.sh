# shellcheck shell=bash
# shellcheck disable=SC2034 # used by the scripts that source this
# Where the private cluster and all that belongs to it lie, and who owns it.
#
#   pgsql/      a copy of Debian's PostgreSQL with the extension installed
#   data/       the cluster (server's user)
#   keyring/    the master keys (server's user, 0700), never overwritten
#   conf/       generated settings, and local.conf, the operator's own
#   gateway/    the gateway's program and its password file (gateway's user)
#   secrets/    generated secrets, and what was handed in (whoever runs make)
#   log/        server/, gateway/
#   run/        pid files, lock, and socket: a folder or a link to a short one

VAR=${KEELSON_VAR:-$ROOT/var}
case $VAR in
	/*) ;;
	*) VAR=$PWD/$VAR ;;
esac
VAR=${VAR%/}

if is_root; then
	SERVER_USER=keelson
	GATEWAY_USER=keelson-gateway
else
	SERVER_USER=$(id -un 2>/dev/null) ||
		fail "user $(id -u) has no name in /etc/passwd, which PostgreSQL needs"
	GATEWAY_USER=$SERVER_USER
fi

DATABASE=keelson
ADMIN=postgres

# Name the places in $VAR, links resolved: the users may be unable to enter
# the folder that the link is in.
set_places() {
	[ ! -d "$VAR" ] || VAR=$(cd -- "$VAR" && pwd -P)
	TREE=$VAR/pgsql
	PG_BIN=$TREE/usr/lib/postgresql/$PG_MAJOR/bin
	DATA=$VAR/data
	KEYRING=$VAR/keyring/keyring
	CONF=$VAR/conf/keelson.conf
	SERVER_LOGS=$VAR/log/server
	GATEWAY_HOME=$VAR/gateway
	GATEWAY_LOG=$VAR/log/gateway/gateway.log
	SECRETS=$VAR/secrets
	RUN=$VAR/run
	SOCKET_LINK=$RUN/socket
}
set_places

# Make the two system users that root's cluster runs as. The server's user is
# in the gateway's group, so that the socket can be given to that group.
make_users() {
	is_root || return 0
	local user
	for user in "$GATEWAY_USER" "$SERVER_USER"; do
		if ! id "$user" >/dev/null 2>&1; then
			say "creating the system user $user"
			useradd --system --user-group --no-create-home --home-dir /nonexistent \
				--shell /usr/sbin/nologin "$user" || fail "useradd $user failed"
		fi
	done
	if ! id -nG "$SERVER_USER" | tr ' ' '\n' | grep -qx "$GATEWAY_USER"; then
		usermod --append --groups "$GATEWAY_USER" "$SERVER_USER" || fail "usermod $SERVER_USER failed"
	fi
}

# True if both users can enter a folder.
both_enter() {
	as_user "$SERVER_USER" test -x "$1" && as_user "$GATEWAY_USER" test -x "$1"
}

# Make $VAR. Where the users cannot enter its parent, it becomes a link to a
# folder of its own.
make_var() {
	local parent folder
	case $VAR in
		*[[:cntrl:]]*) fail "KEELSON_VAR holds a control character" ;;
	esac
	parent=$(dirname "$VAR")
	mkdir -p "$parent"
	if [ ! -e "$VAR" ] && [ ! -L "$VAR" ]; then
		if both_enter "$parent"; then
			mkdir "$VAR"
		else
			folder=/var/lib/keelson/$(basename "$parent" | tr -c 'A-Za-z0-9\n' - | cut -c 1-40)
			folder=$folder-$(printf %s "$VAR" | checksum | cut -c 1-12)
			say "the user $SERVER_USER cannot enter $parent: $VAR is a link to $folder"
			[ ! -e "$folder/data" ] || say "a cluster is there already, from a clone that was here before: it is used"
			mkdir -p "$folder"
			ln -s "$folder" "$VAR"
		fi
	elif [ -L "$VAR" ] && [ ! -e "$VAR" ]; then
		fail "$VAR is a link to $(readlink "$VAR"), which does not exist" \
			"Bring that folder back, or remove the link to start with a new cluster."
	fi
	set_places
	check_owner
	both_enter "$VAR" ||
		fail "the users $SERVER_USER and $GATEWAY_USER cannot enter $VAR" \
			"Set KEELSON_VAR to a folder that they can enter, or open the folders above it (chmod a+x)."
	make_folders
}

# A cluster stays with whoever made it.
check_owner() {
	local owner
	if [ -e "$DATA" ]; then
		owner=$(stat -c %U "$DATA")
	else
		owner=$(stat -Lc %U "$VAR")
		is_root && owner=$SERVER_USER
	fi
	[ "$owner" = "$SERVER_USER" ] && return
	if [ "$owner" = keelson ] || [ "$owner" = root ]; then
		fail "$VAR was made by root" "Run this as root (or by sudo), or set KEELSON_VAR to another folder."
	fi
	fail "the cluster in $VAR belongs to $owner" "Run this as $owner, or set KEELSON_VAR to another folder."
}

make_folders() {
	mkdir -p "$VAR/conf" "$VAR/log" "$RUN"
	[ -e "$VAR/conf/local.conf" ] ||
		echo '# Settings of your own: they win over keelson.conf.' >"$VAR/conf/local.conf"
	install -d -m 0700 "$SECRETS"
	if is_root; then
		install -d -m 0700 -o "$SERVER_USER" -g "$SERVER_USER" "$VAR/keyring" "$SERVER_LOGS"
		install -d -m 0750 -o root -g "$GATEWAY_USER" "$GATEWAY_HOME"
		install -d -m 0700 -o "$GATEWAY_USER" -g "$GATEWAY_USER" "$VAR/log/gateway"
	else
		install -d -m 0700 "$VAR/keyring" "$SERVER_LOGS" "$GATEWAY_HOME" "$VAR/log/gateway"
	fi
}

# Two makes at once take turns. The lock is on descriptor 9, which nothing
# that stays in the background may inherit.
take_lock() {
	mkdir -p "$RUN"
	exec 9>"$RUN/lock"
	if ! flock -n 9; then
		say "waiting for another make on $VAR"
		flock -w 600 9 || fail "another make holds $RUN/lock"
	fi
}

# Print the folder of the server's socket. It lies in $VAR if its name is
# short and plain enough (a socket's path has 107 bytes at most), else it is
# a folder of random name, linked from there, which a reboot may have taken.
socket_folder() {
	local folder base=/tmp
	if [ -L "$SOCKET_LINK" ]; then
		folder=$(readlink "$SOCKET_LINK")
		if is_socket_folder "$folder"; then
			printf '%s\n' "$folder"
			return
		fi
		rm -f "$SOCKET_LINK"
	fi
	folder=$SOCKET_LINK
	if [ "${#folder}" -le 90 ] && [[ $folder =~ ^[A-Za-z0-9/._-]+$ ]]; then
		mkdir -p "$folder"
	else
		is_root && [ -w /run ] && base=/run
		folder=$(mktemp -d "$base/keelson.XXXXXX")
		ln -s "$folder" "$SOCKET_LINK"
	fi
	if is_root; then
		chown "$SERVER_USER:$GATEWAY_USER" "$folder"
		chmod 0750 "$folder"
	else
		chmod 0700 "$folder"
	fi
	printf '%s\n' "$folder"
}

# Remove the socket's folder if it is one of random name.
forget_socket_folder() {
	[ -L "$SOCKET_LINK" ] || return 0
	rmdir "$(readlink "$SOCKET_LINK")" 2>/dev/null || true
	rm -f "$SOCKET_LINK"
}

# True if a folder is a real one and the server's user's own.
is_socket_folder() {
	[ -d "$1" ] && [ ! -L "$1" ] && [ "$(stat -c %U "$1")" = "$SERVER_USER" ]
}
