#!/bin/sh
# The VIP is on the loopback, where BIRD finds it, for as long as `lb ready`
# says that this balancer can do its work. Three failures in a row take it
# away: an agent that is started again in between costs nothing.

VIP=10.87.0.100/32
FALL=3
INTERVAL=1

withdraw() {
    ip address delete "$VIP" dev lo 2>/dev/null
}

trap 'withdraw; exit 0' INT TERM

failures=0
while :; do
    if lb ready >/dev/null; then
        failures=0
        ip address replace "$VIP" dev lo
    else
        failures=$((failures + 1))
        [ "$failures" -lt "$FALL" ] || withdraw
    fi
    # A shell that waits hears signals; one that sleeps does not.
    sleep "$INTERVAL" &
    wait $!
done
