//! What a valid configuration comes to mean.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use lb_userspace::config::{
    Access, AgentCheck, Algorithm, Breaker, Check, CheckKind, Config, Duty, Hook, InitState,
    Limits, Mode, Observe, OnChange, OnDown, OnStop, Rate, Refusal, RoleCheck, Route, Server,
    Service, Snat, SourceLimits, Timeouts, Vips,
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
    assert_eq!(config.interfaces, ["eth0"]);
    let pool = &config.pools["kv"];
    assert_eq!(
        pool.check,
        Check {
            port: Some(10001),
            interval: Duration::from_millis(100),
            fast_interval: Duration::from_millis(25),
            down_interval: Duration::from_millis(100),
            timeout: Duration::from_millis(100),
            rise: 1,
            fall: 2,
            ..Check::with_defaults(CheckKind::get(None))
        }
    );
    let role = RoleCheck::by_paths("/primary", "/replica");
    assert_eq!(pool.role, Some(role));
    assert_eq!(
        pool.servers[2],
        Server {
            name: "n3".into(),
            address: socket("10.0.0.13:8081"),
            check_address: socket("10.0.0.13:10001"),
            agent_address: None,
            weight: 1,
            max_connections: None,
            backup: false,
            duty: Duty::Ready,
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
    assert!(config.interfaces.is_empty());
    assert_eq!(config.hook, Hook::XdpNative);
    assert_eq!(config.vips, Vips::Managed);
    assert_eq!(config.on_stop, OnStop::Detach);
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
            addresses: vec![],
            ports: 1024..=32_767
        }
    );
    let Timeouts {
        half_open,
        fin,
        reset,
        rest,
    } = config.timeouts;
    let seconds = [half_open, fin, reset, rest].map(|time| time.as_secs());
    assert_eq!(seconds, [130, 10, 10, 60]);
    let pool = &config.pools["db"];
    assert_eq!(
        pool.check,
        Check {
            kind: CheckKind::Tcp {
                send: vec![],
                expect: None,
            },
            port: None,
            service_port: true,
            interval: Duration::from_secs(1),
            fast_interval: Duration::from_millis(100),
            down_interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            init_state: InitState::Down,
            agent: AgentCheck::default(),
            observe: Observe::None,
            breaker: Breaker {
                error_limit: 5,
                error_window: Duration::from_secs(10),
                open_time: Duration::from_secs(60),
            },
        }
    );
    assert_eq!(pool.role, None);
    assert_eq!(pool.servers[0].check_address, socket("10.0.0.1:5432"));
    let server = &pool.servers[0];
    assert_eq!((server.weight, server.max_connections), (1, None));
    let service = &config.services["db"];
    assert_eq!(service.algorithm, Algorithm::Maglev);
    assert_eq!((service.affinity, service.mode), (None, Mode::Nat));
    assert_eq!(service.max_connections, None);
    let refusals = (service.on_no_target, service.on_full);
    assert_eq!(refusals, (Refusal::Reset, Refusal::Reset));
    assert_eq!(service.source, SourceLimits::default());
    assert_eq!((service.rules.len(), service.unmatched()), (0, None));
    assert_eq!(
        (service.on_change, service.on_down),
        (OnChange::Keep, OnDown::Reset)
    );
    assert_eq!(service.drain_timeout, Duration::from_secs(30));
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
            addresses: vec![vip],
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
        ..
    } = &config.pools["web"].check.kind
    else {
        panic!("no http check");
    };
    assert_eq!(path.as_deref(), Some("/health"));
    let good = |status| expect_status.iter().any(|range| range.contains(status));
    assert!(good(200) && good(202) && good(204));
    assert!(!good(201) && !good(205) && !good(503));
}

