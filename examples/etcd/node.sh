#!/bin/sh
# Starts what runs on a node: etcd.
#   node.sh ID DIRECTORY        ID is 1, 2 or 3; DIRECTORY keeps the node's data
# Debian's service takes the same from /etc/default/etcd: ETCD_NAME for --name,
# and so on.
set -eu
id=$1 directory=$2
own=10.87.0.1$id

exec etcd --name "n$id" --data-dir "$directory" \
    --listen-client-urls "http://$own:2379" --advertise-client-urls "http://$own:2379" \
    --listen-peer-urls "http://$own:2380" --initial-advertise-peer-urls "http://$own:2380" \
    --initial-cluster n1=http://10.87.0.11:2380,n2=http://10.87.0.12:2380,n3=http://10.87.0.13:2380 \
    --heartbeat-interval 100 --election-timeout 1000
