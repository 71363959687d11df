# Sourced: publish NAME COMMAND… gives node_exporter what the command prints, whole or not at all. A file that is written
# in place would be read half; a new one of this name replaces the old by rename, in the same directory.
directory=${TEXTFILE_DIRECTORY:-/run/node-textfile}

publish() {
    name=$1
    shift
    new=$(mktemp "$directory/.$name.XXXXXX")
    trap 'rm -f "$new"' EXIT
    "$@" >"$new"
    chmod 644 "$new"
    mv -f "$new" "$directory/$name.prom"
    trap - EXIT
}