/// A pool of two servers and a service `s` on port 80 with these lines.
fn with(top: &str, service: &str) -> Config {
    let text = format!(
        "{top}
        [pool.p]
        server = [
            {{ name = \"a\", address = \"10.0.0.1:80\", weight = 3, max_connections = 500 }},
            {{ name = \"b\", address = \"10.0.0.2:80\", backup = true }},
        ]
        slow_start = \"30s\"
        [service.s]
        listen = \"10.0.0.9:80\"
        pool = \"p\"
        route = \"any\"
        {service}"
    );
    Config::parse(&text).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn service(lines: &str) -> Service {
    with("", lines).services["s"].clone()
}

#[test]
fn one_interface_or_several() {
    assert_eq!(with("interface = \"eth0\"", "").interfaces, ["eth0"]);
    let two = with("interface = [\"eth0\", \"eth1\"]", "");
    assert_eq!(two.interfaces, ["eth0", "eth1"]);
}

#[test]
fn the_data_path_may_outlive_an_agent_that_is_told_to_stop() {
    for on_stop in OnStop::ALL {
        let config = with(&format!("on_stop = \"{on_stop}\""), "");
        assert_eq!(config.on_stop, *on_stop);
    }
}

#[test]
fn everybody_who_can_have_the_vips_in_hand_has_a_word() {
    for vips in Vips::ALL {
        assert_eq!(with(&format!("vips = \"{vips}\""), "").vips, *vips);
    }
}

#[test]
fn every_hook_has_its_word() {
    for hook in Hook::ALL {
        assert_eq!(with(&format!("hook = \"{hook}\""), "").hook, *hook);
    }
}

#[test]
fn timeouts_are_read() {
    let text = "[timeouts]\nhalf_open = \"5s\"\nfin = \"6s\"\nreset = \"7s\"\nrest = \"8s\"";
    let expected = Timeouts {
        half_open: Duration::from_secs(5),
        fin: Duration::from_secs(6),
        reset: Duration::from_secs(7),
        rest: Duration::from_secs(8),
    };
    assert_eq!(with(text, "").timeouts, expected);
}

#[test]
fn source_addresses_of_both_families_keep_their_order() {
    let text = "[snat]\naddresses = [\"10.0.0.20\", \"10.0.0.10\", \"fd87::10\"]";
    let addresses = with(text, "").snat.addresses;
    let expected: [IpAddr; 3] =
        ["10.0.0.20", "10.0.0.10", "fd87::10"].map(|text| text.parse().unwrap());
    assert_eq!(addresses, expected);
}

#[test]
fn servers_have_weights_and_limits() {
    let servers = &with("", "").pools["p"].servers;
    assert_eq!(
        (servers[0].weight, servers[0].max_connections),
        (3, Some(500))
    );
}

#[test]
fn servers_may_be_backups_and_pools_start_them_slowly() {
    let pool = &with("", "").pools["p"];
    let backups: Vec<bool> = pool.servers.iter().map(|server| server.backup).collect();
    assert_eq!(backups, [false, true]);
    assert_eq!(pool.slow_start, Some(Duration::from_secs(30)));
}

#[test]
fn every_algorithm_and_mode_has_its_word() {
    for algorithm in Algorithm::ALL {
        let service = service(&format!("algorithm = \"{algorithm}\""));
        assert_eq!(service.algorithm, *algorithm);
    }
    for mode in Mode::ALL {
        assert_eq!(service(&format!("mode = \"{mode}\"")).mode, *mode);
    }
}

#[test]
fn a_source_hash_may_have_an_affinity() {
    let service = service("algorithm = \"source-hash\"\naffinity = \"1h\"");
    assert_eq!(service.affinity, Some(Duration::from_secs(3600)));
}

#[test]
fn limits_and_refusals_are_read() {
    let service = service(
        "max_connections = 1000\non_no_target = \"drop\"\non_full = \"drop\"\n\
         source = { rate = 100, burst = 200, connections = 50 }",
    );
    assert_eq!(service.max_connections, Some(1000));
    let refusals = (service.on_no_target, service.on_full);
    assert_eq!(refusals, (Refusal::Drop, Refusal::Drop));
    let rate = Rate {
        per_second: 100,
        burst: 200,
    };
    let expected = SourceLimits {
        rate: Some(rate),
        connections: Some(50),
    };
    assert_eq!(service.source, expected);
}

#[test]
fn a_burst_that_is_left_out_is_the_rate() {
    let rate = service("source = { rate = 100 }").source.rate.unwrap();
    assert_eq!((rate.per_second, rate.burst), (100, 100));
    let connections = service("source = { connections = 5 }").source;
    assert_eq!((connections.rate, connections.connections), (None, Some(5)));
}

#[test]
fn whoever_is_not_allowed_is_denied_where_somebody_is() {
    let allow = service("allow = [\"10.0.0.0/8\"]\ndeny = [\"10.1.0.0/16\"]");
    assert_eq!(allow.unmatched(), Some(Access::Deny));
    let rules: Vec<(String, Access)> = allow
        .rules
        .iter()
        .map(|(prefix, &access)| (prefix.to_string(), access))
        .collect();
    let expected = [("10.0.0.0/8", Access::Allow), ("10.1.0.0/16", Access::Deny)];
    assert_eq!(
        rules,
        expected.map(|(prefix, access)| (prefix.to_owned(), access))
    );
    let deny = service("deny = \"203.0.113.0/24\"");
    assert_eq!(deny.unmatched(), Some(Access::Allow));
}

#[test]
fn ipv6_services_have_ipv6_servers_and_rules() {
    let text = r#"
        [pool.p]
        server = [{ name = "a", address = "[fd87::1]:80" }]
        [service.s]
        listen = "[fd87::9]:80"
        pool = "p"
        route = "any"
        mode = "dsr"
        allow = ["fd00::/8", "2001:db8::7/128"]
    "#;
    let config = Config::parse(text).unwrap();
    assert_eq!(config.services["s"].listen, socket("[fd87::9]:80"));
    assert_eq!(
        config.pools["p"].servers[0].check_address,
        socket("[fd87::1]:80")
    );
    assert_eq!(config.services["s"].rules.len(), 2);
}

#[test]
fn a_server_on_this_host_may_have_the_source_address() {
    let config = with("[snat]\naddress = \"10.0.0.1\"", "mode = \"local\"");
    assert_eq!(config.services["s"].mode, Mode::Local);
}
