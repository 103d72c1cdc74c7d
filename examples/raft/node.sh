#!/bin/sh
# Starts what runs on a node: raft-node.
#   node.sh ID DIRECTORY        ID is 1, 2 or 3; DIRECTORY keeps the node's data
set -eu
id=$1 directory=$2

peer() {
    echo "$1=10.87.0.1$1:9081,10.87.0.1$1:8081,10.87.0.1$1:10001"
}
exec raft-node serve --id "$id" --data "$directory" \
    --peer "$(peer 1)" --peer "$(peer 2)" --peer "$(peer 3)"
