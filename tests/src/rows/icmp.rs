//! Rows about ICMP errors: those about a connection reach its other end, in the
//! addresses that it knows; and those that the data path sends itself, where a
//! tunnel is too narrow. What is no such error is in `stray`.

use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr};

use lb_common::flow::Progress;
use lb_common::target::{Hop, Mode};
use lb_common::verdict::{Fate, Reason};

use super::connections::unanswered;
use super::family::Family;
use super::frame::{ACK, ETH, IP, IP6, Leg, PSH, SYN, TCP, Tcp, encapsulated, segment};
use super::message::{
    ICMP_HEADER, Icmp, Kind, PARAMETER_PROBLEM, PORT_UNREACHABLE, TIME_EXCEEDED, TOO_BIG,
    UNREACHABLE, finish_icmp, message, quote, spoil_icmp,
};
use super::modes::{TO_SERVER_DIRECTLY, open};
use super::world::{
    CLIENT, CLIENT_MAC, FROM_CLIENT, FROM_SERVER, SERVER, TO_CLIENT, TO_SERVER, TUNNEL, VIP, World,
    hop,
};
use super::{Case, Row, row};

/// Whoever could not forward a segment.
const ROUTER: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 0);
/// How long packets may be, according to the router.
const MTU: u16 = 1400;

/// Bytes of payload that an error's segment had: an odd number.
pub(super) const PAYLOAD: usize = 11;

/// From a router to who sent on `leg`: by the NIC that segments on `by` come
/// by.
const fn back(by: Leg, leg: Leg) -> Leg {
    Leg {
        source: ROUTER,
        destination: leg.source,
        ..by
    }
}

/// About what was sent to the server.
pub(super) const OF_SERVER: Leg = back(FROM_SERVER, TO_SERVER);
/// About what was sent to the client.
const OF_CLIENT: Leg = back(FROM_CLIENT, TO_CLIENT);

/// What the rows of one family have in common.
pub(super) struct Rows<A: Family> {
    family: PhantomData<A>,
    /// Bytes of a network header.
    pub(super) header: usize,
}

pub(super) fn rows<A: Family>() -> Vec<Row<A>> {
    let header = match A::default().into() {
        IpAddr::V4(_) => IP,
        IpAddr::V6(_) => IP6,
    };
    let rows = Rows::<A> {
        family: PhantomData,
        header,
    };
    [
        rows.translated(),
        rows.wrong_checksums(),
        rows.modes(),
        rows.too_narrow(),
        rows.strays(),
    ]
    .concat()
}

impl<A: Family> Rows<A> {
    /// What errors are about: a segment of the connection, on a leg of it.
    fn segment(leg: Leg) -> Tcp {
        let segment = segment(leg.over::<A>(), ACK | PSH);
        segment.numbers(1001, 5001).payload(&[7; PAYLOAD]).ttl(63)
    }

    /// The first `length` bytes that an error quotes of a segment on `leg`.
    fn quote(leg: Leg, length: usize) -> Vec<u8> {
        quote(&Self::segment(leg), length)
    }

    /// The quote of a segment on `as_sent` that left on `as_left`: its
    /// checksum, where it is quoted, is that with which it left.
    fn quote_of(&self, as_sent: Leg, as_left: Leg, length: usize) -> Vec<u8> {
        let whole = self.header + TCP;
        let [mut quote, left] = [as_sent, as_left].map(|leg| Self::quote(leg, whole + PAYLOAD));
        quote[whole - 4..whole - 2].copy_from_slice(&left[whole - 4..whole - 2]);
        quote.truncate(length);
        quote
    }

    /// An error of `kind` that arrives on `leg` and quotes `length` bytes of a
    /// segment that left on `about`.
    pub(super) fn error(kind: Kind, leg: Leg, about: Leg, length: usize) -> Icmp {
        message(leg.over::<A>(), kind, &Self::quote(about, length)).mtu(MTU)
    }

    /// "Too big" about the whole of a segment that was sent to the server.
    pub(super) fn of_server(&self) -> Icmp {
        Self::error(TOO_BIG, OF_SERVER, TO_SERVER, self.header + TCP + PAYLOAD)
    }

    /// The same as the client gets it.
    fn for_client(&self, kind: Kind, length: usize) -> Icmp {
        let error = Self::error(kind, OF_SERVER, TO_SERVER, length);
        let quoted = self.quote_of(FROM_CLIENT, TO_SERVER, length);
        error.hop(TO_CLIENT.over::<A>(), &quoted)
    }

    fn established() -> World<A> {
        World::new().established().translated()
    }

    pub(super) fn row(given: World<A>, sentence: &str, packet: Vec<u8>) -> Case<A> {
        row(format!("{}: {sentence}", A::NAME), given, packet)
    }

