#!/usr/bin/dash
# Starts one part of Open vSwitch in its container, or says whether that part is ready.
#   ovs-start database | ovsdb-server | ovs-vswitchd | ready-ovsdb-server | ready-ovs-vswitchd
# Paths are Trunkline's own: a node's own Open vSwitch is never touched.
set -eu

export OVS_RUNDIR="${OVS_RUNDIR:-/run/trunkline/openvswitch}"
export OVS_DBDIR="${OVS_DBDIR:-/var/lib/trunkline/openvswitch}"
export OVS_LOGDIR="$OVS_RUNDIR"
database=$OVS_DBDIR/conf.db
schema=/usr/share/openvswitch/vswitch.ovsschema

# A port of the userspace datapath holds several descriptors, and runtimes often hand out 1024.
raise_nofile() {
    ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -H -n)" 2>/dev/null || true
}

case ${1:-} in
database)
    if [ ! -e "$database" ]; then
        ovsdb-tool create "$database" "$schema"
        echo "created $database"
    elif [ "$(ovsdb-tool needs-conversion "$database" "$schema")" = yes ]; then
        ovsdb-tool convert "$database" "$schema"
        echo "converted $database to schema $(ovsdb-tool schema-version "$schema")"
    fi
    ;;
ovsdb-server)
    raise_nofile
    exec ovsdb-server "$database" --remote=punix:"$OVS_RUNDIR/db.sock" --pidfile --no-chdir \
        -vconsole:info -vsyslog:off -vfile:off
    ;;
ovs-vswitchd)
    raise_nofile
    # The database is empty until somebody writes its one Open_vSwitch row; this waits for the server.
    version=$(ovs-vsctl --version)
    version=${version%%
*}
    ovs-vsctl --retry --no-wait -- init -- set Open_vSwitch . ovs-version="${version##* }" \
        external-ids:hostname="${NODE_NAME:-unknown}" external-ids:rundir="$OVS_RUNDIR"
    exec ovs-vswitchd "unix:$OVS_RUNDIR/db.sock" --pidfile --no-chdir -vconsole:info -vsyslog:off -vfile:off
    ;;
ready-ovsdb-server)
    exec ovs-appctl -t ovsdb-server version
    ;;
ready-ovs-vswitchd)
    ovs-appctl -t ovs-vswitchd version
    # Open vSwitch 3.1 can run without threads that take upcalls; then no first packet of a flow passes.
    # Without a bridge there is no datapath and nothing to take.
    [ -n "$(ovs-appctl -t ovs-vswitchd dpif/show)" ] || exit 0
    for comm in /proc/1/task/*/comm; do
        read -r name <"$comm" || continue
        case $name in handler* | pmd*) exit 0 ;; esac
    done
    echo "a datapath exists, but no thread of ovs-vswitchd takes upcalls" >&2
    exit 1
    ;;
*)
    echo "usage: ovs-start database | ovsdb-server | ovs-vswitchd | ready-ovsdb-server | ready-ovs-vswitchd" >&2
    exit 64
    ;;
esac
