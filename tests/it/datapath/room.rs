//! What the host's memory always has and a NIC's buffer may lack: room for
//! another header in front of a packet.

use lb_common::nat::PartialChecksum;
use lb_common::target::Mode;
use lb_common::verdict::{Fate, Reason};
use lb_tests::privileged;
use lb_tests::rows::frame::{ACK, SYN, segment};
use lb_tests::rows::kernel::Kernel;
use lb_tests::rows::world::{FROM_CLIENT, World};

#[test]
fn what_a_tunnel_has_no_room_for_goes_nowhere_and_is_counted() {
    privileged!();
    let mut kernel = Kernel::load(PartialChecksum::Finish).expect("the program loads");
    let world = World::new().mode(Mode::Ipip);
    kernel.install(&world).expect("it fits");
    let syn = segment(FROM_CLIENT, SYN).numbers(1000, 0).build();
    let passage = kernel.pass_without_room(&syn).expect("the program runs");
    assert_eq!(
        (passage.fate, passage.reason),
        (Fate::Drop, Reason::Unfinished)
    );
    // It comes again, and by then there may be room.
    let passage = kernel.pass(&syn).expect("the program runs");
    assert_eq!(passage.reason, Reason::SynRetransmitted);
}

#[test]
fn an_answer_that_there_is_no_room_for_goes_nowhere_and_is_counted() {
    privileged!();
    let mut kernel = Kernel::load(PartialChecksum::Finish).expect("the program loads");
    let narrow = World::new()
        .mode(Mode::Ipip)
        .target(|target| target.mtu = 1);
    kernel.install(&narrow).expect("it fits");
    let request = segment(FROM_CLIENT, SYN).numbers(1000, 0).build();
    let passage = kernel
        .pass_without_room(&request)
        .expect("the program runs");
    assert_eq!(
        (passage.fate, passage.reason),
        (Fate::Drop, Reason::Unfinished)
    );
}

#[test]
fn what_stays_as_long_as_it_is_needs_no_room() {
    privileged!();
    let mut kernel = Kernel::load(PartialChecksum::Finish).expect("the program loads");
    kernel
        .install(&World::new().established())
        .expect("it fits");
    let request = segment(FROM_CLIENT, ACK).numbers(1001, 5001).build();
    let passage = kernel
        .pass_without_room(&request)
        .expect("the program runs");
    assert_eq!(
        (passage.fate, passage.reason),
        (Fate::Transmit, Reason::Forward)
    );
}
