//! Rows about ICMP messages that are no errors about a connection, or are not
//! understood: each passes to the host as it came.

use lb_common::verdict::Reason;

use super::Row;
use super::family::Family;
use super::frame::{ETH, IP, IP6, Leg, TCP, finish_ip};
use super::icmp::{OF_SERVER, PAYLOAD, Rows};
use super::message::{ECHO, ECHO_REPLY, ICMP_HEADER, REDIRECT, TOO_BIG, finish_icmp, message};
use super::world::{FROM_CLIENT, FROM_SERVER, SERVER, SNAT, TO_SERVER, VIP, World};

impl<A: Family> Rows<A> {
    pub(super) fn strays(&self) -> Vec<Row<A>> {
        [self.no_errors(), self.strangers(), self.malformed()].concat()
    }

    /// Messages that are no errors about a connection.
    fn no_errors(&self) -> Vec<Row<A>> {
        let to_vip = |kind| {
            let ping = message(FROM_CLIENT.over::<A>(), kind, b"0123456789abcdef");
            ping.build()
        };
        let whole = self.header + TCP + PAYLOAD;
        let about = |kind| Self::error(kind, OF_SERVER, TO_SERVER, whole).build();
        let passes = |sentence, packet| Self::passes(sentence, packet, Reason::NotTcp);
        vec![
            passes("an echo request to the VIP passes", to_vip(ECHO)),
            passes("an echo reply to the VIP passes", to_vip(ECHO_REPLY)),
            passes(
                "an echo request that looks like an error passes",
                about(ECHO),
            ),
            passes(
                "an echo reply that looks like an error passes",
                about(ECHO_REPLY),
            ),
            passes("a redirect passes", about(REDIRECT)),
            passes("a message of no known kind passes", about([(250, 0); 2])),
            Self::passes(
                "an error that quotes nothing passes",
                message(OF_SERVER.over::<A>(), TOO_BIG, &[]).build(),
                Reason::Truncated,
            ),
        ]
    }

    /// Errors about somebody else.
    fn strangers(&self) -> Vec<Row<A>> {
        let whole = self.header + TCP + PAYLOAD;
        let about = |leg| Self::error(TOO_BIG, OF_SERVER, leg, whole).build();
        let unknown = Leg {
            source: (SNAT.0, SNAT.1 + 1),
            ..TO_SERVER
        };
        let elsewhere = Leg {
            destination: (SERVER.0, SERVER.1 + 1),
            ..TO_SERVER
        };
        let to_vip = Leg {
            destination: VIP,
            ..OF_SERVER
        };
        let passes = |sentence, packet| Self::passes(sentence, packet, Reason::NotTcp);
        let cut = World::new().established().cut().translated();
        vec![
            passes("an error about another source port passes", about(unknown)),
            passes("an error about another server passes", about(elsewhere)),
            // A connection's own ends do not get errors about what they get.
            passes(
                "an error about a segment that arrives passes",
                about(FROM_SERVER),
            ),
            passes(
                "an error that somebody else than the sender gets passes",
                Self::error(TOO_BIG, to_vip, TO_SERVER, whole).build(),
            ),
            Self::row(
                cut,
                "an error about a connection to a target that was cut off passes",
                self.of_server().build(),
            )
            .passes(Reason::NotTcp),
        ]
    }

    /// Errors, or what they quote, whose headers contradict each other.
    fn malformed(&self) -> Vec<Row<A>> {
        let whole = self.of_server().build();
        let quoted = ETH + self.header + ICMP_HEADER;
        let with = |at: usize, bytes: &[u8]| {
            let mut frame = whole.clone();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            finish_ip(&mut frame);
            finish_icmp(&mut frame);
            frame
        };
        let length_of = |length: usize| {
            let (at, length) = match self.header {
                IP => (ETH + 2, length),
                _ => (ETH + 4, length - IP6),
            };
            with(at, &(length as u16).to_be_bytes())
        };
        let shortest = 2 * self.header + ICMP_HEADER + 8;
        let not_tcp = |sentence: &str, packet| Self::passes(sentence, packet, Reason::NotTcp);
        let segment = ETH + self.header + TCP;
        let mut rows: Vec<_> = (ETH..ETH + shortest)
            .map(|length| {
                let reason = if length < segment {
                    Reason::Truncated
                } else {
                    Reason::NotTcp
                };
                let sentence = format!("an error of {length} bytes passes");
                Self::passes(&sentence, whole[..length].to_vec(), reason)
            })
            .collect();
        rows.extend([
            not_tcp(
                "an error a byte longer than its frame passes",
                length_of(whole.len() - ETH + 1),
            ),
            not_tcp(
                "an error whose length leaves out a byte of the quoted ports passes",
                length_of(shortest - 1),
            ),
            not_tcp("a quote of another version passes", with(quoted, &[0x55])),
        ]);
        let (protocol, fragment) = match self.header {
            IP => (9, with(quoted + 6, &[0x20, 0])),
            _ => (6, with(quoted + 6, &[44])),
        };
        rows.extend([
            not_tcp("a quote of UDP passes", with(quoted + protocol, &[17])),
            not_tcp("a quote of a fragment passes", fragment),
        ]);
        if self.header == IP {
            rows.extend([
                not_tcp("a quote with IP options passes", with(quoted, &[0x46])),
                Self::passes(
                    "an error with IP options passes",
                    with(ETH, &[0x46]),
                    Reason::Options,
                ),
                Self::passes(
                    "a fragment of an error passes",
                    with(ETH + 6, &[0x20, 0]),
                    Reason::Fragment,
                ),
                not_tcp("an error of IPv6's over IPv4 passes", with(ETH + 9, &[58])),
            ]);
        } else {
            rows.extend([
                not_tcp("a quote with options passes", with(quoted + 6, &[60])),
                not_tcp("an error of IPv4's over IPv6 passes", with(ETH + 6, &[1])),
            ]);
        }
        rows
    }
}
