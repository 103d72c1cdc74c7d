//! `lb reload`: what the agent's configuration has now.

use std::io::{self, Write};

use super::check::count;
use crate::api::Reloaded;

pub(super) fn print(reloaded: &Reloaded, out: &mut dyn Write) -> io::Result<()> {
    let Reloaded {
        services,
        pools,
        servers,
    } = *reloaded;
    writeln!(
        out,
        "reloaded: {}, {}, {}",
        count(services, "service"),
        count(pools, "pool"),
        count(servers, "server"),
    )
}
