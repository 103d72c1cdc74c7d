//! Every row holds in the kernel as it does on the host.

use anyhow::Result;
use lb_common::addr::Address;
use lb_common::nat::PartialChecksum;
use lb_common::verdict::{Fate, Reason};
use lb_tests::privileged;
use lb_tests::rows::family::Family;
use lb_tests::rows::kernel::{Kernel, shown_at_tc};
use lb_tests::rows::{Passage, Row, Way, ipv4, ipv6};

/// Runs every row; gives those that do not hold.
fn wrong(partial: PartialChecksum) -> Result<String> {
    let mut kernel = Kernel::load(partial)?;
    let wrong_of_ipv4 = wrong_of(&mut kernel, ipv4(partial))?;
    Ok(wrong_of_ipv4 + &wrong_of(&mut kernel, ipv6(partial))?)
}

fn wrong_of<A: Family>(kernel: &mut Kernel, rows: Vec<Row<A>>) -> Result<String> {
    let mut wrong = String::new();
    for row in rows {
        kernel.install(&row.given)?;
        match kernel.run(row.hook, &row.packet) {
            Ok(outcome) => {
                if let Some(difference) = outcome.difference(&row.expected) {
                    wrong += &format!("{}:\n{difference}", row.sentence);
                }
            }
            Err(error) => wrong += &format!("{}:\n  {error:#}\n", row.sentence),
        }
    }
    Ok(wrong)
}

/// Those of `rows` that can be shown to a program at TC, as TC shows what becomes
/// of them.
fn at_tc<A: Address>(mut rows: Vec<Row<A>>) -> Vec<Row<A>> {
    rows.retain(|row| shown_at_tc(&row.packet));
    for row in &mut rows {
        let passage = &mut row.expected.passage;
        *passage = passage.clone().at_tc();
        // Behind a tag that is in the packet's bytes, the kernel makes no room.
        let frame = passage.frame.as_ref();
        if tagged(&row.packet) && frame.is_some_and(|frame| frame.len() > row.packet.len()) {
            *passage = Passage {
                reason: Reason::Unfinished,
                fate: Fate::Drop,
                way: Way::None,
                frame: None,
            };
        }
    }
    rows
}

fn tagged(packet: &[u8]) -> bool {
    matches!(packet.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]))
}

#[test]
fn every_row_holds_in_the_kernel_at_tc() {
    privileged!();
    let wrong = || -> Result<String> {
        let mut kernel = Kernel::at_tc()?;
        let partial = PartialChecksum::Keep;
        let wrong_of_ipv4 = wrong_of(&mut kernel, at_tc(ipv4(partial)))?;
        Ok(wrong_of_ipv4 + &wrong_of(&mut kernel, at_tc(ipv6(partial)))?)
    };
    let wrong = wrong().expect("the rows run");
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_row_holds_in_the_kernel_in_native_mode() {
    privileged!();
    let wrong = wrong(PartialChecksum::Finish).expect("the rows run");
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_row_holds_in_the_kernel_in_generic_mode() {
    privileged!();
    let wrong = wrong(PartialChecksum::Keep).expect("the rows run");
    assert!(wrong.is_empty(), "{wrong}");
}