    pub(super) fn passes(sentence: &str, packet: Vec<u8>, reason: Reason) -> Row<A> {
        Self::row(Self::established(), sentence, packet).passes(reason)
    }

    fn translates(sentence: &str, given: World<A>, packet: Vec<u8>, frame: Vec<u8>) -> Row<A> {
        let case = Self::row(given.clone(), sentence, packet);
        case.transmits(Reason::IcmpTranslated, frame, given)
    }

    fn translated(&self) -> Vec<Row<A>> {
        let whole = self.header + TCP + PAYLOAD;
        let to_client = |(name, kind): (&str, Kind)| {
            Self::translates(
                &format!("{name} about a segment to the server reaches the client"),
                Self::established(),
                Self::error(kind, OF_SERVER, TO_SERVER, whole).build(),
                self.for_client(kind, whole).build(),
            )
        };
        let to_server = |(name, kind): (&str, Kind)| {
            let error = Self::error(kind, OF_CLIENT, TO_CLIENT, whole);
            let quoted = self.quote_of(FROM_SERVER, TO_CLIENT, whole);
            Self::translates(
                &format!("{name} about a segment to the client reaches the server"),
                Self::established(),
                error.build(),
                error.hop(TO_SERVER.over::<A>(), &quoted).build(),
            )
        };
        let kinds = [
            ("\"too big\"", TOO_BIG),
            ("\"unreachable\"", UNREACHABLE),
            ("\"port unreachable\"", PORT_UNREACHABLE),
            ("\"time exceeded\"", TIME_EXCEEDED),
            ("\"parameter problem\"", PARAMETER_PROBLEM),
        ];
        let mut rows: Vec<_> = kinds.map(to_client).into();
        rows.extend(kinds.map(to_server));
        let of_length = |what: &str, length| {
            Self::translates(
                &format!("an error that quotes {what} reaches the client"),
                Self::established(),
                Self::error(TOO_BIG, OF_SERVER, TO_SERVER, length).build(),
                self.for_client(TOO_BIG, length).build(),
            )
        };
        let tags = [[0x88, 0xa8, 0, 7], [0x81, 0, 0xa0, 42]];
        let across = Self::across();
        rows.extend([
            of_length("ports and sequence number alone", self.header + 8),
            of_length("an odd number of bytes", self.header + 9),
            of_length("half of the checksum", self.header + 17),
            Self::translates(
                "an error about a SYN reaches the client",
                World::new().opened().translated(),
                self.of_server().build(),
                self.for_client(TOO_BIG, whole).build(),
            ),
            Self::translates(
                "VLAN tags stay on an error",
                Self::established(),
                self.of_server().tags(&tags).build(),
                self.for_client(TOO_BIG, whole).tags(&tags).build(),
            ),
            Self::translates(
                "an error goes on by its last hop but one",
                Self::established(),
                self.of_server().ttl(2).build(),
                self.for_client(TOO_BIG, whole).ttl(1).build(),
            ),
            Self::row(
                Self::established(),
                "an error that is out of hops goes nowhere",
                self.of_server().ttl(1).build(),
            )
            .drops(Reason::TtlExpired, Self::established()),
            Self::row(
                across.clone(),
                "an error leaves by its client's NIC",
                self.of_server().build(),
            )
            .redirects(
                Reason::IcmpTranslated,
                self.for_client(TOO_BIG, whole).build(),
                across,
            ),
        ]);
        rows
    }

    /// Two arms: the client is on another NIC.
    fn across() -> World<A> {
        let mut across = World::new().established();
        let (_, (reply, mut flow)) = across.pair();
        flow.hop = Hop {
            ifindex: 7,
            ..hop(CLIENT_MAC)
        };
        across.connections.flows.insert(reply, flow);
        across.translated()
    }

    fn wrong_checksums(&self) -> Vec<Row<A>> {
        let whole = self.header + TCP + PAYLOAD;
        let mut error = self.of_server().build();
        let mut left = self.for_client(TOO_BIG, whole).build();
        spoil_icmp(&mut error);
        spoil_icmp(&mut left);
        let wrong = Self::translates(
            "a wrong checksum of an error stays as wrong as it is",
            Self::established(),
            error,
            left,
        );
        if self.header == IP6 {
            return vec![wrong];
        }
        // One more in the quoted header's checksum, one less in the error's.
        let spoiled = |mut frame: Vec<u8>| {
            let low = ETH + IP + ICMP_HEADER + 11;
            frame[low] = frame[low].checked_add(1).expect("no carry");
            finish_icmp(&mut frame);
            frame
        };
        let quoted = Self::translates(
            "a wrong checksum of a quoted header stays as wrong as it is",
            Self::established(),
            spoiled(self.of_server().build()),
            spoiled(self.for_client(TOO_BIG, whole).build()),
        );
        vec![wrong, quoted]
    }

