# as_node.sh NODE ADDRESS OUTSIDE [ATTACK …]: what a node's root user does by NFS, from a network with the node's address.
# Prints the directories of the login node that it could mount and that are not its own.
node=$1 address=$2 outside=$3 server=192.168.2.1 served=/srv/netboot
shift 3
if ! [ -e "/run/netns/$node" ]; then
    ip netns add "$node"
    ip link add "to-$node" type veth peer name eth0 netns "$node"
    ip link set "to-$node" up
    ip route add "$address/32" dev "to-$node" src "$server"
    ip -n "$node" address add "$address/32" dev eth0
    ip -n "$node" link set eth0 up
    ip -n "$node" route add "$server" dev eth0
fi
root=$(readlink "$served/nfs/$node")
export node outside server served root=${root##*/}
exec ip netns exec "$node" sh -eu -c '
    mounted=/run/node/$node
    mkdir -p "$mounted/roots" "$mounted/boot" "$mounted/other"
    bring() { timeout 60 mount -t nfs -o "$3,nolock,noacl,tcp,retry=0" "$server:$1" "$mounted/$2"; }
    bring "$served/roots/$node" roots vers=3
    bring "$served/tftp/boot/$node" boot vers=3
    for other in / "$served" "$served/roots" "$served/roots/green3" "$served/tftp/boot/green3" "$served/state/$node" "$outside"; do
        if bring "$other" other vers=3 2>/dev/null; then echo "$other"; umount "$mounted/other"; fi
    done
    if bring "$served/roots/green3" other vers=4.2 2>/dev/null; then echo "$served/roots/green3 (4.2)"; umount "$mounted/other"; fi
    python3 /mnt/hostile_node.py "$mounted/roots" "$mounted/boot" "$root" "$outside" "$@"
' as_node "$@"
