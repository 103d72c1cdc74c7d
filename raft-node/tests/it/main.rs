//! The whole program from outside: real processes, real sockets, real signals. Unprivileged, on loopback.

mod api;
mod cluster;
mod crash;
mod formation;
mod handover;
mod lifecycle;
mod membership;
mod refusal;
mod role;
mod writers;
