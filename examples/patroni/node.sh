#!/bin/sh
# Starts what runs on a node: a member of etcd, and Patroni, which starts
# PostgreSQL. As root, or as the user `postgres`.
#   node.sh ID DIRECTORY        ID is 1, 2 or 3; DIRECTORY keeps the node's data
set -eu
id=$1 directory=$2 here=$(dirname "$0")
own=10.87.0.1$id

mkdir -p "$directory"
etcd --name "n$id" --data-dir "$directory/etcd" \
    --listen-client-urls "http://$own:2379" --advertise-client-urls "http://$own:2379" \
    --listen-peer-urls "http://$own:2380" --initial-advertise-peer-urls "http://$own:2380" \
    --initial-cluster n1=http://10.87.0.11:2380,n2=http://10.87.0.12:2380,n3=http://10.87.0.13:2380 &

# What differs from node to node; the rest is in patroni.yml.
export PATRONI_NAME="n$id"
export PATRONI_RESTAPI_CONNECT_ADDRESS="$own:8008"
export PATRONI_POSTGRESQL_CONNECT_ADDRESS="$own:5432"
export PATRONI_POSTGRESQL_DATA_DIR="$directory/postgres/data"
export PATRONI_POSTGRESQL_PGPASS="$directory/postgres/pgpass"
PATRONI_POSTGRESQL_BIN_DIR=$(dirname "$(ls /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)")
export PATRONI_POSTGRESQL_BIN_DIR

mkdir -p "$directory/postgres"
# PostgreSQL refuses a data directory that others may read.
umask 077
if [ "$(id -u)" = 0 ]; then
    # PostgreSQL does not run as root.
    chown postgres "$directory/postgres"
    exec setpriv --reuid postgres --regid postgres --init-groups patroni "$here/patroni.yml"
fi
exec patroni "$here/patroni.yml"
