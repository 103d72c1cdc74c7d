//! Rows in the bytes of a foreign tool: scapy 2.8.0 made them, both the frame
//! that comes in and the one that must go out, such as
//! ```python
//! bytes(Ether(src="02:00:00:00:00:09", dst="02:00:00:00:00:64")
//!       / IP(src="10.0.0.9", dst="10.0.0.100", ttl=64, id=0x1234, flags="DF")
//!       / TCP(sport=40000, dport=8080, flags="S", seq=1000, window=64240,
//!             options=[("MSS", 1460), ("NOP", None), ("NOP", None),
//!                      ("SAckOK", b""), ("NOP", None), ("WScale", 7)])).hex()
//! ```
//! and for the frame that goes out the addresses and ports of the other leg,
//! with `ttl=63`; for a RST of our own `id=0`, `ttl=64` and `window=0`.

use lb_common::verdict::Reason;

use super::world::World;
use super::{Row, row};

const SYN_IN: &str = "\
    02000000006402000000000908004500003412344000400614240a0000090a0000649c401f900000\
    03e8000000008002faf09ffb0000020405b40101040201030307";

const SYN_OUT: &str = "\
    02000000000b020000000064080045000034123440003f0615210a0000650a00000b204023280000\
    03e8000000008002faf018610000020405b40101040201030307";

const SYN_ACK_IN: &str = "\
    02000000006402000000000b08004500003412344000400614210a00000b0a000065232820400000\
    1388000003e98012faf004c80000020405b40101040201030307";

const SYN_ACK_OUT: &str = "\
    020000000009020000000064080045000034123440003f0615240a0000640a0000091f909c400000\
    1388000003e98012faf08c620000020405b40101040201030307";

const REQUEST_IN: &str = "\
    02000000006402000000000908004500004b123440004006140d0a0000090a0000649c401f900000\
    03e9000013898018faf08d5400000101080a0001020304050607505554202f6b7620485454502f31\
    2e310d0a0d0a7b7d21";

const REQUEST_OUT: &str = "\
    02000000000b02000000006408004500004b123440003f06150a0a0000650a00000b204023280000\
    03e9000013898018faf005ba00000101080a0001020304050607505554202f6b7620485454502f31\
    2e310d0a0d0a7b7d21";

const RESPONSE_IN: &str = "\
    02000000006402000000000b08004500002b123440004006142a0a00000b0a000065232820400000\
    1389000004145018faf0df330000323034";

const RESPONSE_OUT: &str = "\
    02000000000902000000006408004500002b123440003f06152d0a0000640a0000091f909c400000\
    1389000004145018faf066ce0000323034";

const EXACT_RESET_IN: &str = "\
    02000000006402000000000908004500002812344000400614300a0000090a0000649c401f900000\
    03e9000013895010faf0cd340000";

const EXACT_RESET_OUT: &str = "\
    02000000000902000000006408004500002800004000400626640a0000640a0000091f909c400000\
    13890000000050040000cc1a0000";

const REFUSAL_IN: &str = "\
    02000000006402000000000908004500002812344000400614300a0000090a0000649c401f900000\
    03e8000000005002faf0e0cc0000";

const REFUSAL_OUT: &str = "\
    02000000000902000000006408004500002800004000400626640a0000640a0000091f909c400000\
    0000000003e950140000dbaa0000";

/// The bytes that `hex` spells.
///
/// # Panics
/// It is no hexadecimal number of whole bytes.
#[must_use]
pub fn bytes(hex: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).expect("a hexadecimal digit") as u8;
    hex.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

pub(super) fn rows() -> Vec<Row> {
    let open = World::new().established();
    let stale = open.clone().cut();
    vec![
        row("scapy's SYN is opened", World::new(), bytes(SYN_IN)).transmits(
            Reason::Opened,
            bytes(SYN_OUT),
            World::new().opened(),
        ),
        row(
            "scapy's SYN+ACK comes back",
            World::new().opened(),
            bytes(SYN_ACK_IN),
        )
        .transmits(
            Reason::Handshake,
            bytes(SYN_ACK_OUT),
            World::new().answered(5000),
        ),
        row(
            "scapy's request gets through",
            open.clone(),
            bytes(REQUEST_IN),
        )
        .transmits(Reason::Forward, bytes(REQUEST_OUT), open.clone()),
        row(
            "scapy's response gets back",
            open.clone(),
            bytes(RESPONSE_IN),
        )
        .transmits(Reason::Reply, bytes(RESPONSE_OUT), open),
        row(
            "scapy's ACK gets an exact RST",
            stale.clone(),
            bytes(EXACT_RESET_IN),
        )
        .resets(Reason::CutOff, bytes(EXACT_RESET_OUT), stale),
        row(
            "scapy's SYN is refused",
            World::new().leaderless(),
            bytes(REFUSAL_IN),
        )
        .resets(Reason::NoTarget, bytes(REFUSAL_OUT), World::new()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::frame::{ACK, PSH, RST, SYN, checksums_valid, segment};
    use crate::rows::handshake::SYN_OPTIONS;
    use crate::rows::world::{FROM_CLIENT, FROM_SERVER, TO_CLIENT};

    #[test]
    fn our_frames_are_those_that_scapy_makes() {
        let syn = segment(FROM_CLIENT, SYN)
            .numbers(1000, 0)
            .options(&SYN_OPTIONS);
        assert_eq!(syn.build(), bytes(SYN_IN));
        let response = segment(FROM_SERVER, PSH | ACK)
            .numbers(5001, 1044)
            .payload(b"204");
        assert_eq!(response.build(), bytes(RESPONSE_IN));
        assert_eq!(response.hop(TO_CLIENT).build(), bytes(RESPONSE_OUT));
        let reset = segment(TO_CLIENT, RST).numbers(5001, 0).unsolicited();
        assert_eq!(reset.build(), bytes(EXACT_RESET_OUT));
    }

    #[test]
    fn a_frame_with_one_bit_changed_is_not_valid() {
        let frame = bytes(REQUEST_OUT);
        assert!(checksums_valid(&frame));
        for bit in 14 * 8..frame.len() * 8 {
            let mut changed = frame.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!checksums_valid(&changed), "bit {bit}");
        }
    }
}
