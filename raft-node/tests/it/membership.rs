//! Nodes that come and go while the cluster serves.

use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually, json as body_of};
use crate::writers::{Writers, check};

fn voters(members: &Value) -> Vec<u64> {
    let members = members.as_array().unwrap();
    members
        .iter()
        .filter(|member| member["voter"] == true)
        .map(|member| member["id"].as_u64().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_and_shrinks_under_load() {
    let mut cluster = Cluster::of_three(&[]).await;
    let writers = Writers::start(&cluster, 2);
    writers.progress(50).await;
    for id in [4, 5] {
        cluster.prepare_node(id);
        cluster.start(id);
        eventually("the new node answers", async || {
            cluster.probe(id, "/live").await
        })
        .await;
        assert_eq!(
            cluster.probe(id, "/ready").await.unwrap().0,
            503,
            "nobody has added it yet"
        );
        let member = cluster.members[&id].clone();
        let leader = cluster.leader().await;
        let body =
            json!({"id": id, "raft": member.raft, "api": member.api, "health": member.health});
        let answer = cluster
            .post(cluster.members[&leader].api, "/admin/members", body)
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        cluster.replica_ready(id).await;
    }
    writers.progress(50).await;
    let leader = cluster.leader().await;
    let api = cluster.members[&leader].api;
    let listed = cluster.get(api, "/admin/members").await.unwrap();
    assert_eq!(voters(&body_of(&listed)), [1, 2, 3, 4, 5]);

    let gone = cluster.others(leader)[0];
    let answer = cluster
        .delete(api, &format!("/admin/members/{gone}"))
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let left: Vec<u64> = (1..=5).filter(|id| *id != gone).collect();
    assert_eq!(voters(&body_of(&answer)["members"]), left);
    cluster.kill(gone);
    writers.progress(50).await;

    let refused = cluster
        .delete(api, &format!("/admin/members/{leader}"))
        .await
        .unwrap();
    assert_eq!(
        (refused.status.as_u16(), body_of(&refused)["error"].as_str()),
        (409, Some("is_leader"))
    );
    let refused = cluster.delete(api, "/admin/members/77").await.unwrap();
    assert_eq!(refused.status, 409);
    let replica = cluster.others(leader)[0];
    let elsewhere = cluster
        .delete(cluster.members[&replica].api, "/admin/members/77")
        .await
        .unwrap();
    assert_eq!(
        (
            elsewhere.status.as_u16(),
            body_of(&elsewhere)["leader"]["id"].as_u64()
        ),
        (503, Some(leader))
    );
    check(&cluster, &writers.stop().await).await;
}
