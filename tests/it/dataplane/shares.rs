//! Servers that serve only while no other can, and servers that start slowly.

use std::collections::BTreeMap;

use lb_tests::privileged;
use serde_json::Value;

use super::Stage;
use super::stage::BACKUP;

#[test]
fn a_backup_serves_only_while_no_other_server_can() {
    privileged!();
    let mut stage = Stage::start(|configuration| {
        configuration.servers[2].keys = BACKUP.to_owned();
    });
    assert!(!stage.shares(30).contains_key(&3));
    stage.stop_server(1);
    stage.wait_for_targets(&[2]);
    stage.stop_server(2);
    stage.wait_for_targets(&[3]);
    let mut at_backup = stage.call().unwrap();
    assert_eq!(at_backup.server, 3);
    stage.start_server(2);
    stage.wait_for_targets(&[2]);
    assert_eq!(stage.shares(10), BTreeMap::from([(2, 10)]));
    at_backup.ping().unwrap();
}

#[test]
fn a_server_that_comes_back_gets_a_tenth_of_its_share_at_first() {
    privileged!();
    let mut stage = Stage::start(|configuration| {
        configuration.pool = r#"slow_start = "1h""#.to_owned();
        configuration.read_service = r#"algorithm = "round-robin""#.to_owned();
    });
    assert_eq!(stage.shares(30), [1, 2, 3].map(|id| (id, 10)).into());
    stage.stop_server(3);
    stage.wait_for_targets(&[1, 2]);
    stage.start_server(3);
    stage.wait_for_targets(&[1, 2, 3]);
    assert_eq!(stage.shares(105), [(1, 50), (2, 50), (3, 5)].into());
    let status: Value = stage.balancer.ask("status").unwrap();
    let servers = status["pools"][0]["servers"].as_array().unwrap();
    let warmth: Vec<_> = servers.iter().map(|one| one["warmth"].as_u64()).collect();
    assert_eq!(warmth, [Some(100), Some(100), Some(10)]);
}
