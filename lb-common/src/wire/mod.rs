//! The wire format: headers as they lie in a packet, and what they mean.

pub mod checksum;
pub mod eth;
pub mod frame;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod network;
pub mod tcp;
