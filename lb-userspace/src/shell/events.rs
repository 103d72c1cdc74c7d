//! The ring buffer: what the kernel program tells.

use std::io;
use std::net::SocketAddr;

use aya::maps::{MapData, RingBuf};
use lb_common::event::{Event as KernelEvent, Urgency};
use lb_common::layout::read_from;
use lb_common::verdict::Reason;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::engine::{BackendFailure, Event};
use crate::shell::load::{Datapath, OpenError};
use crate::shell::tables::unmapped;

/// Follows the events of `datapath`: tells the engine what concerns it, and
/// the log the rest.
///
/// # Errors
/// The map is not there.
pub fn spawn(datapath: &mut Datapath, events: mpsc::Sender<Event>) -> Result<(), OpenError> {
    let missing = OpenError::Missing("EVENTS");
    let Ok(ring) = RingBuf::try_from(datapath.take_map("EVENTS")?) else {
        return Err(missing);
    };
    tokio::spawn(async move {
        if let Err(error) = follow(ring, &events).await {
            warn!(%error, "cannot follow the kernel's events any more");
        }
    });
    Ok(())
}

/// Prints what the kernel program logs, line by line.
///
/// # Errors
/// The program was built without its feature `log`.
#[cfg(feature = "kernel-log")]
pub fn print_kernel_log(datapath: &mut Datapath) -> Result<(), aya_log::Error> {
    let logger = aya_log::EbpfLogger::init(datapath.ebpf_mut())?;
    tokio::spawn(async move {
        // SAFETY: the logger owns its descriptor, always gives the same one,
        // and lives in the `AsyncFd` until that is dropped.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let Ok(mut logger) = logger else {
            return warn!("cannot follow the kernel's log");
        };
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}

async fn follow(ring: RingBuf<MapData>, events: &mpsc::Sender<Event>) -> io::Result<()> {
    // SAFETY: the ring owns its descriptor, always gives the same one, and
    // lives in the `AsyncFd` until that is dropped.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    let mut ring = ring.map_err(|refused| refused.into_parts().1)?;
    loop {
        let mut ready = ring.readable_mut().await?;
        while let Some(item) = ready.get_inner_mut().next() {
            let Some(event) = read_from::<KernelEvent>(&item) else {
                continue;
            };
            drop(item);
            note(&event);
            let failure = match Reason::from_number(event.reason) {
                Some(Reason::BackendRefused) => BackendFailure::Refused,
                Some(Reason::SynUnanswered) => BackendFailure::Unanswered,
                _ => continue,
            };
            let id = event.target;
            if events
                .send(Event::BackendFailed { id, failure })
                .await
                .is_err()
            {
                return Ok(());
            }
        }
        ready.clear_ready();
    }
}

fn note(event: &KernelEvent) {
    let Some(reason) = Reason::from_number(event.reason) else {
        return;
    };
    let from: SocketAddr = unmapped(event.key.source, event.key.source_port);
    let to: SocketAddr = unmapped(event.key.destination, event.key.destination_port);
    let (service, target) = (event.service.0, event.target.0);
    match reason.urgency() {
        Some(Urgency::Ordinary) | None => {
            debug!(%from, %to, service, target, reason = reason.name(), "connection");
        }
        Some(Urgency::Trouble | Urgency::BackendFailure) => {
            debug!(%from, %to, service, target, reason = reason.name(), "trouble");
        }
    }
}
