//! What holds of every packet, whatever it is and whatever the tables hold.

use anyhow::{Result, ensure};
use lb_common::addr::{Address, Ipv4, Ipv6};
use lb_common::flow::FlowKey;
use lb_common::layout::read_from;
use lb_common::nat::PartialChecksum;
use lb_common::verdict::Fate;
use lb_common::wire::frame::Headers;
use lb_common::wire::icmp::IcmpError;
use lb_common::wire::network::NetworkHeader as _;

use super::Passage;
use super::frame::{
    IP, IP_IN_IP, IP6_IN_IP6, TCP, any_parts, checksum_partial, checksums_valid, fold,
    ip_checksum_valid, put, sum,
};
use super::message::{ICMP_HEADER, inside, valid};

/// The protocol number of TCP.
const TCP_PROTOCOL: u8 = 6;

/// Whether `passage` may become of `packet`: what passes is not touched, and
/// what was right is right afterwards.
///
/// # Errors
/// What is wrong with it.
pub fn sane(packet: &[u8], passage: &Passage, partial: PartialChecksum) -> Result<()> {
    let Passage { fate, frame, .. } = passage;
    let (Some(frame), Fate::Transmit | Fate::Deliver | Fate::Reset | Fate::Notify) = (frame, fate)
    else {
        let untouched = frame.as_ref().is_none_or(|frame| frame == packet);
        ensure!(untouched, "a packet that passes is not touched");
        return Ok(());
    };
    let was_right = ip_checksum_valid(packet);
    ensure!(
        ip_checksum_valid(frame) || !was_right,
        "the IP checksum is as right as before"
    );
    let left_to_nic = protocol(packet) == Some(TCP_PROTOCOL) && checksum_partial(packet);
    let stays_partial = left_to_nic && partial == PartialChecksum::Keep;
    match fate {
        Fate::Reset if stays_partial => {
            ensure!(checksum_partial(frame), "a partial checksum stays partial");
        }
        Fate::Reset => ensure!(checksums_valid(frame), "the checksums of a RST are right"),
        Fate::Notify => {
            let mut frame = frame.clone();
            if stays_partial {
                finish_quoted(&mut frame);
            }
            let right = valid(&frame) || !was_right;
            ensure!(right, "the checksums of an error are right");
        }
        Fate::Transmit | Fate::Deliver | Fate::Pass | Fate::Drop => {
            let frame = match protocol(frame) {
                Some(IP_IN_IP | IP6_IN_IP6) => {
                    ensure!(ip_checksum_valid(frame), "the outer checksum is right");
                    inside(frame)
                }
                _ => frame.clone(),
            };
            if stays_partial {
                ensure!(checksum_partial(&frame), "a partial checksum stays partial");
            } else if left_to_nic && was_right || valid(packet) {
                ensure!(valid(&frame), "the checksums are right");
            }
        }
    }
    Ok(())
}

/// The number of the protocol that a frame carries.
fn protocol(frame: &[u8]) -> Option<u8> {
    Some(any_parts(frame)?.protocol)
}

/// Finishes the partial checksum that an error of our own quotes, as the kernel
/// does once it leaves: it still knows where that begins.
fn finish_quoted(frame: &mut [u8]) {
    let parts = any_parts(frame).expect("a packet");
    let quoted = parts.transport + ICMP_HEADER;
    let tcp = quoted + parts.transport - parts.network;
    let sum = fold(sum(&frame[tcp..tcp + TCP]));
    put(frame, tcp + 16, !sum);
}

/// Whether what `lb_common` reads of a frame, written to where it belongs, is
/// the frame.
///
/// # Errors
/// It is another one.
pub fn read_right(frame: &[u8]) -> Result<()> {
    let Some(parts) = any_parts(frame) else {
        return Ok(());
    };
    match parts.transport - parts.network {
        IP => read_right_of::<Ipv4>(frame, parts.network),
        _ => read_right_of::<Ipv6>(frame, parts.network),
    }
}

