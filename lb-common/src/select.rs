//! Selection: from a new connection's addresses to a slot of its service.

use crate::addr::Address;
use crate::flow::FlowKey;

/// The hash of a connection's addresses and ports: murmur3's mixing, the
/// same on every balancer, so that peers choose alike.
#[inline(always)]
#[must_use]
pub fn hash<A: Address>(key: &FlowKey<A>) -> u32 {
    let ports = key.source_port.0 as u32 | (key.destination_port.0 as u32) << 16;
    let hash = key.destination.hash_into(key.source.hash_into(0));
    finish(mix(hash, ports))
}

/// The hash of a client's address, for a service that keeps clients together.
#[inline(always)]
#[must_use]
pub fn source_hash<A: Address>(source: A) -> u32 {
    finish(source.hash_into(0))
}

/// `hash` with another word mixed in.
#[inline(always)]
#[must_use]
pub const fn mix(hash: u32, word: u32) -> u32 {
    let word = word
        .wrapping_mul(0xcc9e_2d51)
        .rotate_left(15)
        .wrapping_mul(0x1b87_3593);
    (hash ^ word)
        .rotate_left(13)
        .wrapping_mul(5)
        .wrapping_add(0xe654_6b64)
}

/// The last step of a hash: every bit of the input reaches every bit.
#[inline(always)]
#[must_use]
pub const fn finish(hash: u32) -> u32 {
    let hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// A number below `count`, evenly from `hash`; 0 where `count` is 0. A
/// multiplication, where a remainder would need a division.
#[inline(always)]
#[must_use]
pub const fn below(hash: u32, count: u32) -> u32 {
    ((hash as u64 * count as u64) >> 32) as u32
}

/// The source port to try at `attempt` (from 0 on) towards a target that
/// has `count` ports from `first` on; none where it has none.
///
/// The client's own port comes first, folded into the range: what a client
/// did not reuse yet, we do not reuse either, so that a server in TIME_WAIT
/// sees no port twice (RFC 7323's PAWS would make it ignore the SYN).
#[inline(always)]
#[must_use]
pub fn source_port(client: u16, hash: u32, attempt: u32, first: u16, count: u16) -> Option<u16> {
    let offset = if attempt == 0 {
        client.wrapping_sub(first).checked_rem(count)?
    } else {
        below(finish(hash.wrapping_add(attempt)), count as u32) as u16
    };
    Some(first.wrapping_add(offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_clients_own_port_is_kept_where_it_lies_in_the_range() {
        assert_eq!(source_port(20_000, 1, 0, 1024, 31_744), Some(20_000));
    }

    #[test]
    fn the_ephemeral_ports_of_one_client_stay_apart_when_folded() {
        let ports: std::collections::BTreeSet<_> = (32_768..=60_999)
            .map(|port| source_port(port, 1, 0, 1024, 31_744))
            .collect();
        assert_eq!(ports.len(), 60_999 - 32_768 + 1);
    }

    #[test]
    fn an_empty_range_has_no_port() {
        assert_eq!(source_port(20_000, 1, 0, 1024, 0), None);
    }

    proptest! {
        #[test]
        fn every_port_given_out_lies_in_the_range(
            client: u16, hash: u32, attempt in 0_u32..17, first in 1_u16..60_000, count in 1_u16..5_000,
        ) {
            let port = source_port(client, hash, attempt, first, count).expect("not empty");
            prop_assert!(port >= first && port - first < count);
        }
    }
}
