//! Another build of `lb`, without a compiler: its kernel program does the same
//! by other instructions.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use object::{File, Object as _, ObjectSection as _, SectionKind};

use crate::rows::kernel;

/// Bytes of an instruction.
const INSTRUCTION: usize = 8;

/// The opcode that loads 64 bits; it takes the place of two instructions.
const WIDE_LOAD: u8 = 0x18;

/// The opcodes of jumps where two registers are equal, and where they are not,
/// by 64 and by 32 bits: whichever of the two comes first.
const SYMMETRIC: [u8; 4] = [0x1d, 0x5d, 0x1e, 0x5e];

/// The file `lb` with another kernel program in it.
///
/// # Errors
/// It does not embed the kernel object that `cargo xtask build` made last.
pub fn with_other_instructions(lb: &[u8]) -> Result<Vec<u8>> {
    let object = fs::read(kernel::object()?)?;
    let at = lb.windows(object.len()).position(|part| part == object);
    let at = at.context("lb embeds another kernel object; run: cargo xtask build")?;
    let mut build = lb.to_vec();
    build[at..][..object.len()].copy_from_slice(&swapped(object)?);
    Ok(build)
}

/// The kernel object with the registers of every symmetric comparison swapped.
fn swapped(mut object: Vec<u8>) -> Result<Vec<u8>> {
    let file = File::parse(&*object)?;
    let code = file.sections().filter(|s| s.kind() == SectionKind::Text);
    let code: Vec<_> = code.filter_map(|section| section.file_range()).collect();
    let mut count = 0;
    for (start, length) in code {
        let code = &mut object[usize::try_from(start)?..][..usize::try_from(length)?];
        let mut instructions = code.chunks_exact_mut(INSTRUCTION);
        while let Some(instruction) = instructions.next() {
            match instruction[0] {
                WIDE_LOAD => _ = instructions.next(),
                opcode if SYMMETRIC.contains(&opcode) => {
                    // Its source and its destination, four bits each.
                    instruction[1] = instruction[1].rotate_left(4);
                    count += 1;
                }
                _ => {}
            }
        }
    }
    ensure!(count > 0, "the kernel object compares no two registers");
    Ok(object)
}
