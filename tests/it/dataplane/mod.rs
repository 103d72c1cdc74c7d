//! What the data path can do beyond one way to one server: both families,
//! every algorithm, every mode, every limit, end to end in the lab.

mod algorithms;
mod answers;
mod dsr;
mod flood;
mod hooks;
mod ipip;
mod ipv6;
mod limits;
mod local;
mod mtu;
mod ping;
mod shares;
mod snat;
mod stage;
mod two_arms;

pub use self::stage::{Call, Stage, in_every_way, strict_lab};
pub use crate::connections::PATIENCE;
