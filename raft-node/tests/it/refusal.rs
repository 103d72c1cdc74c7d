//! Starts that must fail: each with one line that says why, and without touching anything.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use crate::cluster::{BINARY, Cluster, eventually};

/// The exit status and stderr.
fn refused(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn assert_one_line(command: &mut Command, expected: &str) {
    let (status, error) = refused(command);
    assert_eq!(status, 1, "{error}");
    assert!(
        error.contains(expected),
        "expected `{expected}` in: {error}"
    );
    assert!(
        error.starts_with("raft-node: ") && error.lines().count() == 1,
        "not one line: {error}"
    );
}

#[test]
fn contradictory_settings_are_refused_in_one_line() {
    let one = "1=127.0.0.1:9081,127.0.0.1:8081,127.0.0.1:10001";
    let two = "2=127.0.0.1:9082,127.0.0.1:8082,127.0.0.1:10002";
    let clash = "2=127.0.0.1:9082,127.0.0.1:8081,127.0.0.1:10002";
    let zero = "1=127.0.0.1:0,127.0.0.1:8081,127.0.0.1:10001";
    let table: &[(&[&str], &str)] = &[
        (&["--peer", two], "--id 1 is not among the --peer entries"),
        (
            &["--peer", one, "--peer", clash],
            "address 127.0.0.1:8081 is used twice",
        ),
        (&["--peer", zero], "has port 0"),
        (
            &["--peer", one, "--heartbeat", "100ms"],
            "--heartbeat 100ms must be",
        ),
        (
            &["--peer", one, "--heartbeat", "0s"],
            "--heartbeat 0ns must be",
        ),
        (
            &["--peer", one, "--election-max", "150ms"],
            "--election-min 150ms must be less than",
        ),
        (
            &["--peer", one, "--write-timeout", "0s"],
            "--write-timeout must not be zero",
        ),
    ];
    for (arguments, expected) in table {
        let mut command = Command::new(BINARY);
        command
            .args(["serve", "--id", "1", "--data", "/nonexistent/never/made"])
            .args(*arguments);
        assert_one_line(&mut command, expected);
    }
}

#[test]
fn a_wrong_command_line_is_refused_with_status_two() {
    let serve = ["serve", "--id", "1", "--data", "x"];
    let table: &[(&[&str], &str)] = &[
        (&[], "--peer"),
        (&["--peer", "1"], "expected ID=RAFT_ADDR"),
        (
            &["--peer", "one=1.1.1.1:1,1.1.1.1:2,1.1.1.1:3"],
            "`one` is not a node number",
        ),
        (
            &["--peer", "1=1.1.1.1:1,1.1.1.1:2"],
            "expected ID=RAFT_ADDR",
        ),
        (
            &["--peer", "1=1.1.1.1:1,1.1.1.1:2,name:3"],
            "`name:3` is not an address",
        ),
        (&["--heartbeat", "fast"], "invalid value 'fast'"),
        (&["--snapshot-every", "0"], "invalid value '0'"),
        (&["--wrong"], "unexpected argument"),
    ];
    for (arguments, expected) in table {
        let (status, error) = refused(Command::new(BINARY).args(serve).args(*arguments));
        assert_eq!(status, 2, "{error}");
        assert!(
            error.contains(expected),
            "expected `{expected}` in: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_or_directory_that_another_process_uses_is_refused() {
    let mut cluster = Cluster::new(1, &[]);
    let member = cluster.members[&1].clone();
    for address in [member.raft, member.api, member.health] {
        let taken = TcpListener::bind(address).unwrap();
        assert_one_line(
            &mut cluster.command(1),
            &format!("cannot listen on {address}"),
        );
        drop(taken);
    }
    cluster.start(1);
    cluster.leader().await;
    // The same directory, but other ports: only the lock is in the way.
    let other = Cluster::new(1, &[]);
    let mut command = other.command(1);
    command.arg("--data").arg(cluster.data(1));
    let (status, error) = refused(&mut command);
    assert_eq!(status, 2, "--data twice: {error}");
    let member = &other.members[&1];
    let mut command = Command::new(BINARY);
    command
        .args(["serve", "--id", "1", "--data"])
        .arg(cluster.data(1));
    command.arg("--peer").arg(format!(
        "1={},{},{}",
        member.raft, member.api, member.health
    ));
    assert_one_line(&mut command, "is in use by another process");
    assert_eq!(cluster.leader().await, 1, "the first is not disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_not_this_nodes_or_is_damaged_is_refused() {
    let mut cluster = Cluster::new(1, &["--drain", "0s"]);
    cluster.start(1);
    let leader = cluster.leader().await;
    let api = cluster.members[&1].api;
    assert_eq!(
        cluster
            .post(api, "/kv", serde_json::json!({"key": "k", "value": "v"}))
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(
        cluster
            .post(api, "/snapshot", serde_json::Value::Null)
            .await
            .unwrap()
            .status,
        202
    );
    let snapshot = cluster.data(1).join("snapshot");
    eventually("there is a snapshot", async || {
        snapshot.exists().then_some(())
    })
    .await;
    cluster.kill(leader);

    let member = &cluster.members[&1];
    let mut command = Command::new(BINARY);
    command
        .args(["serve", "--id", "2", "--data"])
        .arg(cluster.data(1));
    command.arg("--peer").arg(format!(
        "2={},{},{}",
        member.raft, member.api, member.health
    ));
    assert_one_line(&mut command, "belongs to node 1, not to node 2");

    let whole = fs::read(&snapshot).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let table: &[(&[u8], &str)] = &[
        (&flipped, "snapshot: checksum mismatch"),
        (&whole[..whole.len() - 1], "snapshot: checksum mismatch"),
        (b"something else", "snapshot: unknown format"),
        (b"", "snapshot: unknown format"),
    ];
    for (content, expected) in table {
        fs::write(&snapshot, content).unwrap();
        assert_one_line(&mut cluster.command(1), expected);
    }
    fs::write(&snapshot, &whole).unwrap();

    let log = cluster.data(1).join("log-0000000001");
    let good = fs::read(&log).unwrap();
    // In the first frame, which others follow: its last byte says whose log it is.
    let mut flipped = good.clone();
    flipped[41] ^= 1;
    let table: &[(&[u8], &str)] = &[
        (b"this is no log", "is damaged"),
        (&[0; 8192], "is damaged"),
        (&flipped, "is damaged"),
        (b"raft-node log 3\n", "has format 3"),
    ];
    for (content, expected) in table {
        fs::write(&log, content).unwrap();
        assert_one_line(&mut cluster.command(1), expected);
    }
    fs::write(&log, &good).unwrap();
    let database = cluster.data(1).join("raft.redb");
    fs::write(&database, "what format 1 kept its log in").unwrap();
    assert_one_line(&mut cluster.command(1), "has format 1");
    fs::remove_file(&database).unwrap();
    cluster.start(1);
    cluster.leader().await;
    assert_eq!(cluster.get(api, "/kv/k").await.unwrap().status, 200);

    let file = cluster.data(7);
    fs::write(&file, "a file, not a directory").unwrap();
    let other = Cluster::new(1, &[]);
    let member = &other.members[&1];
    let mut command = Command::new(BINARY);
    command.args(["serve", "--id", "1", "--data"]).arg(&file);
    command.arg("--peer").arg(format!(
        "1={},{},{}",
        member.raft, member.api, member.health
    ));
    assert_one_line(&mut command, "cannot use data directory");
}
