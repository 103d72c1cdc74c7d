//! The programs pass the verifier, and what that costs.

use aya::programs::Xdp;
use lb_common::nat::PartialChecksum;
use lb_tests::bench::datapath::verified;
use lb_tests::privileged;
use lb_tests::rows::kernel::Kernel;

/// The verifier gives up at a million instructions. Ours should stay far
/// below: a longer way is more to load, and a sign of copies.
const VERIFIED_MAX: u32 = 500_000;

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
fn every_program_passes_the_verifier_far_below_its_limit() {
    privileged!();
    let programs = verified().expect("the programs load");
    let names: Vec<&str> = programs.iter().map(|(name, _)| name.as_str()).collect();
    let all = ["lb", "lb_egress", "lb_reap_v4", "lb_reap_v6", "lb_tc"];
    assert_eq!(names, all);
    for (name, instructions) in programs {
        println!("{name}: {instructions} instructions verified");
        assert!(instructions < VERIFIED_MAX, "{name}: {instructions}");
    }
}
