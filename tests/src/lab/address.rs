//! Who has which address in every lab: the same each time, and in IPv6 the
//! same digits as in IPv4. Node 2 is 10.87.0.12 and fd87::12.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use rustix::net::AddressFamily;

/// Where the balancer's services listen.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 100);
/// The write service: the leader alone.
pub const WRITE: SocketAddrV4 = SocketAddrV4::new(VIP, 8080);
/// The read service: the replicas.
pub const READ: SocketAddrV4 = SocketAddrV4::new(VIP, 8081);
/// The balancer's own address, and so that of its NAT.
pub const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 10);
/// The prefix length of every IPv4 network.
pub const PREFIX: u8 = 24;
/// How many nodes, and how many clients, there is room for.
pub const EACH_MAX: usize = 30;
/// How many balancers there is room for.
pub const BALANCERS_MAX: usize = 4;

/// Node `id`, counted from 1.
pub fn node(id: usize) -> Ipv4Addr {
    Network::Front.ipv4(Host::Node(id))
}

/// Client `number`, counted from 1.
pub fn client(number: usize) -> Ipv4Addr {
    Network::Front.ipv4(Host::Client(number))
}

/// A version of IP. Every member of a lab has an address of either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, for what must hold in both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// As [`VIP`].
    pub fn vip(self) -> IpAddr {
        Network::Front.address(self, Host::Vip)
    }

    /// As [`WRITE`].
    pub fn write(self) -> SocketAddr {
        SocketAddr::new(self.vip(), WRITE.port())
    }

    /// As [`READ`].
    pub fn read(self) -> SocketAddr {
        SocketAddr::new(self.vip(), READ.port())
    }

    /// As [`BALANCER`].
    pub fn balancer(self) -> IpAddr {
        self.balancer_of(1)
    }

    /// Balancer `number`, counted from 1, on the front network.
    pub fn balancer_of(self, number: usize) -> IpAddr {
        Network::Front.address(self, Host::Balancer(number))
    }

    /// Node `id`, counted from 1, on the front network.
    pub fn node(self, id: usize) -> IpAddr {
        Network::Front.address(self, Host::Node(id))
    }

    /// Client `number`, counted from 1.
    pub fn client(self, number: usize) -> IpAddr {
        Network::Front.address(self, Host::Client(number))
    }

    /// The host behind the router, where the lab has one.
    pub fn remote(self) -> IpAddr {
        Network::Remote.address(self, Host::Client(1))
    }

    /// The address that stands for all of a host's own.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// What a socket is opened for.
    pub fn for_socket(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::INET,
            Self::V6 => AddressFamily::INET6,
        }
    }

    /// The prefix length of every network.
    pub fn prefix(self) -> u8 {
        match self {
            Self::V4 => PREFIX,
            Self::V6 => 64,
        }
    }

    /// The prefix length that means one host alone.
    pub fn host_prefix(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A subnet of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Where everybody is, unless the lab is a special one: 10.87.0.0/24 and
    /// fd87::/64.
    Front,
    /// Behind the router: 10.88.0.0/24 and fd88::/64.
    Remote,
    /// Of the nodes, behind a balancer with two NICs: 10.89.0.0/24 and
    /// fd89::/64.
    Back,
}

/// Who can have an address on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Root's own namespace, where the lab gives it access.
    Root,
    /// The router between the front and the remote network.
    Router,
    /// A balancer, counted from 1.
    Balancer(usize),
    /// A node, counted from 1.
    Node(usize),
    /// A client, counted from 1.
    Client(usize),
    /// Nobody in particular: where services listen.
    Vip,
}

impl Network {
    /// The address of `host` on this network.
    pub fn address(self, family: Family, host: Host) -> IpAddr {
        match family {
            Family::V4 => self.ipv4(host).into(),
            Family::V6 => self.ipv6(host).into(),
        }
    }

    /// The network itself with its prefix length, as `ip route` takes it.
    pub fn prefix(self, family: Family) -> String {
        match family {
            Family::V4 => format!("10.{}.0.0/{}", self.number(), family.prefix()),
            Family::V6 => format!("fd{}::/{}", self.number(), family.prefix()),
        }
    }

    fn ipv4(self, host: Host) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number(), 0, host.number())
    }

    fn ipv6(self, host: Host) -> Ipv6Addr {
        let first = 0xfd00 | same_digits(self.number());
        Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, same_digits(host.number()))
    }

    fn number(self) -> u8 {
        match self {
            Self::Front => 87,
            Self::Remote => 88,
            Self::Back => 89,
        }
    }
}

impl Host {
    fn number(self) -> u8 {
        match self {
            Self::Root => 1,
            Self::Router => 2,
            // Downwards: nodes begin above the first.
            Self::Balancer(number) => 11 - counted(0, number, BALANCERS_MAX),
            Self::Node(id) => counted(10, id, EACH_MAX),
            Self::Client(number) => counted(49, number, EACH_MAX),
            Self::Vip => 100,
        }
    }
}

fn counted(base: u8, number: usize, max: usize) -> u8 {
    assert!(
        (1..=max).contains(&number),
        "members of a lab are counted from 1 to {max}, not {number}"
    );
    base + number as u8
}

/// The number that looks in hexadecimal as `number` does in decimal.
fn same_digits(number: u8) -> u16 {
    let number = u16::from(number);
    number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_have_the_same_digits() {
        let shown = |network: Network, host| {
            Family::BOTH.map(|family| network.address(family, host).to_string())
        };
        assert_eq!(
            shown(Network::Front, Host::Vip),
            ["10.87.0.100", "fd87::100"]
        );
        assert_eq!(
            shown(Network::Back, Host::Node(30)),
            ["10.89.0.40", "fd89::40"]
        );
        assert_eq!(
            shown(Network::Remote, Host::Client(1)),
            ["10.88.0.50", "fd88::50"]
        );
        assert_eq!(Network::Remote.prefix(Family::V6), "fd88::/64");
        assert_eq!(Family::V4.balancer(), BALANCER);
        assert_eq!(Family::V6.balancer_of(2).to_string(), "fd87::9");
        assert_eq!(Family::V4.vip(), VIP);
    }
}
