#!/bin/sh
# Starts what runs on a node: Redis, and a Sentinel that watches it.
#   node.sh ID DIRECTORY        ID is 1, 2 or 3; DIRECTORY keeps the node's data
# Node 1 is the first primary. Later the Sentinels decide; they and Redis write
# what they know into their configurations, which is why they get copies.
set -eu
id=$1 directory=$2 here=$(dirname "$0")

if [ ! -e "$directory" ]; then
    mkdir -p "$directory"
    cp "$here/redis.conf" "$here/sentinel.conf" "$directory"
    if [ "$id" != 1 ]; then
        echo "replicaof 10.87.0.11 6379" >>"$directory/redis.conf"
    fi
fi
cd "$directory"
redis-sentinel sentinel.conf &
exec redis-server redis.conf
