//! What clients and probes see.

use hyper::Method;
use raft_node::outbound::Outbound;
use serde_json::json;
use tokio::task::JoinSet;

use crate::cluster::{BINARY, Cluster, eventually, json as body_of};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_request_is_answered_as_documented() {
    let cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    let replica = cluster.others(leader)[0];
    let api = cluster.members[&leader].api;
    let long = "k".repeat(2000);
    let huge = "v".repeat(2 << 20);
    let table = [
        (
            Method::POST,
            "/kv",
            json!({"key": "a/b ü", "value": "1"}).to_string(),
            200,
            "index",
        ),
        (
            Method::GET,
            "/kv/a%2Fb%20%C3%BC",
            String::new(),
            200,
            "value",
        ),
        (Method::GET, "/kv/a/b%20%C3%BC", String::new(), 200, "value"),
        (
            Method::GET,
            "/kv/a%2Fb%20%C3%BC?consistency=lease",
            String::new(),
            200,
            "value",
        ),
        (
            Method::GET,
            "/kv/a%2Fb%20%C3%BC?consistency=eventual",
            String::new(),
            200,
            "value",
        ),
        (Method::GET, "/kv/absent", String::new(), 404, "error"),
        (
            Method::GET,
            "/kv/a?consistency=wrong",
            String::new(),
            400,
            "error",
        ),
        (
            Method::DELETE,
            "/kv/a%2Fb%20%C3%BC",
            String::new(),
            200,
            "existed",
        ),
        (
            Method::DELETE,
            "/kv/a%2Fb%20%C3%BC",
            String::new(),
            200,
            "existed",
        ),
        (Method::POST, "/kv", "{".into(), 400, "error"),
        (
            Method::POST,
            "/kv",
            json!({"key": "a"}).to_string(),
            400,
            "error",
        ),
        (
            Method::POST,
            "/kv",
            json!({"key": "", "value": "1"}).to_string(),
            400,
            "error",
        ),
        (
            Method::POST,
            "/kv",
            json!({"key": "a", "value": "1", "more": 2}).to_string(),
            400,
            "error",
        ),
        (
            Method::POST,
            "/kv",
            json!({"key": long, "value": "1"}).to_string(),
            400,
            "error",
        ),
        (
            Method::POST,
            "/kv",
            json!({"key": "a", "value": huge}).to_string(),
            413,
            "",
        ),
        (Method::GET, "/whoami", String::new(), 200, "node"),
        (Method::GET, "/nowhere", String::new(), 404, "error"),
        (Method::PUT, "/kv", String::new(), 405, ""),
    ];
    for (method, path, body, status, field) in table {
        let uri = format!("http://{api}{path}");
        let sentence = format!("{method} {path} {:.60}", body);
        let limit = std::time::Duration::from_secs(5);
        // A connection of its own: a refused body ends the one that it came on.
        let answer = Outbound::new()
            .send(method, &uri, body.into(), limit)
            .await
            .expect(&sentence);
        assert_eq!(answer.status, status, "{sentence}: {:?}", answer.body);
        assert_eq!(
            answer.headers["x-raft-node"],
            leader.to_string().as_str(),
            "{sentence}"
        );
        assert_eq!(answer.headers["x-raft-role"], "leader", "{sentence}");
        assert!(answer.headers.contains_key("x-raft-term"), "{sentence}");
        if !field.is_empty() {
            assert!(
                !body_of(&answer)[field].is_null(),
                "{sentence}: no `{field}` in {:?}",
                answer.body
            );
        }
    }

    let elsewhere = cluster.members[&replica].api;
    let misrouted = cluster
        .post(elsewhere, "/kv", json!({"key": "a", "value": "1"}))
        .await
        .unwrap();
    assert_eq!(misrouted.status, 503);
    let expected = json!({"error": "not_leader", "leader": {"id": leader, "api": api.to_string()}});
    assert_eq!(body_of(&misrouted), expected);
    assert_eq!(
        cluster
            .get(elsewhere, "/kv/a?consistency=lease")
            .await
            .unwrap()
            .status,
        503
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_with_status_body_and_headers() {
    let cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    let replica = cluster.others(leader)[0];
    cluster.replica_ready(replica).await;
    let table = [
        ("/primary", 200, 503),
        ("/replica", 503, 200),
        ("/replica?lag=1000", 503, 200),
        ("/ready", 200, 200),
        ("/live", 200, 200),
        ("/health", 200, 200),
        ("/health/detailed", 200, 200),
        ("/metrics", 200, 200),
    ];
    for (path, of_leader, of_replica) in table {
        for (id, expected) in [(leader, of_leader), (replica, of_replica)] {
            let uri = format!("http://{}{path}", cluster.members[&id].health);
            for (method, expected) in [
                (Method::GET, expected),
                (Method::HEAD, expected),
                (Method::OPTIONS, 200),
            ] {
                let sentence = format!("{method} {path} of node {id}");
                let limit = std::time::Duration::from_secs(5);
                let answer = cluster
                    .outbound
                    .send(method.clone(), &uri, Default::default(), limit)
                    .await
                    .unwrap();
                assert_eq!(answer.status, expected, "{sentence}");
                assert_eq!(answer.body.is_empty(), method != Method::GET, "{sentence}");
            }
        }
    }
    let answer = cluster
        .get(cluster.members[&leader].health, "/primary")
        .await
        .unwrap();
    let body = body_of(&answer);
    let number = |name: &str| {
        answer.headers[name]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert_eq!(
        (body["id"].as_u64(), body["role"].as_str()),
        (Some(leader), Some("leader"))
    );
    assert_eq!(body["leader_api"], cluster.members[&leader].api.to_string());
    assert_eq!(number("x-raft-term"), body["term"].as_u64().unwrap());
    assert_eq!(number("x-raft-leader"), leader);
    assert_eq!(number("x-raft-lag"), 0);
    assert!(number("x-raft-quorum-age-ms") <= 300);
    assert!(body["last_applied"].as_u64().unwrap() > 0);

    let metrics = cluster
        .get(cluster.members[&leader].health, "/metrics")
        .await
        .unwrap();
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(
        text.contains("raft_node_role{role=\"leader\"} 1\n"),
        "{text}"
    );
    assert!(
        text.contains("raft_node_role{role=\"replica\"} 0\n"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_answers_with_what_was_acknowledged_a_moment_ago() {
    let cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    let replicas = cluster.others(leader);
    for number in 0..100u64 {
        let body = json!({"key": "k", "value": number.to_string()});
        assert_eq!(
            cluster
                .post(cluster.members[&leader].api, "/kv", body)
                .await
                .unwrap()
                .status,
            200
        );
        let replica = replicas[usize::try_from(number).unwrap() % replicas.len()];
        // No consistency named: the default is linearizable.
        let answer = cluster
            .get(cluster.members[&replica].api, "/kv/k")
            .await
            .unwrap();
        assert_eq!(
            body_of(&answer),
            json!({"key": "k", "value": number.to_string(), "node": replica})
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_arrive_together_share_log_entries() {
    let cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    let api = cluster.members[&leader].api;
    let mut writes = JoinSet::new();
    for number in 0..200 {
        let outbound = cluster.outbound.clone();
        writes.spawn(async move {
            let body = json!({"key": format!("k{number}"), "value": "v"}).to_string();
            let limit = std::time::Duration::from_secs(10);
            outbound
                .send(
                    Method::POST,
                    &format!("http://{api}/kv"),
                    body.into(),
                    limit,
                )
                .await
                .unwrap()
        });
    }
    let answers = writes.join_all().await;
    let indexes: Vec<u64> = answers
        .iter()
        .map(|answer| body_of(answer)["index"].as_u64().unwrap())
        .collect();
    let entries = indexes.iter().max().unwrap() - indexes.iter().min().unwrap() + 1;
    assert!(entries < 150, "200 writes took {entries} entries");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_follows_hints_and_goes_round_dead_nodes() {
    let mut cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    let replica = cluster.others(leader)[0];
    let endpoint = format!("http://{}", cluster.members[&replica].api);
    let run = async |arguments: Vec<&str>| {
        let mut command = tokio::process::Command::new(BINARY);
        command
            .arg("client")
            .args(["--endpoint", &endpoint])
            .args(arguments);
        let output = command.output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (status, printed, _) = run(vec!["put", "a key/with ?&", "the value"]).await;
    assert!(status == 0 && printed.contains("\"index\""), "{printed}");
    let (status, printed, _) = run(vec!["get", "a key/with ?&"]).await;
    assert_eq!((status, printed.as_str()), (0, "the value\n"));
    let (status, printed, _) = run(vec!["get", "a key/with ?&", "--consistency", "lease"]).await;
    assert_eq!(
        (status, printed.as_str()),
        (0, "the value\n"),
        "a lease read goes to the leader"
    );
    let (status, printed, _) = run(vec!["delete", "a key/with ?&"]).await;
    assert!(
        status == 0 && printed.contains("\"existed\":true"),
        "{printed}"
    );
    let (status, _, error) = run(vec!["get", "a key/with ?&"]).await;
    assert_eq!((status, error.as_str()), (1, "raft-node: no such key\n"));

    // The replica still names the dead leader for a while: the client must come back from there.
    cluster.kill(leader);
    let (status, printed, error) = run(vec!["put", "after", "the crash"]).await;
    assert_eq!(status, 0, "{printed}{error}");

    for id in cluster.others(leader) {
        cluster.kill(id);
    }
    let (status, _, error) = run(vec!["--timeout", "300ms", "put", "a", "b"]).await;
    assert_eq!(status, 1);
    assert!(
        error.starts_with("raft-node: not done within 300ms"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_can_be_asked_for() {
    let cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    let api = cluster.members[&leader].api;
    assert_eq!(
        cluster
            .post(api, "/kv", json!({"key": "a", "value": "b"}))
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(
        cluster
            .post(api, "/snapshot", json!(null))
            .await
            .unwrap()
            .status,
        202
    );
    eventually("there is a snapshot", async || {
        let (_, detail) = cluster.probe(leader, "/health/detailed").await?;
        detail["snapshot"].as_u64().filter(|index| *index > 0)
    })
    .await;
}
