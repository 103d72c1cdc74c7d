//! Every row holds in the kernel as it does on the host.

use anyhow::Result;
use lb_common::nat::PartialChecksum;
use lb_tests::privileged;
use lb_tests::rows::family::Family;
use lb_tests::rows::kernel::Kernel;
use lb_tests::rows::{Row, ipv4, ipv6};

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
