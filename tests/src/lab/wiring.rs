//! Links, addresses and routes of a lab that is being built.

use std::fs;
use std::net::IpAddr;

use anyhow::Result;

use super::address::{Family, Host, Network};
use super::spec::{Spec, balancer_role, client_role, node_role};
use super::{BACK_NIC, Lab, NIC, Namespace, back_port, ip};

/// The router's NIC towards the remote host.
const REMOTE_NIC: &str = "remote";

/// A NIC of a member, and where it is plugged in.
struct Plug<'a> {
    namespace: &'a Namespace,
    nic: &'static str,
    /// The switch's port at the other end.
    port: String,
    network: Network,
    host: Host,
}

/// Connects all members of `lab`, as `spec` says.
pub(super) fn connect(lab: &Lab, spec: &Spec) -> Result<()> {
    silence(&lab.switch)?;
    let plugs = plugs(lab);
    for plug in &plugs {
        keep_quiet(plug.namespace)?;
    }
    plug_in(lab, &plugs)?;
    for plug in &plugs {
        configure(plug)?;
        if spec.checksums_verified {
            ip::checksums_in_full(plug.namespace.name(), plug.nic)?;
            ip::checksums_in_full(lab.switch.name(), &plug.port)?;
        }
    }
    for client in &lab.clients {
        many_ports(client)?;
    }
    if let (Some(mtu), Some(remote)) = (spec.remote_mtu, &lab.remote) {
        connect_remote(spec, &remote.router, &remote.host, mtu)?;
        for plug in plugs.iter().filter(|plug| is_beside_router(plug)) {
            ip::batch(plug.namespace.name(), &routes_to_remote())?;
        }
    }
    if spec.root_access {
        connect_root(&lab.switch, &spec.namespace("root"))?;
    }
    Ok(())
}

fn plugs(lab: &Lab) -> Vec<Plug<'_>> {
    let plug = |namespace, port: String, network, host| Plug {
        namespace,
        nic: NIC,
        port,
        network,
        host,
    };
    let front = Network::Front;
    let mut plugs = Vec::new();
    for (number, namespace) in (1..).zip(&lab.balancers) {
        let host = Host::Balancer(number);
        plugs.push(plug(namespace, balancer_role(number), front, host));
        if lab.nodes_network == Network::Back {
            plugs.push(Plug {
                namespace,
                nic: BACK_NIC,
                port: back_port(number),
                network: Network::Back,
                host,
            });
        }
    }
    if let Some(remote) = &lab.remote {
        let port = "router".to_owned();
        plugs.push(plug(&remote.router, port, front, Host::Router));
    }
    for (id, namespace) in (1..).zip(&lab.nodes) {
        let network = lab.nodes_network;
        plugs.push(plug(namespace, node_role(id), network, Host::Node(id)));
    }
    for (number, namespace) in (1..).zip(&lab.clients) {
        let host = Host::Client(number);
        plugs.push(plug(namespace, client_role(number), front, host));
    }
    plugs
}

/// Makes a bridge for each network, and the members' links.
fn plug_in(lab: &Lab, plugs: &[Plug<'_>]) -> Result<()> {
    let several_balancers = lab.balancers.len() > 1;
    let mut lines = Vec::new();
    for network in [Network::Front, Network::Back] {
        if plugs.iter().any(|plug| plug.network == network) {
            let bridge = bridge(network);
            // No port ever waits to learn, and no multicast snooper drops what
            // it has not heard of yet.
            lines.push(format!(
                "link add {bridge} type bridge forward_delay 0 mcast_snooping 0"
            ));
            lines.push(format!("link set {bridge} up"));
        }
    }
    for plug in plugs {
        let Plug {
            namespace,
            nic,
            port,
            network,
            host,
        } = plug;
        lines.push(format!(
            "link add {port} type veth peer name {nic} netns {}",
            namespace.name()
        ));
        lines.push(format!("link set {port} master {} up", bridge(*network)));
        if several_balancers && matches!(host, Host::Balancer(_)) {
            lines.push(format!("link set {port} type bridge_slave flood off"));
        }
    }
    ip::batch(lab.switch.name(), &lines)
}

fn bridge(network: Network) -> &'static str {
    match network {
        Network::Front | Network::Remote => "br0",
        Network::Back => "br1",
    }
}

fn configure(plug: &Plug<'_>) -> Result<()> {
    let Plug {
        namespace,
        nic,
        port: _,
        network,
        host,
    } = plug;
    let mut lines: Vec<String> = Family::BOTH
        .map(|family| add_address(network.address(family, *host), family.prefix(), nic))
        .to_vec();
    lines.push(format!("link set {nic} up"));
    ip::batch(namespace.name(), &lines)
}

/// The address can be used at once: nobody else can have it.
pub(super) fn add_address(address: IpAddr, prefix: u8, link: &str) -> String {
    let nodad = if address.is_ipv6() { " nodad" } else { "" };
    format!("addr add {address}/{prefix} dev {link}{nodad}")
}

