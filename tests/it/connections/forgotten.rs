//! What the agent's sweep forgets, over IPv4 as over IPv6: connections that
//! have been idle for too long, handshakes that nobody finishes, and halves
//! that have lost the other one.

use std::time::Duration;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use lb_common::addr::{Address, Ipv4, Ipv6};
use lb_common::flow::{Direction, Flow, FlowKey};
use lb_tests::balancer::Hook;
use lb_tests::lab::address::Family;
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::Failure;
use lb_tests::traffic::flood::{Flood, Plan};

use super::{PATIENCE, Site, spec_for};

fn site(family: Family, top: &str, write_service: &str) -> Site {
    Site::in_family(family, &spec_for(Hook::Native), Hook::Native, |lb| {
        lb.top = top.to_owned();
        lb.write_service = write_service.to_owned();
    })
}

/// How many connections `lb flows` has in this state.
fn listed(site: &Site, state: &str) -> usize {
    let flows = site.balancer.flows().unwrap().flows;
    flows.iter().filter(|flow| flow.state == state).count()
}

#[test]
fn an_idle_connection_is_forgotten_and_reset_when_it_speaks_again() {
    privileged!();
    for family in Family::BOTH {
        let mut site = site(family, "", "idle_timeout = \"1s\"");
        let mut idle = site.connect().unwrap();
        let mut busy = site.connect().unwrap();
        idle.ping().unwrap();
        let listed = |site: &Site, client: &str| {
            let flows = site.balancer.flows().unwrap().flows;
            flows.iter().any(|flow| flow.client == client)
        };
        assert!(listed(&site, &idle.client()));
        let forgotten = wait_until(PATIENCE, || {
            busy.ping().unwrap();
            !listed(&site, &idle.client())
        });
        assert!(forgotten, "{:?}", site.balancer.flows());
        assert!(listed(&site, &busy.client()));
        let before = site.balancer.stats().unwrap().packets("unknown_flow");
        assert_eq!(idle.ping().unwrap_err(), Failure::Reset);
        let after = site.balancer.stats().unwrap().packets("unknown_flow");
        assert!(after > before);
        busy.ping().unwrap();
        assert!(site.balancer.terminate().unwrap().success());
    }
}

#[test]
fn handshakes_that_nobody_finishes_are_forgotten_and_no_connection_is() {
    privileged!();
    const HANDSHAKES: u64 = 40;
    for family in Family::BOTH {
        let site = site(family, "timeouts = { half_open = \"1s\" }", "");
        let mut open = site.connect().unwrap();
        open.ping().unwrap();
        let plan = Plan {
            target: family.write(),
            rate: 10_000,
            count_max: HANDSHAKES,
            duration_max: PATIENCE,
            seed: 3,
        };
        let flood = Flood::start(site.client(), site.lab.balancer(), &plan).unwrap();
        assert_eq!(flood.wait().unwrap().sent, HANDSHAKES);
        let opening = listed(&site, "opening");
        assert_eq!(opening as u64, HANDSHAKES, "{:?}", site.balancer.flows());
        let forgotten = wait_until(PATIENCE, || listed(&site, "opening") == 0);
        assert!(forgotten, "{:?}", site.balancer.flows());
        assert_eq!(listed(&site, "established"), 1);
        open.ping().unwrap();
    }
}

#[test]
fn half_a_connection_that_was_left_alone_is_forgotten_and_no_whole_one_is() {
    privileged!();
    lose_a_half::<Ipv4>(Family::V4, "FLOWS_V4");
    lose_a_half::<Ipv6>(Family::V6, "FLOWS_V6");
}

/// Takes the half out of the table that an agent which was killed between two
/// removals would have taken out first.
fn lose_a_half<A: Address>(family: Family, map: &str)
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    let site = site(family, "timeouts = { fin = \"1s\" }", "");
    let mut whole = site.connect().unwrap();
    let mut halved = site.connect().unwrap();
    for echo in [&mut whole, &mut halved] {
        echo.ping().unwrap();
    }
    let pin = MapData::from_pin(site.balancer.pins().unwrap().join(map)).unwrap();
    let mut flows = HashMap::try_from(Map::HashMap(pin)).unwrap();
    let port = halved.stream().local_addr().unwrap().port();
    let of_halved = |key: &FlowKey<A>, flow: &Flow<A>| {
        flow.direction() == Direction::Forward && key.source_port.number() == port
    };
    let all = entries(&flows);
    let (forward, _) = all.iter().find(|(key, flow)| of_halved(key, flow)).unwrap();
    assert_eq!(all.len(), 4);
    flows.remove(forward).unwrap();

    let forgotten = wait_until(PATIENCE, || entries(&flows).len() == 2);
    assert!(forgotten, "{:?}", entries(&flows));
    // Longer than a half that is left alone may rest.
    std::thread::sleep(Duration::from_secs(2));
    whole.ping().unwrap();
    assert_eq!(halved.ping().unwrap_err(), Failure::Reset);
}

/// What a table holds that nobody changes while it is read, but to take
/// something out.
fn entries<A: Address>(flows: &HashMap<MapData, FlowKey<A>, Flow<A>>) -> Vec<(FlowKey<A>, Flow<A>)>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    flows.iter().filter_map(Result::ok).collect()
}
