//! Who has which address in every lab: one /24, the same each time.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Where the balancer's services listen.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 100);
/// The write service: the leader alone.
pub const WRITE: SocketAddrV4 = SocketAddrV4::new(VIP, 8080);
/// The read service: the replicas.
pub const READ: SocketAddrV4 = SocketAddrV4::new(VIP, 8081);
/// The balancer's own address, and so that of its NAT.
pub const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 10);
/// Root's own namespace, where the lab gives it access.
pub const ROOT: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 1);
/// The prefix length of all of them.
pub const PREFIX: u8 = 24;
/// How many nodes, and how many clients, there is room for.
pub const EACH_MAX: usize = 30;

/// Node `id`, counted from 1.
pub fn node(id: usize) -> Ipv4Addr {
    member(10, id)
}

/// Client `number`, counted from 1.
pub fn client(number: usize) -> Ipv4Addr {
    member(49, number)
}

fn member(base: u8, number: usize) -> Ipv4Addr {
    assert!(
        (1..=EACH_MAX).contains(&number),
        "nodes and clients are counted from 1 to {EACH_MAX}, not {number}"
    );
    let number = u8::try_from(number).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, 87, 0, base.saturating_add(number))
}
