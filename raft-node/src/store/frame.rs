//! The log's frames: what one fsync makes durable together. Pure: bytes in, bytes out.
//!
//! ```text
//! four bytes of magic · number u64 · length of the body u32 · CRC-32 of the body · CRC-32 of the twenty bytes before · body
//! ```
//!
//! Numbers are little-endian. A frame is written only after the one before it is durable, so a power cut can leave one broken frame, the
//! last one. Whether a broken frame is the last is told by what follows: no header with a higher number. The magic is not UTF-8, so that no
//! client's text holds a header.

use std::ops::Range;

/// No text has 0xFF in it.
const MAGIC: [u8; 4] = [0xff, b'r', b'n', 0xfe];
/// Of the header.
pub(super) const HEADER_LENGTH: usize = 24;

mod field {
    use std::ops::Range;

    pub const MAGIC: Range<usize> = 0..4;
    pub const NUMBER: Range<usize> = 4..12;
    pub const LENGTH: Range<usize> = 12..16;
    pub const BODY_CHECKSUM: Range<usize> = 16..20;
    pub const HEADER_CHECKSUM: Range<usize> = 20..24;
}

#[derive(Debug, Clone, Copy)]
struct Header {
    number: u64,
    length: usize,
    body_checksum: u32,
}

/// Fills in the header of `frame`, which begins with [`HEADER_LENGTH`] bytes of no meaning and goes on with the body.
pub(super) fn seal(frame: &mut [u8], number: u64) {
    let (header, body) = frame.split_at_mut(HEADER_LENGTH);
    // Bodies are bounded far below 4 GiB: a batch of writes has a limit, and so has a member's address.
    let length = body.len() as u32;
    header[field::MAGIC].copy_from_slice(&MAGIC);
    header[field::NUMBER].copy_from_slice(&number.to_le_bytes());
    header[field::LENGTH].copy_from_slice(&length.to_le_bytes());
    header[field::BODY_CHECKSUM].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let checksum = crc32fast::hash(&header[..field::HEADER_CHECKSUM.start]);
    header[field::HEADER_CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}

/// The frames of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// Where each whole frame's body is.
    pub bodies: Vec<Range<usize>>,
    /// The number of the last of them, or the one before the first where there is none.
    pub last_number: u64,
    /// Where the last whole frame ends.
    pub end: usize,
}

/// Reads the frames of `file` from `start` on. The first has the number after `before`, or any where `before` is `None`.
///
/// # Errors
/// Where a broken frame is followed by one that was written after it: the offset of the broken one. It was durable, and is no more.
pub(super) fn scan(file: &[u8], start: usize, before: Option<u64>) -> Result<Scan, usize> {
    let mut bodies = Vec::new();
    let mut last = before;
    let mut at = start;
    while let Some(header) = header(file, at) {
        let body = at + HEADER_LENGTH..at + HEADER_LENGTH + header.length;
        let follows = last.is_none_or(|last| header.number == last + 1);
        let whole = file
            .get(body.clone())
            .is_some_and(|body| crc32fast::hash(body) == header.body_checksum);
        if !follows || !whole {
            break;
        }
        last = Some(header.number);
        at = body.end;
        bodies.push(body);
    }
    let last_number = last.unwrap_or(0);
    let later = (at..file.len())
        .filter_map(|place| header(file, place))
        .any(|header| header.number > last_number + 1);
    match later {
        true => Err(at),
        false => Ok(Scan {
            bodies,
            last_number,
            end: at,
        }),
    }
}

/// The header at `at`, if there is a whole one.
fn header(file: &[u8], at: usize) -> Option<Header> {
    let header = file.get(at..at.checked_add(HEADER_LENGTH)?)?;
    if header[field::MAGIC] != MAGIC
        || crc32fast::hash(&header[..field::HEADER_CHECKSUM.start])
            != number_u32(header, field::HEADER_CHECKSUM)
    {
        return None;
    }
    let mut number = [0; 8];
    number.copy_from_slice(&header[field::NUMBER]);
    Some(Header {
        number: u64::from_le_bytes(number),
        length: number_u32(header, field::LENGTH) as usize,
        body_checksum: number_u32(header, field::BODY_CHECKSUM),
    })
}

fn number_u32(header: &[u8], field: Range<usize>) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&header[field]);
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(number: u64, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; HEADER_LENGTH];
        frame.extend_from_slice(body);
        seal(&mut frame, number);
        frame
    }

    fn three() -> Vec<u8> {
        [frame(7, b"one"), frame(8, b""), frame(9, b"three")].concat()
    }

    #[test]
    fn what_was_sealed_is_found() {
        let file = [&b"head"[..], &three(), &[0; 100]].concat();
        let found = scan(&file, 4, Some(6)).unwrap();
        let bodies: Vec<_> = found.bodies.iter().map(|at| &file[at.clone()]).collect();
        assert_eq!(bodies, [&b"one"[..], b"", b"three"]);
        assert_eq!((found.last_number, found.end), (9, 4 + three().len()));
        assert_eq!(scan(&file, 4, None).unwrap(), found);
    }

    #[test]
    fn a_frame_that_does_not_follow_is_damage() {
        assert_eq!(scan(&three(), 0, Some(5)), Err(0));
        let gap = [frame(1, b"x"), frame(3, b"y")].concat();
        assert_eq!(scan(&gap, 0, Some(0)), Err(HEADER_LENGTH + 1));
    }

    proptest! {
        #[test]
        fn a_cut_leaves_the_frames_before_it(cut in 0usize..80) {
            let file = three();
            let cut = cut.min(file.len());
            let found = scan(&file[..cut], 0, Some(6)).unwrap();
            let ends = [0, 27, 51, 80];
            let whole = ends.iter().rposition(|&end| end <= cut).unwrap();
            prop_assert_eq!((found.bodies.len(), found.end), (whole, ends[whole]));
        }

        #[test]
        fn a_flipped_bit_is_noticed_unless_it_is_in_the_last_frame(place in 0usize..80, bit in 0u8..8) {
            let mut file = three();
            file[place] ^= 1 << bit;
            match scan(&file, 0, Some(6)) {
                // As after a power cut.
                Ok(found) => prop_assert!(place >= 51 && found.bodies.len() == 2, "{:?}", found),
                Err(at) => prop_assert!(place < 51 && at <= place),
            }
        }
    }
}
