//! How a node stops.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{Cluster, eventually};
use crate::writers::{Writers, check};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_told_to_stop_is_not_ready_first_and_still_serves_while_it_drains() {
    let mut cluster = Cluster::of_three(&["--drain", "600ms"]).await;
    let leader = cluster.leader().await;
    let replica = cluster.others(leader)[0];
    cluster.replica_ready(replica).await;
    let told = Instant::now();
    cluster.signal(replica, "TERM");
    eventually("it is not ready", async || {
        (cluster.probe(replica, "/ready").await?.0 == 503).then_some(())
    })
    .await;
    let answer = cluster
        .get(cluster.members[&replica].api, "/kv/k")
        .await
        .unwrap();
    assert_eq!(
        answer.status, 404,
        "it still reads, and there is no such key"
    );
    assert_eq!(cluster.probe(replica, "/live").await.unwrap().0, 200);
    assert!(
        told.elapsed() < Duration::from_millis(600),
        "all that within the drain"
    );
    assert_eq!(cluster.exit_status(replica).await.code(), Some(0));
    assert!(
        told.elapsed() >= Duration::from_millis(600),
        "it ended before its drain was over"
    );
    assert_eq!(cluster.leader().await, leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_and_loses_nothing() {
    let mut cluster = Cluster::of_three(&["--drain", "1s"]).await;
    let writers = Writers::start(&cluster, 3);
    for _ in 0..2 {
        writers.progress(50).await;
        let leader = cluster.leader().await;
        cluster.signal(leader, "TERM");
        let told = Instant::now();
        let next = cluster.leader_after(leader).await;
        eprintln!("leaderless for {:?}", told.elapsed());
        assert!(
            cluster.probe(leader, "/live").await.is_some(),
            "the old leader still drains: node {next} did not have to wait"
        );
        assert_eq!(cluster.exit_status(leader).await.code(), Some(0));
        cluster.start(leader);
        cluster.replica_ready(leader).await;
    }
    writers.progress(50).await;
    check(&cluster, &writers.stop().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_do_not_hold_up_a_stop() {
    let mut cluster = Cluster::new(1, &["--drain", "0s"]);
    cluster.start_all();
    let leader = cluster.leader().await;
    let member = cluster.members[&leader].clone();
    // One that never sends anything, one that watches.
    let _silent = tokio::net::TcpStream::connect(member.api).await.unwrap();
    let uri = format!("http://{}/watch", member.health);
    let outbound = cluster.outbound.clone();
    let watch = tokio::spawn(async move {
        outbound
            .send(
                hyper::Method::GET,
                &uri,
                Default::default(),
                Duration::from_secs(20),
            )
            .await
    });
    assert_eq!(
        cluster
            .post(member.api, "/kv", json!({"key": "a", "value": "b"}))
            .await
            .unwrap()
            .status,
        200
    );
    let told = Instant::now();
    cluster.signal(leader, "INT");
    assert_eq!(cluster.exit_status(leader).await.code(), Some(0));
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        told.elapsed()
    );
    watch
        .await
        .unwrap()
        .expect("the watch ends as a whole answer");
}
