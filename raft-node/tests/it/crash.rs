//! kill -9, of leaders and of whole clusters, under load.

use std::time::Instant;

use crate::cluster::Cluster;
use crate::writers::{Writers, check};

const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_leaders_are_killed_again_and_again() {
    // Snapshots and purges take part.
    let mut cluster = Cluster::of_three(&["--snapshot-every", "200"]).await;
    let writers = Writers::start(&cluster, 4);
    let mut outages = Vec::new();
    for _ in 0..ROUNDS {
        writers.progress(100).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        let killed = Instant::now();
        let next = cluster.leader_after(leader).await;
        outages.push(killed.elapsed());
        writers.progress(100).await;
        cluster.start(leader);
        cluster.replica_ready(leader).await;
        assert_eq!(
            cluster.leader().await,
            next,
            "a node that comes back does not depose the leader"
        );
    }
    let written = writers.stop().await;
    eprintln!("leaderless for {outages:?}");
    check(&cluster, &written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_the_whole_cluster_is_killed() {
    let mut cluster = Cluster::of_three(&["--snapshot-every", "150"]).await;
    let writers = Writers::start(&cluster, 4);
    for _ in 0..3 {
        writers.progress(200).await;
        for id in [1, 2, 3] {
            cluster.kill(id);
        }
        cluster.start_all();
        cluster.leader().await;
    }
    writers.progress(50).await;
    check(&cluster, &writers.stop().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_more_than_the_log_holds_catches_up_from_a_snapshot() {
    let mut cluster = Cluster::of_three(&["--snapshot-every", "20"]).await;
    let leader = cluster.leader().await;
    let absent = cluster.others(leader)[0];
    cluster.kill(absent);
    let api = cluster.members[&leader].api;
    // One after the other, so that each is an entry.
    for number in 0..120 {
        let body = serde_json::json!({"key": format!("k{number}"), "value": "v"});
        assert_eq!(cluster.post(api, "/kv", body).await.unwrap().status, 200);
    }
    let purged = crate::cluster::eventually("the log is purged", async || {
        let (_, detail) = cluster.probe(leader, "/health/detailed").await?;
        detail["purged"].as_u64().filter(|purged| *purged > 40)
    })
    .await;
    cluster.start(absent);
    cluster.replica_ready(absent).await;
    let path = "/kv/k0?consistency=linearizable";
    assert_eq!(
        cluster
            .get(cluster.members[&absent].api, path)
            .await
            .unwrap()
            .status,
        200
    );
    let (_, detail) = cluster.probe(absent, "/health/detailed").await.unwrap();
    assert!(detail["snapshot"].as_u64().unwrap() >= purged, "{detail}");

    // It serves from the snapshot after a restart, too.
    cluster.kill(absent);
    cluster.start(absent);
    cluster.replica_ready(absent).await;
    for number in 0..120 {
        let path = format!("/kv/k{number}?consistency=eventual");
        assert_eq!(
            cluster
                .get(cluster.members[&absent].api, &path)
                .await
                .unwrap()
                .status,
            200,
            "{path}"
        );
    }
}