fn read_right_of<A: Address>(frame: &[u8], network: usize) -> Result<()> {
    let available = frame.len() - network;
    let header = usize::from(A::Header::LENGTH);
    let headers = read_from::<Headers<A::Header>>(&frame[network..]);
    if let Some(headers) = headers.filter(|headers| headers.check(available).is_ok()) {
        let segment = headers.segment();
        let mut again = frame.to_vec();
        let packet = &mut again[network..];
        write_key(packet, header, &segment.key);
        write_length(packet, header, segment.length as usize);
        packet[if header == IP { 8 } else { 7 }] = segment.hops;
        packet[header + 4..header + 8].copy_from_slice(&segment.sequence.to_be_bytes());
        packet[header + 8..header + 12].copy_from_slice(&segment.acknowledgment.to_be_bytes());
        packet[header + 13] = segment.flags.0;
        ensure!(again == frame, "a segment was read as {segment:?}");
    }
    let error = read_from::<IcmpError<A::Header>>(&frame[network..]);
    if let Some(error) = error.filter(|error| error.check(available).is_ok()) {
        let mut again = frame.to_vec();
        let packet = &mut again[network..];
        write_length(packet, header, error.network.packet_length() as usize);
        let quoted = &mut packet[header + ICMP_HEADER..];
        write_key(quoted, header, &error.key());
        write_length(quoted, header, error.quoted.packet_length() as usize);
        ensure!(
            again == frame,
            "an error was read as one about {:?}",
            error.key()
        );
    }
    Ok(())
}

fn write_key<A: Address>(packet: &mut [u8], header: usize, key: &FlowKey<A>) {
    let mut addresses = Vec::new();
    for address in [key.source.into(), key.destination.into()] {
        match address {
            std::net::IpAddr::V4(address) => addresses.extend(address.octets()),
            std::net::IpAddr::V6(address) => addresses.extend(address.octets()),
        }
    }
    packet[header - addresses.len()..header].copy_from_slice(&addresses);
    put(packet, header, key.source_port.number());
    put(packet, header + 2, key.destination_port.number());
}

fn write_length(packet: &mut [u8], header: usize, length: usize) {
    if header == IP {
        put(packet, 2, length as u16);
    } else {
        put(packet, 4, (length - header) as u16);
    }
}

/// The bytes as one would quote them in a report.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Hook, ipv4};

    /// Over IPv4, every bit of what goes on is under some checksum.
    #[test]
    fn a_changed_bit_is_noticed_in_whatever_goes_on() {
        let partial = PartialChecksum::Finish;
        let mut protocols = std::collections::BTreeSet::new();
        for row in ipv4(partial) {
            let passage = row.expected.passage;
            let (Some(frame), Fate::Transmit) = (&passage.frame, passage.fate) else {
                continue;
            };
            let right = valid(&row.packet) && row.hook == Hook::Ingress;
            if !right || frame.len() > 200 {
                continue;
            }
            sane(&row.packet, &passage, partial).expect("it is");
            let parts = any_parts(frame).expect("a packet");
            protocols.insert(parts.protocol);
            for bit in parts.network * 8..parts.end * 8 {
                let mut changed = frame.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let changed = Passage {
                    frame: Some(changed),
                    ..passage.clone()
                };
                let noticed = sane(&row.packet, &changed, partial).is_err();
                assert!(noticed, "{}: bit {bit}", row.sentence);
            }
        }
        assert_eq!(protocols, [1, IP_IN_IP, TCP_PROTOCOL].into());
    }

    #[test]
    fn what_passes_and_was_touched_is_noticed() {
        for row in ipv4(PartialChecksum::Finish) {
            let mut passage = row.expected.passage;
            if passage.fate == Fate::Pass {
                passage.frame.as_mut().expect("it goes on")[0] ^= 1;
                assert!(sane(&row.packet, &passage, PartialChecksum::Finish).is_err());
            }
        }
    }
}
