//! Whether what `lb status` showed over time can have been right: one writer
//! at a time, in the order of the terms.

use std::collections::BTreeMap;

use anyhow::Result;

use super::WRITE_SERVICE;
use super::report::Status;
use crate::traffic::sampling::Sample;

/// What cannot have been right, in words. Looks that failed tell nothing.
pub fn contradictions(statuses: &[Sample<Result<Status>>]) -> Vec<String> {
    let mut leaders: BTreeMap<u64, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for sample in statuses {
        let Ok(status) = &sample.seen else {
            continue;
        };
        let targets = status.targets(WRITE_SERVICE);
        if targets.len() > 1 {
            found.push(format!("several write targets: {targets:?}"));
        }
        let pool = &status.pools[0];
        let (Some(leader), Some(term)) = (&pool.leader, pool.term) else {
            continue;
        };
        let known = *leaders.entry(term).or_insert(leader);
        if known != leader {
            found.push(format!("two leaders of term {term}: {known} and {leader}"));
        }
        if leaders.keys().next_back() != Some(&term) {
            found.push(format!("the older term {term} came back, with {leader}"));
        }
    }
    found
}
