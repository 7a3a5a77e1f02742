#!/bin/sh
# Installs the payment service's client and the payment system handler into a Bitrix site, and takes them out again.
#
#     sh install.sh [--check] [--replace] ROOT [OWN]
#     sh install.sh --rollback [--replace] ROOT [OWN]
#
# ROOT is what the web server shows (/home/bitrix/www), OWN the client's own folder (beside ROOT: kaspi_payment_service).
# It replaces only what it has installed itself. A file that it does not know it names, and changes nothing: with --replace it is
# replaced too. Before anything is changed, a copy of it goes to OWN/install/copies; --rollback brings the last one back, byte
# for byte. --check says what would be done. A second run has nothing to do.
# Ends with 0 when done, 2 for a wrong call, 3 when it met what it does not know.
set -eu

say() { printf '%s\n' "$*"; }
stop() { code=$1; shift; say "$*" >&2; exit "$code"; }

do=install replace=no
while [ $# -gt 0 ]; do
    case $1 in
        --check) do=check ;;
        --rollback) do=rollback ;;
        --replace) replace=yes ;;
        -*) stop 2 "There is no $1." ;;
        *) break ;;
    esac
    shift
done
[ $# -eq 1 ] || [ $# -eq 2 ] || stop 2 "sh install.sh [--check|--rollback] [--replace] ROOT [OWN]"
here=$(cd "$(dirname "$0")" && pwd)
[ -d "$1/bitrix" ] || stop 2 "$1 has no folder bitrix: give the folder that the web server shows."
root=$(cd "$1" && pwd)
own=${2:-$(dirname "$root")/kaspi_payment_service}
case $own/ in "$root"/*) stop 2 "$own is shown by the web server: it keeps what nobody may read." ;; esac
umask 077
mkdir -p "$own/install/copies"
state=$(cd "$own/install" && pwd)
mkdir "$state/lock" 2>/dev/null || stop 2 "Another run is under way; if it is not, delete $state/lock."
work=$state/work
trap 'rm -rf "$work"; rmdir "$state/lock"' EXIT
trap 'exit 1' HUP INT TERM
rm -rf "$work"
mkdir "$work"
: >>"$state/manifest"

# Folders that are exchanged whole, so that no page sees half of them; and the files beside them.
FOLDERS='local/classes/Integration/PaymentService local/classes/Integration/Kaspi local/php_interface/include/sale_payment/cvetykaspi'
PAGES='payment-events.php payment-refund.php'
OLD=.payment-service-old NEW=.payment-service-new

# A run that was cut off in the middle of an exchange: what was there comes back.
for folder in $FOLDERS; do
    rm -rf "$root/$folder$NEW"
    [ ! -d "$root/$folder$OLD" ] || [ -d "$root/$folder" ] || mv "$root/$folder$OLD" "$root/$folder"
    rm -rf "$root/$folder$OLD"
done

# Exchange every folder for the one that was made beside it.
exchange() {
    for folder in $FOLDERS; do
        [ -d "$root/$folder$NEW" ] || continue
        [ ! -d "$root/$folder" ] || mv "$root/$folder" "$root/$folder$OLD"
        mv "$root/$folder$NEW" "$root/$folder"
        rm -rf "$root/$folder$OLD"
    done
}
# A folder beside each, with what is in it now.
beside() {
    for folder in $FOLDERS; do
        if [ -d "$root/$folder" ]; then cp -a "$root/$folder" "$root/$folder$NEW"; else mkdir -p "$root/$folder$NEW"; fi
    done
}
# Files of a tree with the site's paths, into the folders beside; the pages into their place.
lay() {
    for folder in $FOLDERS; do
        [ -d "$1/$folder" ] || continue
        # Files only: the modes of folders stay.
        (cd "$1/$folder" && find . -type f >"$work/laid" && tar -cf - -T "$work/laid") | tar -C "$root/$folder$NEW" -xpf -
    done
    for page in $PAGES; do
        [ ! -f "$1/local/$page" ] || { cp -p "$1/local/$page" "$root/local/$page$NEW"; mv -f "$root/local/$page$NEW" "$root/local/$page"; }
    done
}
# Take files, named on standard input, out of the folders beside; the pages out of their place.
take_out() {
    for folder in $FOLDERS; do edits="${edits-} -e s#^$folder/#$folder$NEW/#"; done
    # shellcheck disable=SC2086
    sed $edits | (cd "$root" && tr '\n' '\0' | xargs -0 rm -f --)
}
# The sums of files of the site that are there, "sum  path", of paths on standard input.
sums() {
    while IFS= read -r path; do
        if [ -L "$root/$path" ] || { [ -e "$root/$path" ] && [ ! -f "$root/$path" ]; }; then
            stop 3 "$root/$path is no ordinary file. Nothing was changed."
        fi
        [ ! -f "$root/$path" ] || say "$path"
    done >"$work/existing"
    (cd "$root" && tr '\n' '\0' <"$work/existing" | xargs -0 -r sha256sum --) | sort
}
refuse_unknown() {
    [ -s "$work/unknown" ] || return 0
    say "These files are not as this program installed them:"
    sed 's/^/    /' "$work/unknown"
    if [ "$replace" = no ]; then
        stop 3 "Nothing was changed. Look at them; --replace replaces them too, and keeps a copy."
    fi
}

if [ "$do" = rollback ]; then
    last=$(ls "$state/copies" | sort | tail -n 1)
    [ -n "$last" ] || stop 2 "There is no copy to go back to."
    copy=$state/copies/$last
    cut -c67- "$state/manifest" >"$work/paths"
    sums <"$work/paths" >"$work/there"
    # What is not as it was installed, or not there any more.
    sort "$state/manifest" | comm -3 - "$work/there" | sed 's/^\t//' | cut -c67- | sort -u >"$work/unknown"
    refuse_unknown
    beside
    take_out <"$copy/made"
    mkdir "$work/before"
    tar -C "$work/before" -xpf "$copy/before.tar"
    lay "$work/before"
    exchange
    # Folders that were made for what is gone, the deepest first.
    sort -r "$copy/folders" | while IFS= read -r path; do rmdir "$root/$path" 2>/dev/null || :; done
    mv "$copy/manifest" "$state/manifest"
    rm -rf "$copy"
    say "Back to what was there before $last."
    exit 0
fi

# What is to be installed, as a tree with the site's paths.
new=$work/new
umask 022
mkdir -p "$new/local/classes" "$new/local/php_interface/include"
cp -R "$here/Integration" "$new/local/classes/"
cp -R "$here/sale_payment" "$new/local/php_interface/include/"
for page in $PAGES; do cp "$here/$page" "$new/local/"; done
umask 077
find "$new" -type f -exec chmod 644 {} +
find "$new" -type d -exec chmod 755 {} +
(cd "$new" && find . -type f | sed 's#^\./##' | tr '\n' '\0' | xargs -0 sha256sum --) | sort >"$work/manifest"
sort "$state/manifest" >"$work/installed"
cut -c67- "$work/manifest" | sort >"$work/paths"
cut -c67- "$work/installed" | sort | cat "$work/paths" - | sort -u >"$work/all"
sums <"$work/all" >"$work/there"
# What is there and will be another one, or none; and what of it this program did not install so.
comm -23 "$work/there" "$work/manifest" >"$work/differs"
cut -c67- "$work/differs" | sort >"$work/kept"
comm -23 "$work/differs" "$work/installed" | cut -c67- >"$work/unknown"
cut -c67- "$work/there" | sort | comm -23 "$work/paths" - >"$work/made"
comm -23 "$work/kept" "$work/paths" >"$work/gone"
refuse_unknown
if [ ! -s "$work/kept" ] && [ ! -s "$work/made" ]; then
    cp "$work/manifest" "$state/manifest"
    say "Everything is installed already: nothing to do."
    exit 0
fi
if [ "$do" = check ]; then
    sed 's/^/new      /' "$work/made"
    sed 's/^/replaced /' "$work/kept"
    exit 0
fi

# The copy first. Which folders are made is written down as well, for they go again.
: >"$work/folders"
while IFS= read -r path; do
    folder=$(dirname "$path")
    while [ "$folder" != . ] && [ ! -d "$root/$folder" ]; do say "$folder" >>"$work/folders"; folder=$(dirname "$folder"); done
done <"$work/made"
sort -u -o "$work/folders" "$work/folders"
name=$(date -u +%Y%m%dT%H%M%S)
while [ -e "$state/copies/$name" ]; do name=${name}x; done
mkdir "$work/copy"
tar -C "$root" -cf "$work/copy/before.tar" -T "$work/kept"
cp "$work/made" "$work/folders" "$state/manifest" "$work/copy/"
mv "$work/copy" "$state/copies/$name"

umask 022
beside
sort "$work/made" "$work/kept" | comm -23 "$work/paths" - | (cd "$new" && tr '\n' '\0' | xargs -0 rm -f --)  # what stays as it is
lay "$new"
take_out <"$work/gone"
exchange
cp "$work/manifest" "$state/manifest"
say "Installed $(cat "$work/made" "$work/kept" | grep -c .) files. To go back: sh install.sh --rollback $root $own"
