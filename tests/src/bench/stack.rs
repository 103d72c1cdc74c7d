//! How much stack a compiled kernel program takes along its deepest chain of
//! calls. Instructions are as in Linux'
//! `Documentation/bpf/standardization/instruction-set.rst`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use object::{
    File, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, Section, SymbolKind,
};

/// What the verifier rounds each frame up to.
const FRAME: usize = 32;

/// Bytes of an instruction.
const INSTRUCTION: u64 = 8;

/// Where a function begins: the index of its section, and the offset in it.
type Place = (usize, u64);

/// The deepest chain of calls of a program.
#[derive(Debug)]
pub struct Chain {
    /// The program.
    pub program: String,
    /// Bytes of stack, as the verifier counts them.
    pub depth: usize,
    /// The functions, each with the bytes of its own frame.
    pub calls: Vec<String>,
}

/// What there is to know of a function.
struct Function {
    name: String,
    /// Bytes of stack.
    depth: usize,
    /// Whether the kernel calls it: it stands in a section of its own kind.
    program: bool,
    /// The functions that it calls.
    calls: Vec<Place>,
}

/// The deepest chain of each program in `object`.
pub fn chains(object: &Path) -> Result<Vec<Chain>> {
    let bytes = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let file =
        File::parse(&*bytes).with_context(|| format!("{} is no object file", object.display()))?;
    let functions = functions(&file)?;
    let programs = functions.iter().filter(|(_, function)| function.program);
    let chains = programs.map(|(&place, function)| {
        let (depth, calls) = chain(&functions, place);
        Chain {
            program: function.name.clone(),
            depth,
            calls,
        }
    });
    Ok(chains.collect())
}

fn chain(functions: &BTreeMap<Place, Function>, place: Place) -> (usize, Vec<String>) {
    let Some(function) = functions.get(&place) else {
        return (0, vec!["?".to_owned()]);
    };
    let callees = function
        .calls
        .iter()
        .map(|&callee| chain(functions, callee));
    let (below, names) = callees.max().unwrap_or_default();
    let frame = function.depth.max(1).next_multiple_of(FRAME);
    let own = format!("{} {}", function.name, function.depth);
    (frame + below, [vec![own], names].concat())
}

fn functions(file: &File<'_>) -> Result<BTreeMap<Place, Function>> {
    let mut functions = BTreeMap::new();
    for symbol in file.symbols() {
        let Some(index) = symbol.section_index() else {
            continue;
        };
        if symbol.kind() != SymbolKind::Text || symbol.size() == 0 {
            continue;
        }
        let section = file.section_by_index(index)?;
        let begin = usize::try_from(symbol.address())?;
        let end = begin + usize::try_from(symbol.size())?;
        let code = section.data()?.get(begin..end).context("code ends early")?;
        let function = Function {
            name: symbol.name()?.to_owned(),
            depth: depth(code),
            program: section.name()? != ".text",
            calls: calls(file, &section, symbol.address(), code),
        };
        functions.insert((index.0, symbol.address()), function);
    }
    Ok(functions)
}

/// Whom the `code` at `begin` of a section calls.
fn calls(file: &File<'_>, section: &Section<'_, '_>, begin: u64, code: &[u8]) -> Vec<Place> {
    const CALL: u8 = 0x85;
    const PSEUDO_CALL: u8 = 1;
    let relocations: BTreeMap<u64, Place> = section
        .relocations()
        .filter_map(|(at, relocation)| match relocation.target() {
            RelocationTarget::Symbol(index) => {
                let symbol = file.symbol_by_index(index).ok()?;
                Some((at, (symbol.section_index()?.0, symbol.address())))
            }
            _ => None,
        })
        .collect();
    let instructions = code.as_chunks::<8>().0.iter().zip(0_u64..);
    instructions
        .filter(|([opcode, registers, ..], _)| *opcode == CALL && registers >> 4 == PSEUDO_CALL)
        .map(|(instruction, index)| {
            let [.., a, b, c, d] = *instruction;
            let distance = i64::from(i32::from_le_bytes([a, b, c, d])) + 1;
            let at = begin + index * INSTRUCTION;
            // Where the linker left a relocation, the distance is from the
            // beginning of what that names.
            let (section, from) = match relocations.get(&at) {
                Some(place) => *place,
                None => (section.index().0, at),
            };
            let target = from.wrapping_add_signed(distance * INSTRUCTION as i64);
            (section, target)
        })
        .collect()
}

/// How far below its frame pointer code reaches, in bytes. Instructions
/// are as in Linux' `Documentation/bpf/standardization/instruction-set.rst`.
fn depth(code: &[u8]) -> usize {
    const FRAME_POINTER: u8 = 10;
    const LOAD: u8 = 1;
    const STORES: [u8; 2] = [2, 3];
    const ADD_IMMEDIATE: u8 = 0x07;
    const MOVE_REGISTER: u8 = 0xbf;
    let mut deepest = 0;
    // The register that the last instruction copied the frame pointer to.
    let mut copy = None;
    for instruction in code.as_chunks::<8>().0 {
        let [opcode, registers, low, high, immediate @ ..] = *instruction;
        let (to, from) = (registers & 0xf, registers >> 4);
        let offset = i16::from_le_bytes([low, high]);
        let class = opcode & 7;
        let base = if class == LOAD { from } else { to };
        let reach = if base == FRAME_POINTER && (class == LOAD || STORES.contains(&class)) {
            i32::from(offset)
        } else if opcode == ADD_IMMEDIATE && copy == Some(to) {
            i32::from_le_bytes(immediate)
        } else {
            0
        };
        deepest = deepest.max(usize::try_from(-reach).unwrap_or(0));
        copy = (opcode == MOVE_REGISTER && from == FRAME_POINTER).then_some(to);
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_depth_of_a_stack_is_the_deepest_reach() {
        let code = [
            // *(u64 *)(r10 - 16) = r1; r2 = r10; r2 += -40; r0 = *(u8 *)(r10 - 8)
            [0x7b, 0x1a, 0xf0, 0xff, 0, 0, 0, 0],
            [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],
            [0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff],
            [0x71, 0xa0, 0xf8, 0xff, 0, 0, 0, 0],
        ];
        assert_eq!(depth(code.as_flattened()), 40);
    }
}