    /// Where the server is reached in another way.
    fn modes(&self) -> Vec<Row<A>> {
        let begun = Progress::default();
        let length = self.header + 8;
        // About what the server sent the client itself.
        let error = Self::error(TOO_BIG, OF_CLIENT, TO_CLIENT, length);
        let quoted = Self::quote(TO_CLIENT, length);
        let to_server = Leg {
            source: ROUTER,
            destination: VIP,
            ..TO_SERVER
        };
        let on = error.clone().hop(to_server.over::<A>(), &quoted).build();
        let tunnelled = open(Mode::Ipip, begun).translated();
        let narrow = open(Mode::Ipip, begun).target(|target| target.mtu = 60);
        let here = World::new().mode(Mode::Local).established().translated();
        let from_here = Leg {
            source: SERVER,
            destination: CLIENT,
            ..TO_CLIENT
        };
        let delivered = Leg {
            source: CLIENT,
            destination: SERVER,
            ..FROM_CLIENT
        };
        let quote_here = Self::quote(from_here, length);
        let arriving = error.clone().ttl(65);
        vec![
            Self::translates(
                "an error reaches a server that answers itself as it came",
                open(Mode::Dsr, begun).translated(),
                error.build(),
                on.clone(),
            ),
            Self::translates(
                "an error reaches a server at a tunnel's end inside of another packet",
                tunnelled,
                error.build(),
                encapsulated(&on, Self::tunnel()),
            ),
            Self::row(
                narrow.translated(),
                "an error that a tunnel does not take passes",
                error.build(),
            )
            .passes(Reason::NotTcp),
            Self::row(
                here.clone(),
                "an error is delivered to a server here, and that is no hop",
                error.build(),
            )
            .delivers(
                Reason::IcmpTranslated,
                arriving.hop(delivered.over::<A>(), &quote_here).build(),
                here,
            ),
        ]
    }

    fn tunnel() -> (IpAddr, IpAddr) {
        (A::like(TUNNEL).into(), A::like(SERVER.0).into())
    }

    /// Tunnels that a segment does not fit into.
    fn too_narrow(&self) -> Vec<Row<A>> {
        let begun = Progress::default();
        let world = |mtu: usize| {
            let narrow = open(Mode::Ipip, begun).target(|target| target.mtu = mtu as u16);
            narrow.translated::<A>()
        };
        let opening = World::new()
            .mode(Mode::Ipip)
            .target(|target| target.mtu = 1);
        let request = Self::segment(FROM_CLIENT).ttl(64);
        let length = self.header + TCP + PAYLOAD;
        let on = request.clone().hop(TO_SERVER_DIRECTLY.over::<A>()).build();
        let notice = |request: &Tcp, room: usize| {
            let quoted = quote(request, self.header + TCP);
            let notice = message(TO_CLIENT.over::<A>(), TOO_BIG, &quoted);
            notice.mtu(room as u16).unsolicited()
        };
        let tags = [[0x81, 0, 0xa0, 42]];
        let syn = segment(FROM_CLIENT.over::<A>(), SYN).numbers(1000, 0);
        let refused = |sentence, room: usize, request: &Tcp, notice: Icmp| {
            let case = Self::row(world(self.header + room), sentence, request.build());
            case.notifies(Reason::TooBig, notice.build())
        };
        let opened = {
            let mut world = opening.clone();
            let (key, flow) = open(Mode::Ipip, begun)
                .connections
                .flows
                .into_iter()
                .next()
                .expect("one");
            let pending = unanswered((key, flow));
            world.connections.pending.extend([pending]);
            world.translated()
        };
        vec![
            Self::row(
                world(self.header + length),
                "a segment that just fits travels through its tunnel",
                request.build(),
            )
            .transmits(
                Reason::Forward,
                encapsulated(&on, Self::tunnel()),
                world(self.header + length),
            ),
            refused(
                "a segment a byte too long is answered with the length that fits",
                length - 1,
                &request,
                notice(&request, length - 1),
            ),
            refused(
                "VLAN tags stay on the answer to what is too long",
                length - 1,
                &request.clone().tags(&tags),
                notice(&request, length - 1).tags(&tags),
            ),
            Self::row(
                opening.translated(),
                "a SYN that a tunnel does not take is answered, and waits for the next one",
                syn.build(),
            )
            .finish(
                Fate::Notify,
                Reason::TooBig,
                Some(notice(&syn, 0).build()),
                opened,
            ),
        ]
    }
}
