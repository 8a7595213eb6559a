# Decrypts by hand, with age, jq, openssl (3 or later), xxd and a POSIX shell. These tools do not check the tags of
# segments: compare what comes out with the digests in the backup's documents.
#
# IDENTITY is a file with the plan's or a recovery key; KEYS a folder with the wrapped keys, <key id>.age.

# data_key KEY_ID: the data key in hexadecimal digits.
data_key() { age -d -i "$IDENTITY" "$KEYS/$1.age" | jq -r '.key'; }

# region_key DATA_KEY REGION CONTEXT: the key of a region; the context of an object with a layout is empty.
region_key() {
    info=$(printf 'holdfast region 1\n%s' "$3" | xxd -p | tr -d '\n')
    openssl kdf -binary -keylen 32 -kdfopt digest:SHA256 -kdfopt "hexkey:$1" -kdfopt "hexsalt:$2" \
        -kdfopt "hexinfo:$info" HKDF | xxd -p | tr -d '\n'
}

# open_segment REGION_KEY INDEX LAST FILE OFFSET BYTES: so many bytes of plaintext of the segment at this offset.
# AES-GCM encrypts as AES-CTR does, beginning with counter 2.
open_segment() {
    tail -c "+$(($5 + 1))" "$4" | head -c "$6" |
        openssl enc -d -aes-256-ctr -K "$1" -iv "$(printf '000000%016x%02x00000002' "$2" "$3")"
}

# open_region REGION_KEY FIRST PLAIN ENDS FILE OFFSET: PLAIN bytes from segment FIRST on, where ENDS is 1 if the last of
# them ends the region.
open_region() {
    index=$2 left=$3 offset=$6
    while [ "$left" -gt 65536 ]; do
        open_segment "$1" "$index" 0 "$5" "$offset" 65536
        index=$((index + 1)) left=$((left - 65536)) offset=$((offset + 65552))
    done
    open_segment "$1" "$index" "$4" "$5" "$offset" "$left"
}

# open_object LAYOUT FILE: the plaintext of an object with a layout.
open_object() {
    at=0
    jq -r '.[] | "\(.key) \(.region) \(.first) \(.plain) \(if .ends then 1 else 0 end)"' "$1" |
        while read -r id region first plain ends; do
            open_region "$(region_key "$(data_key "$id")" "$region" '')" "$first" "$plain" "$ends" "$2" "$at"
            at=$((at + plain + (plain + 65535) / 65536 * 16))
        done
}

# open_document OBJECT_KEY FILE: the plaintext of a sealed document.
open_document() {
    [ "$(head -c 8 "$2")" = HFSEAL1 ] || { echo "$2 is not a sealed document" >&2; return 1; }
    length=$((0x$(xxd -s 8 -l 1 -p "$2")))
    id=$(tail -c +10 "$2" | head -c "$length")
    region=$(xxd -s $((9 + length)) -l 16 -p "$2")
    head=$((25 + length))
    body=$(($(wc -c <"$2") - head))
    plain=$((body - (body + 65551) / 65552 * 16))
    open_region "$(region_key "$(data_key "$id")" "$region" "$1")" 0 "$plain" 1 "$2" "$head"
}
