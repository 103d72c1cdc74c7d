//! The program passes the verifier, and what it costs.

use std::fs;

use aya::programs::Xdp;
use lb_common::nat::PartialChecksum;
use lb_tests::privileged;
use lb_tests::rows::kernel::{Kernel, object};
use object::{Object as _, ObjectSection as _};

/// The verifier gives up at a million instructions. Ours should stay far
/// below: a longer way is more to load, and a sign of copies.
const VERIFIED_MAX: u32 = 100_000;

/// The verifier gives up beyond 512 bytes.
const STACK_MAX: usize = 480;

fn describe(program: &Xdp, partial: PartialChecksum) -> u32 {
    let info = program.info().expect("a loaded program has an info");
    let verified = info
        .verified_instruction_count()
        .expect("this kernel counts verified instructions");
    let size = info.size_translated().unwrap_or_default();
    println!("{partial:?}: {verified} instructions verified, {size} bytes translated");
    assert_eq!(info.name_as_str(), Some("lb"));
    verified
}

#[test]
fn the_program_passes_the_verifier_in_both_modes() {
    privileged!();
    for partial in [PartialChecksum::Finish, PartialChecksum::Keep] {
        let kernel = Kernel::load(partial).expect("the program loads");
        let program = kernel.program().expect("it is there");
        assert!(describe(program, partial) < VERIFIED_MAX);
    }
}

#[test]
fn the_program_leaves_room_on_the_stack() {
    let object = object().expect("the kernel object is built");
    let bytes = fs::read(object).expect("it is readable");
    let object = object::File::parse(&*bytes).expect("it is an object file");
    let program = object.section_by_name("xdp").expect("it has programs");
    let depth = stack_depth(program.data().expect("they have code"));
    println!("{depth} bytes of stack");
    assert!((1..=STACK_MAX).contains(&depth));
}

/// How far below its frame pointer a program reaches, in bytes. Instructions
/// are as in Linux' `Documentation/bpf/standardization/instruction-set.rst`.
fn stack_depth(code: &[u8]) -> usize {
    const FRAME_POINTER: u8 = 10;
    const LOAD: u8 = 1;
    const STORES: [u8; 2] = [2, 3];
    const ADD_IMMEDIATE: u8 = 0x07;
    const MOVE_REGISTER: u8 = 0xbf;
    let mut depth = 0;
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
        depth = depth.max(usize::try_from(-reach).unwrap_or(0));
        copy = (opcode == MOVE_REGISTER && from == FRAME_POINTER).then_some(to);
    }
    depth
}

#[test]
fn the_depth_of_a_stack_is_the_deepest_reach() {
    let code = [
        // *(u64 *)(r10 - 16) = r1; r2 = r10; r2 += -40; r0 = *(u8 *)(r10 - 8)
        [0x7b, 0x1a, 0xf0, 0xff, 0, 0, 0, 0],
        [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],
        [0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff],
        [0x71, 0xa0, 0xf8, 0xff, 0, 0, 0, 0],
    ];
    assert_eq!(stack_depth(code.as_flattened()), 40);
}
