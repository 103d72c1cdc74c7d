//! How much stack the kernel programs take along their deepest chains of calls.

use lb_tests::bench::stack::chains;
use lb_tests::rows::kernel::object;

/// The verifier gives up beyond 512 bytes.
const STACK_MAX: usize = 512;

#[test]
fn the_programs_leave_room_on_the_stack() {
    let object = object().expect("the kernel object is built");
    let chains = chains(&object).expect("it can be read");
    assert!(
        chains
            .iter()
            .any(|chain| chain.program == "lb" && chain.calls.len() > 2)
    );
    for chain in chains {
        println!(
            "{}: {} bytes of stack: {}",
            chain.program,
            chain.depth,
            chain.calls.join(" > ")
        );
        assert!(chain.depth <= STACK_MAX, "{}", chain.program);
    }
}
