//! Ways of a packet that are not plain NAT of TCP: ICMP errors, tunnels,
//! servers on this host; each on IPv4 and on IPv6.

/// Each test, for addresses of each family.
macro_rules! on_both_families {
    ($($test:ident)+) => {
        mod ipv4 { $(#[test] fn $test() { super::$test::<lb_common::addr::Ipv4>(); })+ }
        mod ipv6 { $(#[test] fn $test() { super::$test::<lb_common::addr::Ipv6>(); })+ }
    };
}

mod icmp;
mod ipip;
mod local;
mod world;
