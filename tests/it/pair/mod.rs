//! Two balancers: what happens when one of them dies, and that it makes no
//! difference which of them a client meets.

mod alike;
mod ecmp;
mod keepalived;
mod stage;

use std::time::Duration;

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(20);
