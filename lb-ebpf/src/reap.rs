//! The reaper: the agent's way to take connections out of FLOWS, so that what
//! is open is counted in one place, by atomic operations, whoever ends it.
//!
//! The agent runs it on a "packet" that lists what is to go
//! ([`lb_common::reaping`]).

use aya_ebpf::programs::XdpContext;
use lb_common::account;
use lb_common::reaping::{Candidate, MAX};

use crate::packet::Buffer as _;
use crate::tables::{Maintained, Maps};

/// Takes out those listed connections that have been idle for as long as the
/// list says; gives their number.
#[inline(always)]
pub fn reap<A: Maintained>(context: &XdpContext) -> u32 {
    let mut reaped = 0;
    for index in 0..MAX {
        let Some(candidate) = context.at::<Candidate<A>>(index * size_of::<Candidate<A>>()) else {
            break;
        };
        // SAFETY: `at` vouches for the range; every bit pattern is a candidate.
        // The list begins on an even address and no better.
        let candidate = unsafe { candidate.read_unaligned() };
        reaped += take_out(&candidate);
    }
    reaped
}

#[inline(never)]
fn take_out<A: Maintained>(candidate: &Candidate<A>) -> u32 {
    u32::from(account::reap(&Maps, &candidate.key, candidate.idle_since))
}
