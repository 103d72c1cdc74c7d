//! What the agent hands to the kernel's reaper: a list of connections that
//! have nothing more to live for.

use crate::flow::{FlowKey, Tick};

/// One connection, by one of its flows.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Candidate<A> {
    /// The flow's key: the forward flow's, but where it is alone.
    pub key: FlowKey<A>,
    /// If a segment has passed later than this, in either direction, the
    /// connection stays.
    pub idle_since: Tick,
}

/// How many candidates a list has at most: it has to fit a page.
pub const MAX: usize = 64;
