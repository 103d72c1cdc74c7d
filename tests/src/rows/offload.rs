//! Rows about checksums that the sender left to its NIC. In native XDP the
//! data path has to finish them; in generic XDP the kernel does later, and
//! relies on the pseudo header's sum.

use lb_common::nat::PartialChecksum;
use lb_common::verdict::Reason;

use super::frame::{ACK, Checksum, PSH, RST, SYN, Tcp, segment};
use super::world::{FROM_CLIENT, FROM_SERVER, TO_CLIENT, TO_SERVER, World};
use super::{Row, row};

/// Payloads around every boundary of the pieces that are summed: 4 bytes at
/// the small end, 512 at the large one, and odd ones. Headers make 20 bytes of
/// a segment: 492 of payload are the first that fill a piece of 512.
const PAYLOADS: [usize; 22] = [
    0, 1, 2, 3, 4, 5, 107, 108, 109, 235, 236, 491, 492, 493, 511, 512, 513, 1003, 1004, 1459,
    1460, 3001,
];

/// A payload of which each two bytes differ from their neighbours, so that
/// no shift goes unnoticed.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + n / 251 + 1) as u8).collect()
}

pub(super) fn rows(partial: PartialChecksum) -> Vec<Row> {
    let offload = Offload {
        sent: Checksum::Partial,
        left: match partial {
            PartialChecksum::Finish => Checksum::Complete,
            PartialChecksum::Keep => Checksum::Partial,
        },
    };
    [offload.payloads(), offload.odd_ends(), offload.answers()].concat()
}

/// How a partial checksum comes in, and how it goes out.
struct Offload {
    sent: Checksum,
    left: Checksum,
}

impl Offload {
    fn payloads(&self) -> Vec<Row> {
        let there = |length| {
            let request = segment(FROM_CLIENT, ACK | PSH)
                .numbers(1001, 5001)
                .payload(&payload(length));
            let sentence = format!("a partial checksum over {length} bytes reaches the server");
            (sentence, Reason::Forward, request, TO_SERVER)
        };
        let back = |length| {
            let response = segment(FROM_SERVER, ACK | PSH)
                .numbers(5001, 1001)
                .payload(&payload(length));
            let sentence = format!("a partial checksum over {length} bytes reaches the client");
            (sentence, Reason::Reply, response, TO_CLIENT)
        };
        let ways = PAYLOADS.into_iter().map(there);
        ways.chain(PAYLOADS.into_iter().map(back))
            .map(|(sentence, reason, packet, leg)| {
                let open = World::new().established();
                row(sentence, open.clone(), self.sent(&packet)).transmits(
                    reason,
                    self.left(packet.hop(leg)),
                    open,
                )
            })
            .collect()
    }

    fn odd_ends(&self) -> Vec<Row> {
        let syn = segment(FROM_CLIENT, SYN)
            .numbers(1000, 0)
            .options(&super::handshake::SYN_OPTIONS);
        let padded = segment(FROM_CLIENT, ACK)
            .numbers(1001, 5001)
            .payload(&payload(3))
            .padding(5);
        let open = World::new().established();
        vec![
            row(
                "a partial checksum of a SYN reaches the server",
                World::new(),
                self.sent(&syn),
            )
            .transmits(
                Reason::Opened,
                self.left(syn.hop(TO_SERVER)),
                World::new().opened(),
            ),
            row(
                "a partial checksum does not cover padding",
                open.clone(),
                self.sent(&padded),
            )
            .transmits(Reason::Forward, self.left(padded.hop(TO_SERVER)), open),
        ]
    }

    fn answers(&self) -> Vec<Row> {
        let stale = World::new().established().cut();
        let request = segment(FROM_CLIENT, ACK | PSH)
            .numbers(1001, 5001)
            .payload(&payload(100));
        let reset = segment(TO_CLIENT, RST).numbers(5001, 0).unsolicited();
        vec![
            row(
                "a RST that answers a partial checksum is as the hook needs it",
                stale.clone(),
                self.sent(&request),
            )
            .resets(Reason::CutOff, self.left(reset.clone()), stale.clone()),
            row(
                "a RST that answers a complete checksum is complete",
                stale.clone(),
                request.build(),
            )
            .resets(Reason::CutOff, reset.build(), stale),
        ]
    }

    fn sent(&self, packet: &Tcp) -> Vec<u8> {
        packet.clone().checksum(self.sent).build()
    }

    fn left(&self, packet: Tcp) -> Vec<u8> {
        packet.checksum(self.left).build()
    }
}