/// A veth from root's own namespace to the switch. The interface's own
/// sysctls in root's namespace are left alone: where they turn IPv6 off, it
/// has no IPv6 address.
fn connect_root(switch: &Namespace, link: &str) -> Result<()> {
    let lines = [
        "link add root type veth peer name root-peer".to_owned(),
        "link set root master br0 up".to_owned(),
        // Renamed as it moves; `netns 1` is the namespace of process 1,
        // which a container's root need not be in: so by our own id.
        format!(
            "link set root-peer name {link} netns {}",
            std::process::id()
        ),
    ];
    ip::batch(switch.name(), &lines)?;
    let disabled = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
    let has_ipv6 = fs::read_to_string(disabled).is_ok_and(|disabled| disabled.trim() == "0");
    for family in Family::BOTH {
        if family == Family::V4 || has_ipv6 {
            let root = Network::Front.address(family, Host::Root);
            let line = add_address(root, family.prefix(), link);
            ip::ip(&line.split(' ').collect::<Vec<_>>())?;
        }
    }
    ip::ip(&["link", "set", link, "up"])
}

/// A host behind a router, which forwards packets of at most `mtu` bytes. The
/// limit is the routes', not the links': a link would drop what is too long,
/// and its own host would offer segments that fit, so that nobody ever had
/// anything to discover.
fn connect_remote(spec: &Spec, router: &Namespace, host: &Namespace, mtu: u16) -> Result<()> {
    keep_quiet(host)?;
    many_ports(host)?;
    router.set_sysctl("ipv4/ip_forward", "1")?;
    router.set_sysctl("ipv6/conf/all/forwarding", "1")?;
    let mut near = vec![format!(
        "link add {REMOTE_NIC} type veth peer name {NIC} netns {}",
        host.name()
    )];
    let mut far = Vec::new();
    for family in Family::BOTH {
        let gateway = Network::Remote.address(family, Host::Router);
        near.push(add_address(gateway, family.prefix(), REMOTE_NIC));
        far.push(add_address(family.remote(), family.prefix(), NIC));
    }
    near.push(format!("link set {REMOTE_NIC} up"));
    far.push(format!("link set {NIC} up"));
    for family in Family::BOTH {
        for (network, nic) in [(Network::Front, NIC), (Network::Remote, REMOTE_NIC)] {
            let prefix = network.prefix(family);
            // In IPv6 it stands beside the link's own route, and comes first.
            let line = format!("route replace {prefix} dev {nic} mtu {mtu}");
            near.push(match family {
                Family::V4 => line,
                Family::V6 => format!("{line} metric 1"),
            });
        }
        let gateway = Network::Remote.address(family, Host::Router);
        far.push(format!("route add default via {gateway}"));
    }
    ip::batch(router.name(), &near)?;
    ip::batch(host.name(), &far)?;
    if spec.checksums_verified {
        ip::checksums_in_full(router.name(), REMOTE_NIC)?;
        ip::checksums_in_full(host.name(), NIC)?;
    }
    Ok(())
}

fn is_beside_router(plug: &Plug<'_>) -> bool {
    plug.network == Network::Front && plug.host != Host::Router
}

fn routes_to_remote() -> Vec<String> {
    let route = |family| {
        let gateway = Network::Front.address(family, Host::Router);
        let prefix = Network::Remote.prefix(family);
        format!("route add {prefix} via {gateway}")
    };
    Family::BOTH.map(route).to_vec()
}

/// Room for tens of thousands of short connections from one address.
fn many_ports(client: &Namespace) -> Result<()> {
    client.set_sysctl("ipv4/ip_local_port_range", "10000 65000")
}

/// The switch has no address, and so nothing to say.
fn silence(switch: &Namespace) -> Result<()> {
    switch.set_sysctl("ipv6/conf/all/disable_ipv6", "1")?;
    switch.set_sysctl("ipv6/conf/default/disable_ipv6", "1")
}

/// The packets of a lab are those that a test sends: no search for routers, no
/// duplicate address detection. What remains are the reports of multicast
/// groups (MLD), which are over soon after a link is up. Link-local addresses
/// stay: a neighbour is asked for from there when a packet's own sender is no
/// address of the NIC, as with a router, and with a VIP on the loopback.
///
/// Also lets IPv4 verify by reverse path where a packet came from. To be
/// called before the namespace has a NIC: a NIC takes what is set here.
fn keep_quiet(namespace: &Namespace) -> Result<()> {
    namespace.set_sysctl("ipv4/conf/all/rp_filter", "1")?;
    for (key, value) in [
        ("accept_dad", "0"),
        ("accept_ra", "0"),
        ("autoconf", "0"),
        ("dad_transmits", "0"),
        ("mldv2_unsolicited_report_interval", "10"),
        ("router_solicitations", "0"),
    ] {
        namespace.set_sysctl(&format!("ipv6/conf/default/{key}"), value)?;
    }
    Ok(())
}
