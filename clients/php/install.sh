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
hash_of() { sha256sum <"$1" | cut -d' ' -f1; }

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

# Folders that are exchanged whole, so that no page sees half of them; and the one file beside them.
FOLDERS='local/classes/Integration/PaymentService local/classes/Integration/Kaspi local/php_interface/include/sale_payment/cvetykaspi'
PAGE=local/payment-events.php
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
# Where a file of a folder lies while the folder is made anew; the page's own name otherwise.
staged() {
    for folder in $FOLDERS; do
        case $1 in "$folder"/*) printf '%s' "$root/$folder$NEW/${1#"$folder"/}"; return ;; esac
    done
    printf '%s' "$root/$1"
}
# Whether a file is as it was installed.
is_ours() { [ "$(hash_of "$root/$1")  $1" = "$(grep -F -x "$(hash_of "$root/$1")  $1" "$state/manifest")" ]; }
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
    : >"$work/unknown"
    cut -c67- "$state/manifest" | while IFS= read -r path; do
        [ -f "$root/$path" ] && is_ours "$path" || say "$path" >>"$work/unknown"
    done
    refuse_unknown
    beside
    while IFS= read -r path; do rm -f "$(staged "$path")"; done <"$copy/made"
    mkdir "$work/before"
    tar -C "$work/before" -xpf "$copy/before.tar"
    while IFS= read -r path; do
        to=$(staged "$path")
        mkdir -p "$(dirname "$to")"
        cp -a "$work/before/$path" "$to$NEW"
        mv -f "$to$NEW" "$to"
    done <"$copy/kept"
    exchange
    # Folders that were made for what is gone, the deepest first.
    sort -r "$copy/folders" | while IFS= read -r path; do rmdir "$root/$path" 2>/dev/null || :; done
    mv "$copy/manifest" "$state/manifest"
    rm -rf "$copy"
    say "Back to what was there before $last."
    exit 0
fi

# What is to be installed: "path of the site <tab> file here".
(cd "$here" && find Integration -type f | sed "s#.*#local/classes/&	$here/&#") >"$work/files"
(cd "$here" && find sale_payment -type f | sed "s#.*#local/php_interface/include/&	$here/&#") >>"$work/files"
printf '%s\t%s\n' "$PAGE" "$here/payment-events.php" >>"$work/files"
sort -o "$work/files" "$work/files"
cut -f1 "$work/files" >"$work/paths"
cut -c67- "$state/manifest" | sort >"$work/installed"
comm -13 "$work/paths" "$work/installed" >"$work/gone"

: >"$work/unknown"; : >"$work/kept"; : >"$work/made"; : >"$work/change"; : >"$work/manifest"
while IFS='	' read -r path file; do
    sum=$(hash_of "$file")
    say "$sum  $path" >>"$work/manifest"
    if [ -L "$root/$path" ] || { [ -e "$root/$path" ] && [ ! -f "$root/$path" ]; }; then
        stop 3 "$root/$path is no ordinary file. Nothing was changed."
    elif [ ! -e "$root/$path" ]; then
        say "$path" >>"$work/made"
        printf '%s\t%s\n' "$path" "$file" >>"$work/change"
    elif [ "$(hash_of "$root/$path")" != "$sum" ]; then
        is_ours "$path" || say "$path" >>"$work/unknown"
        say "$path" >>"$work/kept"
        printf '%s\t%s\n' "$path" "$file" >>"$work/change"
    fi
done <"$work/files"
# What an earlier version installed and this one has no more.
while IFS= read -r path; do
    [ -f "$root/$path" ] || continue
    is_ours "$path" || say "$path" >>"$work/unknown"
    say "$path" >>"$work/kept"
    say "$path" >>"$work/remove"
done <"$work/gone"
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
cp "$work/kept" "$work/made" "$work/folders" "$state/manifest" "$work/copy/"
mv "$work/copy" "$state/copies/$name"

umask 022
beside
while IFS='	' read -r path file; do
    to=$(staged "$path")
    mkdir -p "$(dirname "$to")"
    cp "$file" "$to$NEW"
    chmod 644 "$to$NEW"
    mv -f "$to$NEW" "$to"
done <"$work/change"
[ ! -f "$work/remove" ] || while IFS= read -r path; do rm -f "$(staged "$path")"; done <"$work/remove"
exchange
cp "$work/manifest" "$state/manifest"
say "Installed $(grep -c . "$work/change") files. To go back: sh install.sh --rollback $root $own"
