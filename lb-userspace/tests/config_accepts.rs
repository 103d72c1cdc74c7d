//! What a valid configuration comes to mean.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use lb_userspace::config::{
    Algorithm, Check, CheckKind, Config, Hook, Limits, OnChange, OnDown, RoleCheck, Route, Server,
    Snat, StatusRange,
};

fn example(name: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name);
    match Config::load(&path) {
        Ok(config) => config,
        Err(error) => panic!("{error}"),
    }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn every_example_is_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        example(&name);
        seen += 1;
    }
    assert!(seen >= 2);
}

#[test]
fn the_raft_example_gives_two_services_over_three_servers() {
    let config = example("raft-kv.toml");
    assert_eq!(config.interface.as_deref(), Some("eth0"));
    let pool = &config.pools["kv"];
    assert_eq!(
        pool.check,
        Check {
            kind: CheckKind::Http {
                path: None,
                expect_status: vec![StatusRange::SUCCESS],
            },
            port: Some(10001),
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(100),
            rise: 1,
            fall: 2,
        }
    );
    let role = RoleCheck {
        leader: "/primary".into(),
        replica: "/replica".into(),
    };
    assert_eq!(pool.role, Some(role));
    assert_eq!(
        pool.servers[2],
        Server {
            name: "n3".into(),
            address: socket("10.0.0.13:8081"),
            check_address: socket("10.0.0.13:10001"),
        }
    );
    let (write, read) = (&config.services["kv-write"], &config.services["kv-read"]);
    assert_eq!(
        (write.route, write.on_change),
        (Route::Leader, OnChange::Reset)
    );
    assert_eq!(
        (read.route, read.on_change),
        (Route::ReplicasFirst, OnChange::Keep)
    );
    assert_eq!(write.listen, socket("10.0.0.100:8080"));
}

#[test]
fn a_server_s_own_check_port_wins() {
    let config = example("every-key.toml");
    let pool = &config.pools["web"];
    let ports: Vec<u16> = pool
        .servers
        .iter()
        .map(|server| server.check_address.port())
        .collect();
    assert_eq!(ports, [10001, 10002]);
    assert_eq!(pool.check.port, Some(9000));
    assert_eq!(pool.check.timeout, Duration::from_millis(500));
}

#[test]
fn what_is_left_out_gets_the_documented_defaults() {
    let text = r#"
        [pool.db]
        server = [{ name = "a", address = "10.0.0.1:5432" }]
        [service.db]
        listen = "10.0.0.9:5432"
        pool = "db"
        route = "any"
    "#;
    let config = Config::parse(text).unwrap();
    assert_eq!(config.interface, None);
    assert_eq!(config.hook, Hook::XdpNative);
    assert_eq!(
        config.limits,
        Limits {
            connections: 131_072,
            half_open: 16_384
        }
    );
    assert_eq!(
        config.snat,
        Snat {
            address: None,
            ports: 1024..=32_767
        }
    );
    let pool = &config.pools["db"];
    assert_eq!(
        pool.check,
        Check {
            kind: CheckKind::Tcp,
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    );
    assert_eq!(pool.role, None);
    assert_eq!(pool.servers[0].check_address, socket("10.0.0.1:5432"));
    let service = &config.services["db"];
    assert_eq!(service.algorithm, Algorithm::Maglev);
    assert_eq!(
        (service.on_change, service.on_down),
        (OnChange::Keep, OnDown::Reset)
    );
    assert_eq!(service.idle_timeout, Duration::from_secs(350));
}

#[test]
fn a_timeout_that_is_left_out_is_the_interval() {
    let text = r#"
        [pool.db]
        check = { type = "tcp", interval = "250ms" }
        server = [{ name = "a", address = "10.0.0.1:5432" }]
        [service.db]
        listen = "10.0.0.9:5432"
        pool = "db"
        route = "any"
    "#;
    let check = &Config::parse(text).unwrap().pools["db"].check;
    assert_eq!(check.timeout, Duration::from_millis(250));
}

#[test]
fn a_vip_may_be_the_source_address_where_the_ports_are_apart() {
    let text = r#"
        [snat]
        address = "10.0.0.9"
        ports = "10000-20000"
        [pool.db]
        server = [{ name = "a", address = "10.0.0.1:5432" }]
        [service.db]
        listen = "10.0.0.9:5432"
        pool = "db"
        route = "any"
    "#;
    let config = Config::parse(text).unwrap();
    let vip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    assert_eq!(
        config.snat,
        Snat {
            address: Some(vip),
            ports: 10_000..=20_000
        }
    );
}

#[test]
fn good_statuses_are_codes_and_ranges() {
    let config = example("every-key.toml");
    let CheckKind::Http {
        expect_status,
        path,
    } = &config.pools["web"].check.kind
    else {
        panic!("no http check");
    };
    assert_eq!(path.as_deref(), Some("/health"));
    let good = |status| expect_status.iter().any(|range| range.contains(status));
    assert!(good(200) && good(202) && good(204));
    assert!(!good(201) && !good(205) && !good(503));
}
