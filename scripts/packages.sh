# shellcheck shell=bash
# Finding and installing the Debian packages that scripts/packages lists.

# A file here, for as long as we install, keeps Debian from making (and
# starting) a cluster of its own beside ours.
CLUSTER_DEFAULTS=/etc/postgresql-common/createcluster.d
CLUSTER_FILE=$CLUSTER_DEFAULTS/keelson.conf

# Make sure that the packages of these groups are there, or end.
need_packages() {
	local missing command
	command -v dpkg-query >/dev/null ||
		fail "this is not Debian: no dpkg-query" "Keelson's makefile finds its packages on Debian 12 or 13 (scripts/packages lists them)."
	missing=$(missing_packages "$@")
	[ -n "$missing" ] || return 0
	command="apt-get install -y --no-install-recommends $missing"
	if is_root; then
		say "installing Debian packages: $missing"
		install_packages env "$missing"
	elif can_sudo; then
		say "installing Debian packages by sudo: $missing"
		install_packages sudo "$missing"
	else
		fail "Debian packages are missing, and neither are you root nor does sudo work. Have this run:" \
			"apt-get update && $command"
	fi
	missing=$(missing_packages "$@")
	[ -z "$missing" ] || fail "after the installation these packages are still missing: $missing"
}

# Print the packages of these groups that are not installed, in one line.
missing_packages() {
	local group package program
	local -a wanted=() installed=() missing=()
	while read -r group package program; do
		[[ $group != '#'* && " $* " == *" $group "* ]] || continue
		package=${package/PGMAJOR/$PG_MAJOR}
		package=${package/CLANGMAJOR/$CLANG_MAJOR}
		[ -z "$program" ] || ! command -v "$program" >/dev/null || continue
		wanted+=("$package")
	done <"$ROOT/scripts/packages"
	dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null |
		sed -n 's/ installed$//p' | mapfile -t installed || true
	for package in "${wanted[@]}"; do
		[[ " ${installed[*]} " == *" $package "* ]] || missing+=("$package")
	done
	echo "${missing[*]}"
}

# True if sudo works: without asking, or by asking whoever sits there.
can_sudo() {
	command -v sudo >/dev/null || return 1
	sudo -n true 2>/dev/null && return 0
	[ -t 0 ] && [ -t 2 ] && sudo -v
}

# Install as "env" (we are root) or by "sudo".
install_packages() {
	local how=$1 packages=$2 log
	log=$(mktemp)
	# shellcheck disable=SC2064 # the values of now
	trap "rm -f '$log'; '$how' rm -f '$CLUSTER_FILE'" EXIT
	"$how" mkdir -p "$CLUSTER_DEFAULTS"
	echo 'create_main_cluster = false' | "$how" tee "$CLUSTER_FILE" >/dev/null
	# Lists that are missing or old would show as packages that cannot be had.
	apt_get "$how" "$log" update || true
	# shellcheck disable=SC2086 # a list of words
	if ! apt_get "$how" "$log" install $packages; then
		tail -n 20 "$log" >&2
		fail "apt-get failed (above are its last lines). Once it can, this installs what is missing:" \
			"apt-get update && apt-get install -y --no-install-recommends $packages"
	fi
	rm -f "$log"
	"$how" rm -f "$CLUSTER_FILE"
	"$how" rmdir --ignore-fail-on-non-empty "$CLUSTER_DEFAULTS"
	trap - EXIT
}

apt_get() {
	local how=$1 log=$2
	shift 2
	"$how" DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
		apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 --no-install-recommends "$@" \
		</dev/null >>"$log" 2>&1
}
