//! Nodes that come and go while the cluster serves.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{BINARY, Cluster, eventually, json as body_of};
use crate::writers::{Writers, check};

fn voters(listing: &Value) -> Vec<u64> {
    let members = listing["members"].as_array().unwrap();
    members
        .iter()
        .filter(|member| member["voter"] == true)
        .map(|member| member["id"].as_u64().unwrap())
        .collect()
}

async fn listing(cluster: &Cluster, id: u64) -> Value {
    let api = cluster.members[&id].api;
    body_of(&cluster.get(api, "/members").await.unwrap())
}

/// Runs `raft-node client`, which starts at node `at`; returns its exit status and what it printed.
fn client(
    cluster: &Cluster,
    at: u64,
    arguments: &[&str],
) -> impl Future<Output = (i32, String)> + Send + 'static {
    let endpoint = format!("http://{}", cluster.members[&at].api);
    let mut command = tokio::process::Command::new(BINARY);
    command.args(["client", "--timeout", "30s", "--endpoint", &endpoint]);
    command.args(arguments);
    async move {
        let output = command.output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(text).unwrap(),
        )
    }
}

fn named(cluster: &Cluster, id: u64) -> String {
    let member = &cluster.members[&id];
    format!("{id}={},{},{}", member.raft, member.api, member.health)
}

/// Starts a node that is not in the cluster yet.
async fn join(cluster: &mut Cluster, id: u64) {
    cluster.prepare_node(id);
    cluster.start(id);
    let answers = async || cluster.probe(id, "/live").await;
    eventually("the new node answers", answers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_from_three_to_five_and_shrinks_to_three_under_load() {
    let mut cluster = Cluster::of_three(&["--snapshot-every", "100"]).await;
    let writers = Writers::start(&cluster, 2);
    writers.progress(150).await;
    for id in [4, 5] {
        join(&mut cluster, id).await;
        let (status, body) = cluster.probe(id, "/ready").await.unwrap();
        assert_eq!(status, 503, "nobody has added it yet: {body}");
        // Node 1 need not lead: the client follows its hint.
        let (status, printed) = client(&cluster, 1, &["add", &named(&cluster, id)]).await;
        assert_eq!(status, 0, "{printed}");
        assert!(printed.contains(&format!("\n   {id}  voter")), "{printed}");
        cluster.replica_ready(id).await;
        writers.progress(50).await;
    }
    let leader = cluster.leader().await;
    assert_eq!(voters(&listing(&cluster, leader).await), [1, 2, 3, 4, 5]);

    // Two of the first, of which one leads: it hands over before it goes.
    let follower = cluster.others(leader)[0];
    for gone in [follower, leader] {
        let (status, printed) = client(&cluster, gone, &["remove", &gone.to_string()]).await;
        assert_eq!(status, 0, "{printed}");
        assert!(!printed.contains(&format!("\n   {gone}  ")), "{printed}");
        let reason = eventually("it says that it was removed", async || {
            let (status, body) = cluster.probe(gone, "/replica").await?;
            let reason = body["reason"].as_str()?.to_owned();
            (status == 503 && reason.contains("removed")).then_some(reason)
        })
        .await;
        assert_eq!(reason, "removed from the cluster");
        let api = cluster.members[&gone].api;
        for path in ["/kv/k", "/kv/k?consistency=eventual"] {
            let answer = cluster.get(api, path).await.unwrap();
            assert_eq!(
                (answer.status.as_u16(), &body_of(&answer)["error"]),
                (503, &json!("removed"))
            );
        }
        let write = json!({"key": "k", "value": "v"});
        let answer = cluster.post(api, "/kv", write).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &body_of(&answer)["error"]),
            (503, &json!("removed"))
        );
        writers.progress(50).await;
    }
    // It says so after a restart, too.
    cluster.kill(leader);
    cluster.start(leader);
    eventually("it says that it was removed", async || {
        let (_, body) = cluster.probe(leader, "/ready").await?;
        (body["reason"] == "removed from the cluster").then_some(())
    })
    .await;
    cluster.kill(leader);
    cluster.kill(follower);
    let left: Vec<u64> = (1..=5)
        .filter(|id| ![leader, follower].contains(id))
        .collect();
    let now = cluster.leader().await;
    assert_eq!(voters(&listing(&cluster, now).await), left);
    writers.progress(50).await;
    check(&cluster, &writers.stop().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_members_says_how_old_it_is() {
    let mut cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    let replica = cluster.others(leader)[0];
    cluster.replica_ready(replica).await;
    let first = listing(&cluster, replica).await;
    assert_eq!(
        (&first["node"], &first["leader"], &first["changing"]),
        (&json!(replica), &json!(leader), &json!(false))
    );
    let member = &first["members"][usize::try_from(leader).unwrap() - 1];
    let addresses = &cluster.members[&leader];
    assert_eq!(
        *member,
        json!({"id": leader, "raft": addresses.raft, "api": addresses.api, "health": addresses.health, "voter": true, "leader": true})
    );
    let (status, of_health_port) = cluster.probe(replica, "/members").await.unwrap();
    assert_eq!(
        (status, &of_health_port["members"]),
        (200, &first["members"])
    );

    join(&mut cluster, 4).await;
    let alone = listing(&cluster, 4).await;
    assert_eq!(
        (&alone["index"], &alone["members"]),
        (&Value::Null, &json!([]))
    );
    let (status, printed) =
        client(&cluster, leader, &["add", "--learner", &named(&cluster, 4)]).await;
    assert!(
        status == 0 && printed.contains("\n   4  learner"),
        "{printed}"
    );
    cluster.replica_ready(4).await;
    let index = |listing: &Value| listing["index"].as_u64();
    let newer = eventually("the replica knows", async || {
        let now = listing(&cluster, replica).await;
        (index(&now) > index(&first)).then_some(now)
    })
    .await;
    assert_eq!(voters(&newer), [1, 2, 3]);
    assert_eq!(newer["members"][3]["voter"], false);
    assert!(newer["commit_index"].as_u64() >= index(&newer));
    let (_, report) = cluster.probe(replica, "/replica").await.unwrap();
    assert_eq!(report["members_index"], newer["index"]);
    // It gets its vote, and both ways of asking again change nothing.
    for _ in 0..2 {
        let (status, printed) = client(&cluster, leader, &["add", &named(&cluster, 4)]).await;
        assert!(
            status == 0 && printed.contains("\n   4  voter"),
            "{printed}"
        );
    }
    assert_eq!(voters(&listing(&cluster, leader).await), [1, 2, 3, 4]);
    let (status, printed) = client(&cluster, replica, &["members"]).await;
    assert!(
        status == 0 && printed.starts_with(&format!("node {replica}: term ")),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_make_no_sense_or_would_be_the_last_are_refused() {
    let mut cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    let replica = cluster.others(leader)[0];
    let api = cluster.members[&leader].api;
    let answer = cluster.delete(api, "/members/77").await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), voters(&body_of(&answer))),
        (200, vec![1, 2, 3])
    );
    let elsewhere = cluster.members[&replica].api;
    let answer = cluster.delete(elsewhere, "/members/77").await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &body_of(&answer)["leader"]["id"]),
        (503, &json!(leader))
    );
    let taken = &cluster.members[&leader];
    let body = json!({"id": replica, "raft": taken.raft, "api": taken.api, "health": taken.health});
    let answer = cluster.post(api, "/members", body).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &body_of(&answer)["error"]),
        (409, &json!("other_addresses"))
    );

    cluster.kill(replica);
    let well = cluster.others(leader)[0];
    tokio::time::sleep(Duration::from_millis(400)).await;
    let answer = cluster
        .delete(api, &format!("/members/{well}"))
        .await
        .unwrap();
    assert_eq!(
        (answer.status.as_u16(), &body_of(&answer)["error"]),
        (409, &json!("no_quorum_left"))
    );
    let (status, printed) = client(&cluster, leader, &["remove", &replica.to_string()]).await;
    assert_eq!(status, 0, "a dead node can be removed: {printed}");
    assert_eq!(voters(&listing(&cluster, leader).await).len(), 2);
}

