//! How clusters begin.

use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_late_to_a_new_cluster_does_not_depose_the_leader() {
    // The last number wins ties between candidates, so it does the most harm; more than once, because it is a race.
    for late in [1, 2, 3, 3, 3, 3, 3, 3, 3, 3] {
        let mut cluster = Cluster::new(3, &[]);
        let early: Vec<u64> = (1..=3).filter(|id| *id != late).collect();
        for &id in &early {
            cluster.start(id);
        }
        let leader = cluster.leader().await;
        let (_, before) = cluster.probe(leader, "/primary").await.unwrap();
        cluster.start(late);
        cluster.replica_ready(late).await;
        let (status, after) = cluster.probe(leader, "/primary").await.unwrap();
        assert_eq!(
            (status, &after["term"]),
            (200, &before["term"]),
            "node {late} came late"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_alone_is_a_cluster() {
    let mut cluster = Cluster::new(1, &[]);
    cluster.start(1);
    assert_eq!(cluster.leader().await, 1);
    let api = cluster.members[&1].api;
    let body = serde_json::json!({"key": "k", "value": "v"});
    assert_eq!(cluster.post(api, "/kv", body).await.unwrap().status, 200);
    cluster.kill(1);
    cluster.start(1);
    assert_eq!(cluster.leader().await, 1);
    assert_eq!(cluster.get(api, "/kv/k").await.unwrap().status, 200);
}
