//! How long a packet takes, as information: what is measured on a busy
//! machine is no ground to fail a test.

use anyhow::Result;
use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lb_common::addr::Ipv4;
use lb_common::nat::PartialChecksum;
use lb_common::verdict::Reason;
use lb_tests::rows::frame::{ACK, Leg, segment};
use lb_tests::rows::kernel::Kernel;
use lb_tests::rows::world::{CLIENT, FROM_CLIENT, TARGET, VIP, World, key};
use lb_tests::{binaries, privileged};

/// The kernel feeds a program its own output, and each round takes a hop.
const HOPS: u8 = 255;
/// How often a packet is run that each round takes a hop of: more often, and
/// less often, so that what a call costs besides can be taken away.
const REPEATS: [u32; 2] = [50, 250];
/// How often one is run that remains what it is.
const MANY: u32 = 100_000;
/// A call takes about 20 ms, however few packets it runs.
const ROUNDS: usize = 31;

/// The middle one of many rounds.
fn median(mut round: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect::<Result<_>>()?;
    rounds.sort_unstable_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}

/// A world whose client's flow leads to itself: what comes out is what came
/// in but for a hop, and finds the same flow again.
fn circle() -> World {
    let mut world = World::new().established();
    let target = world.targets.get_mut(&TARGET).expect("it is there");
    target.hop.destination = FROM_CLIENT.to.into();
    target.hop.source = FROM_CLIENT.from.into();
    let (forward, mut flow) = world.pair().0;
    flow.rewrite = forward;
    (flow.address_delta, flow.port_delta) = lb_common::nat::deltas(&forward, &forward);
    world.connections.flows.insert(forward, flow);
    world
}

fn measure() -> Result<()> {
    let mut kernel = Kernel::load(PartialChecksum::Finish)?;
    kernel.install(&circle())?;
    let request = segment(FROM_CLIENT, ACK)
        .numbers(1001, 5001)
        .payload(&[7; 100])
        .ttl(HOPS)
        .build();
    let passage = kernel.pass(&request)?;
    assert_eq!(passage.reason, Reason::Forward);
    let other = Leg {
        destination: (VIP.0, 22),
        ..FROM_CLIENT
    };
    let not_ours = segment(other, ACK).build();
    let short = &not_ours[..42];

    let mut floor = Ebpf::load_file(binaries::lab_object()?)?;
    let program: &mut Xdp = floor
        .program_mut("lab_pass")
        .expect("it is there")
        .try_into()?;
    program.load()?;
    let floor = median(|| {
        let run = program.test_run(TestRunOptions {
            data_in: Some(&request),
            repeat: MANY,
            ..TestRunOptions::new()
        })?;
        Ok(run.duration.as_nanos() as f64)
    })?;
    let one = |packet: &[u8], repeat| Ok(kernel.time(packet, repeat)?.as_nanos() as f64);
    let short = median(|| one(short, MANY))?;
    let not_ours = median(|| one(&not_ours, MANY))?;
    let established = median(|| {
        let all = |repeat| Ok::<_, anyhow::Error>(one(&request, repeat)? * f64::from(repeat));
        let [few, many] = REPEATS;
        Ok((all(many)? - all(few)?) / f64::from(many - few))
    })?;
    println!(
        "ns a packet, medians: XDP_PASS alone {floor:.0}, a frame that is too short {short:.0}, \
         a segment that is not ours {not_ours:.0}, an established flow {established:.0}"
    );
    Ok(())
}

#[test]
fn what_a_packet_costs_is_measured() {
    privileged!();
    assert_eq!(circle().pair().0.0, key::<Ipv4>(CLIENT, VIP));
    measure().expect("the programs run");
}
