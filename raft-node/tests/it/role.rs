//! Who claims which role, when nodes hang, are cut off, or come back.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{Cluster, DEADLINE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hung_stops_claiming_the_role_before_it_learns_of_its_successor() {
    let cluster = Cluster::of_three(&[]).await;
    for _ in 0..3 {
        let old = cluster.leader().await;
        cluster.signal(old, "STOP");
        let new = cluster.leader_after(old).await;
        let body = json!({"key": "k", "value": new.to_string()});
        assert_eq!(
            cluster
                .post(cluster.members[&new].api, "/kv", body)
                .await
                .unwrap()
                .status,
            200
        );
        cluster.signal(old, "CONT");
        let continued = Instant::now();
        let mut answers = 0;
        while continued.elapsed() < Duration::from_millis(400) {
            let (status, body) = cluster
                .probe(old, "/primary")
                .await
                .expect("a continued node answers");
            assert_eq!(status, 503, "{answers} answers later: {body}");
            answers += 1;
        }
        assert!(
            answers > 20,
            "it must answer promptly, not {answers} times in 400 ms"
        );
        cluster.replica_ready(old).await;
        assert_eq!(cluster.leader().await, new);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_its_quorum_claims_nothing_and_acknowledges_nothing() {
    let cluster = Cluster::of_three(&["--write-timeout", "600ms"]).await;
    let leader = cluster.leader().await;
    let followers = cluster.others(leader);
    for &follower in &followers {
        cluster.signal(follower, "STOP");
    }
    let stopped = Instant::now();
    let reason = eventually("the claim ends", async || {
        let (status, body) = cluster.probe(leader, "/primary").await?;
        (status == 503).then(|| body["reason"].as_str().unwrap_or_default().to_owned())
    })
    .await;
    assert!(
        stopped.elapsed() < Duration::from_millis(800),
        "it took {:?}",
        stopped.elapsed()
    );
    assert!(reason.contains("quorum"), "{reason}");

    let api = cluster.members[&leader].api;
    let asked = Instant::now();
    let answer = cluster
        .post(api, "/kv", json!({"key": "k", "value": "v"}))
        .await
        .unwrap();
    assert_eq!(answer.status, 504);
    assert_eq!(crate::cluster::json(&answer)["error"], "outcome_unknown");
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "it took {:?}",
        asked.elapsed()
    );
    for consistency in ["linearizable", "lease"] {
        let path = format!("/kv/k?consistency={consistency}");
        assert_eq!(
            cluster.get(api, &path).await.unwrap().status,
            503,
            "{consistency}"
        );
    }
    assert_eq!(
        cluster
            .get(api, "/kv/k?consistency=eventual")
            .await
            .unwrap()
            .status,
        404
    );

    for follower in followers {
        cluster.signal(follower, "CONT");
    }
    // The followers, too, heard from nobody for a while, so any of the three may lead now.
    let write = async || {
        let api = cluster.members[&cluster.leader_now().await?].api;
        let written = cluster
            .post(api, "/kv", json!({"key": "k", "value": "w"}))
            .await;
        written
            .is_ok_and(|answer| answer.status == 200)
            .then_some(())
    };
    eventually("writes go on", write).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_leader_that_is_alone_claims_nothing() {
    let mut cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    for id in [1, 2, 3] {
        cluster.kill(id);
    }
    cluster.start(leader);
    let first = eventually("it answers", async || {
        cluster.probe(leader, "/primary").await
    })
    .await;
    assert_eq!(first.0, 503, "{}", first.1);
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_millis(700) {
        for path in ["/primary", "/replica", "/ready"] {
            let (status, body) = cluster.probe(leader, path).await.unwrap();
            assert_eq!(status, 503, "{path}: {body}");
        }
        assert_eq!(cluster.probe(leader, "/live").await.unwrap().0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hung_does_not_depose_the_leader_when_it_comes_back() {
    let cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    let (_, before) = cluster.probe(leader, "/primary").await.unwrap();
    let replica = cluster.others(leader)[0];
    for _ in 0..3 {
        cluster.signal(replica, "STOP");
        // Longer than any election timeout: without a pre-vote it would stand as soon as it is continued.
        tokio::time::sleep(Duration::from_millis(1000)).await;
        cluster.signal(replica, "CONT");
        cluster.replica_ready(replica).await;
    }
    let (status, after) = cluster.probe(leader, "/primary").await.unwrap();
    assert_eq!((status, &after["term"]), (200, &before["term"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_learns_of_a_new_leader_by_itself() {
    use http_body_util::BodyExt;
    use hyper_util::rt::TokioIo;

    let mut cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    let watched = cluster.others(leader)[0];
    cluster.replica_ready(watched).await;
    let health = cluster.members[&watched].health;
    let stream = tokio::net::TcpStream::connect(health).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("/watch").header("host", health.to_string());
    let response = sender
        .send_request(request.body(String::new()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut line = async || {
        let frame = tokio::time::timeout(Duration::from_secs(3), body.frame())
            .await
            .expect("a line at least every second");
        let data = frame.unwrap().unwrap().into_data().unwrap();
        serde_json::from_slice::<serde_json::Value>(&data).expect("one whole JSON object per line")
    };
    // The first line comes at once; lines without news come as heartbeats, once a second.
    let mut last = line().await;
    let started = Instant::now();
    loop {
        let asked = Instant::now();
        let now = line().await;
        let news = ["role", "term", "leader", "members_index"]
            .iter()
            .any(|field| now[*field] != last[*field]);
        if !news {
            assert!(
                asked.elapsed() > Duration::from_millis(500),
                "{now} says nothing new"
            );
            break;
        }
        assert!(started.elapsed() < DEADLINE, "the cluster does not settle");
        last = now;
    }
    assert_eq!(last["leader"], leader);
    cluster.kill(leader);
    let killed = Instant::now();
    loop {
        let now = line().await;
        if now["leader"].as_u64().is_some_and(|now| now != leader) {
            break;
        }
        assert!(killed.elapsed() < DEADLINE);
    }
}
