//! `GET /watch`: one JSON line at once, one whenever role, term, leader or members change, and one per second so that silence means trouble.
//!
//! A change that Raft makes is noticed as it happens; a role that ends because its proof grows old, within 20 ms.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::Instant;

use crate::node::{Node, Report};
use crate::role::Phase;

/// How long a line may be missing.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How late an expired proof may be noticed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The endless answer.
pub async fn lines(State(node): State<Arc<Node>>) -> Response {
    let lines = stream::unfold(Watcher::new(node), |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok::<_, Infallible>(line), watcher))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(lines)).into_response()
}

struct Watcher {
    node: Arc<Node>,
    last: Option<Report>,
    last_at: Instant,
}

impl Watcher {
    fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            last: None,
            last_at: Instant::now(),
        }
    }

    /// The next line; `None` when the node ends its connections.
    async fn next(&mut self) -> Option<Bytes> {
        let mut raft = self.node.raft.metrics();
        let mut phase = self.node.phase();
        loop {
            // Marked before the look, so that no change between the two is missed.
            raft.mark_unchanged();
            if *phase.borrow_and_update() == Phase::Stopping {
                return None;
            }
            let report = self.node.report();
            let news = self.last.as_ref().is_none_or(|last| differs(last, &report));
            if news || self.last_at.elapsed() >= HEARTBEAT {
                let mut line = serde_json::to_vec(&report).ok()?;
                line.push(b'\n');
                self.last = Some(report);
                self.last_at = Instant::now();
                return Some(line.into());
            }
            tokio::select! {
                changed = raft.changed() => changed.ok()?,
                changed = phase.changed() => changed.ok()?,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

fn differs(last: &Report, now: &Report) -> bool {
    let seen = |report: &Report| {
        (
            report.role,
            report.term,
            report.leader,
            report.members_index,
        )
    };
    seen(last) != seen(now)
}