/// Each round changes the membership and kills a node some time into it; the times sweep over the whole change.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_survives_kill_9_of_the_leader_at_any_moment() {
    let mut cluster = Cluster::of_three(&["--snapshot-every", "200"]).await;
    let writers = Writers::start(&cluster, 2);
    writers.progress(50).await;
    join(&mut cluster, 4).await;
    // Odd, so that node 4 belongs to the cluster at the end.
    for round in 0..9u64 {
        let leader = cluster.leader().await;
        let asked = cluster.others(leader);
        let asked = *asked.iter().find(|id| **id != 4).unwrap();
        let grows = round % 2 == 0;
        let named = named(&cluster, 4);
        let arguments: &[&str] = if grows {
            &["add", &named]
        } else {
            &["remove", "4"]
        };
        let change = tokio::spawn(client(&cluster, asked, arguments));
        tokio::time::sleep(Duration::from_millis(4 + round * 4)).await;
        cluster.kill(leader);
        // The client repeats it at the next leader.
        let (status, printed) = change.await.unwrap();
        assert_eq!(status, 0, "round {round}: {printed}");
        cluster.start(leader);
        let wanted: &[u64] = if grows { &[1, 2, 3, 4] } else { &[1, 2, 3] };
        eventually("the change is whole", async || {
            let now = listing(&cluster, cluster.leader_now().await?).await;
            (voters(&now) == wanted && now["changing"] == false).then_some(())
        })
        .await;
        writers.progress(30).await;
    }
    check(&cluster, &writers.stop().await).await;
}
