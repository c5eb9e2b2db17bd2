#!/bin/sh
# Lays Debian's own MTAs and SMTP tools into .peers/, as peers for the tests and the benchmark.
#
# Nothing is installed: packages are downloaded and unpacked below .peers/NAME, together with the libraries that this
# machine lacks. A mail server that the machine runs itself is neither stopped nor touched. Where that cannot be done
# (not Debian, not root, no network) one line says why and the exit status is 0: the tests that want a peer then skip.
#
# usage: fetch.sh [DIR]     DIR: where to unpack, default: .peers at the top of the tree
#        rm -r .peers       to fetch anew
set -u

top=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
dest=${1:-$top/.peers}

# One tree a line: its name, then the packages that must be in it whether or not the machine has them.
trees='postfix postfix
exim exim4-daemon-heavy exim4-base
opensmtpd opensmtpd
sendmail sendmail-bin sendmail-base sendmail-cf m4 libwrap0
swaks swaks libnet-ssleay-perl
gnutls gnutls-bin libgnutls-dane0
haproxy haproxy
nginx nginx libnginx-mod-mail
chromium chromium-headless-shell fonts-dejavu-core
dkimpy python3-dkim python3-dnspython python3-nacl python3-cffi-backend python3-authres
opendmarc opendmarc libopendmarc2 libspf2-2 libswitch-perl libjson-perl libdbd-mysql-perl libdbi-perl
opendkim opendkim opendkim-tools
mariadb mariadb-server-core mariadb-client-core
nsd nsd
unbound unbound
pyspf python3-spf python3-dnspython python3-authres
rspamd rspamd
nft nftables libnftables1 libnftnl11 libmnl0 libxtables12 libjansson4
xml libxml2-utils'

# Those that an archive may lack without the others being given up.
optional='opensmtpd sendmail gnutls nginx chromium dkimpy opendmarc opendkim mariadb nsd unbound pyspf rspamd nft xml'

without() {
	echo "peers: $1; tests against real MTAs will be skipped"
	exit 0
}

apt() {
	apt-get -q -o Acquire::http::Timeout=20 -o Acquire::Retries=2 -o APT::Sandbox::User=root "$@"
}

# wanted PACKAGE... prints, one a line, the packages and whatever they would pull in on this machine.
wanted() {
	printf '%s\n' "$@"
	apt -s install --no-install-recommends "$@" 2>/dev/null | sed -n 's/^Inst \([^ ]*\).*/\1/p'
}

# unpack TREE DEB...: puts the packages' files below TREE, in the merged-/usr form.
unpack() {
	tree=$1
	shift
	for dir in bin sbin lib lib64; do
		mkdir -p "$tree/usr/$dir" && ln -s "usr/$dir" "$tree/$dir" || return 1
	done
	for deb in "$@"; do
		dpkg-deb --fsys-tarfile "$deb" | tar -C "$tree" --keep-directory-symlink -xf - || return 1
	done
	rm -f "$tree/bin" "$tree/sbin" "$tree/lib" "$tree/lib64"
	rm -rf "$tree/usr/share/doc" "$tree/usr/share/man" "$tree/usr/share/locale"
}

# fetch TREE PACKAGE...
fetch() {
	name=$1
	shift
	list=$(wanted "$@" | sort -u)
	mkdir -p "$new/debs/$name" || return 1
	# shellcheck disable=SC2086 # a list of package names
	(cd "$new/debs/$name" && apt download $list >>"$new/log" 2>&1) || return 1
	unpack "$new/$name" "$new/debs/$name"/*.deb || return 1
	for deb in "$new/debs/$name"/*.deb; do
		dpkg-deb --show --showformat "$name \${Package} \${Version}\n" "$deb" >>"$new/stamp" || return 1
	done
	rm -r "$new/debs/$name"
}

[ "$(uname -s)" = Linux ] || without "this is not Linux"
for tool in apt-get dpkg-deb tar flock; do
	command -v "$tool" >/dev/null || without "no $tool here, so this is no Debian"
done
[ "$(id -u)" = 0 ] || without "not root"

# The stamp holds for one machine and one list: libraries that another machine has are missing here.
mark="$(. /etc/os-release && echo "$ID $VERSION_ID") $(dpkg --print-architecture) $(echo "$trees" | cksum)"
mkdir -p "$dest" || without "cannot write to $dest"
exec 9>"$dest/lock"
flock 9 || exit 1
[ "$(sed -n 1p "$dest/stamp" 2>/dev/null)" = "$mark" ] && exit 0

new=$dest/new
trap 'rm -rf "$new"' EXIT
trap 'exit 1' INT TERM

# attempt fetches every tree into $new; with "lenient" it does without the optional ones that cannot be had.
attempt() {
	rm -rf "$new"
	mkdir -p "$new" || exit 1
	echo "$mark" >"$new/stamp"
	while read -r name packages; do
		# shellcheck disable=SC2086 # a list of package names
		fetch "$name" $packages </dev/null && continue
		case "${1-} $optional " in
		"lenient"*" $name "*) echo "peers: no $name here; what wants it will be skipped" && rm -rf "${new:?}/$name" "${new:?}/debs" ;;
		*) return 1 ;;
		esac
	done <<END
$trees
END
}

if ! attempt; then
	# No index yet, or one that names versions which the archive no longer has.
	apt update >>"$new/log" 2>&1
	attempt lenient || without "the packages cannot be fetched ($(sed -n 's/^[EW]: //p' "$new/log" | tail -n 1))"
fi

rm -f "$dest/stamp"
for name in $(echo "$trees" | cut -d' ' -f1); do
	rm -rf "${dest:?}/$name"
	[ ! -d "$new/$name" ] || mv "$new/$name" "$dest/$name" || exit 1
done
mv "$new/stamp" "$dest/stamp"
echo "peers: $(sed 1d "$dest/stamp" | awk '$2 ~ /^(postfix|exim4-daemon-heavy|opensmtpd|sendmail-bin|swaks|gnutls-bin|haproxy|nginx|chromium-headless-shell|python3-dkim|opendmarc)$/ { printf "%s %s  ", $2, $3 }')"
