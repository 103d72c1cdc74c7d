//! The coverage-guided fuzzer's input: a packet, and the tables that it meets,
//! as bytes that mutations can make sense of; and what must hold of every one.
//!
//! The tables are those of a row. Byte 0 says which way the packet takes
//! ([`EGRESS`], [`KEEP`], [`IPV6`]), bytes 1 and 2 are the row's number, the
//! lower byte first, and the rest is the packet.

use std::path::Path;
use std::sync::LazyLock;
use std::{fs, io};

use anyhow::{Context as _, Result};
use lb_common::addr::{Ipv4, Ipv6};
use lb_common::nat::PartialChecksum;

use super::family::Family;
use super::sane::{hex, read_right, sane};
use super::{Hook, Row, host, ipv4, ipv6};

/// In byte 0: the packet leaves this host.
const EGRESS: u8 = 1;
/// In byte 0: partial checksums are kept.
const KEEP: u8 = 2;
/// In byte 0: the row is one of IPv6's.
const IPV6: u8 = 4;

static ROWS_IPV4: LazyLock<Vec<Row<Ipv4>>> = LazyLock::new(|| ipv4(PartialChecksum::Finish));
static ROWS_IPV6: LazyLock<Vec<Row<Ipv6>>> = LazyLock::new(|| ipv6(PartialChecksum::Finish));

/// Sends an input's packet through the host's data path.
///
/// # Errors
/// Something does not hold that must hold of every packet; the error says which
/// row's tables the packet met.
///
/// # Panics
/// The data path does: what a fuzzer looks for.
pub fn check(input: &[u8]) -> Result<()> {
    let Some((&[way, low, high], packet)) = input.split_first_chunk() else {
        return Ok(());
    };
    let number = u16::from_le_bytes([low, high]).into();
    if way & IPV6 == 0 {
        check_among(&ROWS_IPV4, number, way, packet)
    } else {
        check_among(&ROWS_IPV6, number, way, packet)
    }
}

fn check_among<A: Family>(rows: &[Row<A>], number: usize, way: u8, packet: &[u8]) -> Result<()> {
    let row = &rows[number % rows.len()];
    let partial = if way & (KEEP | EGRESS) == 0 {
        PartialChecksum::Finish
    } else {
        PartialChecksum::Keep
    };
    let hook = if way & EGRESS == 0 {
        Hook::Ingress
    } else {
        Hook::Egress
    };
    let passage = host::run(&row.given.tables(), hook, packet, partial).passage;
    read_right(packet)
        .and_then(|()| sane(packet, &passage, partial))
        .with_context(|| {
            format!(
                "{} at {hook:?} ({partial:?}), with the tables of the row \"{}\", became {passage:#?}",
                hex(packet),
                row.sentence
            )
        })
}

/// The input that every row makes.
fn seeds() -> impl Iterator<Item = Vec<u8>> {
    let ipv4 = (0..).zip(ROWS_IPV4.iter()).map(|row| seed(row, 0));
    let ipv6 = (0..).zip(ROWS_IPV6.iter()).map(|row| seed(row, IPV6));
    ipv4.chain(ipv6)
}

fn seed<A: Family>((number, row): (u16, &Row<A>), family: u8) -> Vec<u8> {
    let way = match row.hook {
        Hook::Ingress => family,
        Hook::Egress => family | EGRESS,
    };
    let [low, high] = number.to_le_bytes();
    [&[way, low, high], &row.packet[..]].concat()
}

/// Writes the seeds into `directory`, a file each, and nothing else of its own
/// making stays there.
///
/// # Errors
/// A file cannot be written.
pub fn write_seeds(directory: &Path) -> io::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    for (number, seed) in seeds().enumerate() {
        fs::write(directory.join(format!("row-{number:04}")), seed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the fuzzer begins with, in both forms of a partial checksum; and a
    /// byte more or less of it.
    #[test]
    fn what_must_hold_holds_of_every_row() {
        for seed in seeds() {
            for mut input in [seed.clone(), [&seed[..], &[0]].concat(), {
                let mut short = seed.clone();
                short.pop();
                short
            }] {
                check(&input).expect("it holds");
                input[0] |= KEEP;
                check(&input).expect("it holds");
            }
        }
        assert!(seeds().count() > 500);
    }

    #[test]
    fn what_is_too_short_to_be_an_input_is_let_alone() {
        for length in 0..3 {
            check(&vec![0xff; length]).expect("it holds");
        }
        check(&[0xff; 3]).expect("an empty packet");
    }
}
