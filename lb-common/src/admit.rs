//! New connections: who is let in, and the pair of pending flows that is made
//! for them.

use crate::addr::{Address, Port};
use crate::choose::{Choice, choose};
use crate::flow::{Direction, Flow, Owner, Progress, Tick};
use crate::limit::next_due;
use crate::select::{self, below};
use crate::service::{Listener, Options, Rule, Service, ServiceId, SourceKey};
use crate::steer::{Case, forward, send};
use crate::tables::{Affinity, FlowEntry, Inserted, SourceEntry, Tables};
use crate::target::{Hop, Mode, Target, TargetId};
use crate::verdict::{Reason, Verdict};
use crate::wire::frame::Segment;
use crate::wire::tcp::Flags;

/// How many source ports are tried for a new connection.
const PORT_ATTEMPTS: u32 = 17;

/// Leave to open a connection.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Grant {
    /// To whom.
    choice: Choice,
    /// The service.
    service: ServiceId,
    /// How it wants refusals.
    options: Options,
    /// Not 0: the client is to remain with its target.
    affine: u8,
}

/// A step of `steer`, for a segment that was found in neither table: whether
/// it may open a connection, and to whom. If not, there is a verdict.
#[inline(never)]
pub fn grant<A: Address, T: Tables<A>>(tables: &T, case: &mut Case<A>, now: Tick) -> bool {
    match leave_to_open(tables, case, now) {
        Ok(grant) => {
            case.grant = grant;
            true
        }
        Err(verdict) => !case.decided(Some(verdict)),
    }
}

#[inline(always)]
fn leave_to_open<A: Address, T: Tables<A>>(
    tables: &T,
    case: &mut Case<A>,
    now: Tick,
) -> Result<Grant, Verdict> {
    let segment = &case.segment;
    let flags = segment.flags;
    let listener = Listener::new(segment.key.destination, segment.key.destination_port);
    let service = tables.service(&listener);
    if !flags.open_connection()
        // Another CPU may have finished the handshake between our two look-ups.
        // Of a server's segments only a SYN+ACK that is sent again can be under
        // way just then: what else is not ours needs no third look-up.
        && (service.is_some() || flags.contain(Flags::SYN | Flags::ACK))
        && let Some(entry) = tables.flow(&segment.key)
    {
        let flow = entry.get();
        let Some(target) = tables.target(flow.target()) else {
            return Err(Verdict::of_nobody(Reason::UnknownFlow));
        };
        return Err(forward(case, &flow, &target, Reason::Handshake));
    }
    let Some(service) = service else {
        return Err(Verdict::of_nobody(Reason::NotOurs));
    };
    if !flags.open_connection() {
        let reason = if flags.intersect(Flags::RST) {
            Reason::StrayReset
        } else {
            Reason::UnknownFlow
        };
        return Err(Verdict::of_service(reason, service.id));
    }
    let choice = match let_in(tables, segment, &service) {
        Ok(()) => choose(tables, segment, &service, now),
        Err(reason) => Err(reason),
    };
    match choice {
        Ok(choice) => Ok(Grant {
            choice,
            service: service.id,
            options: service.options,
            affine: u8::from(service.affinity != 0),
        }),
        Err(reason) => Err(refusal(reason, service.id, service.options, TargetId::NONE)),
    }
}

/// A refusal of a new connection to `service`, as it wants it.
#[inline(always)]
fn refusal(reason: Reason, service: ServiceId, options: Options, target: TargetId) -> Verdict {
    let drop = match reason {
        Reason::NoTarget => Options::DROP_NO_TARGET,
        _ => Options::DROP_FULL,
    };
    Verdict {
        silent: options.contain(drop),
        target,
        ..Verdict::of_service(reason, service)
    }
}

/// The last step of `steer`: opens the connection that was granted.
#[inline(never)]
pub fn open<A: Address, T: Tables<A>>(tables: &T, case: &mut Case<A>, now: Tick) -> bool {
    let verdict = opened(tables, case, now);
    case.decided(Some(verdict))
}

/// Makes a pending pair for a new connection.
#[inline(always)]
fn opened<A: Address, T: Tables<A>>(tables: &T, case: &mut Case<A>, now: Tick) -> Verdict {
    let grant = case.grant;
    let refuse = |reason, target| refusal(reason, grant.service, grant.options, target);
    let Choice {
        id,
        generation,
        slot,
    } = grant.choice;
    let Some(target) = tables.target(id).filter(|target| target.installed()) else {
        return refuse(Reason::NoTarget, TargetId::NONE);
    };
    // The agent changes the slot first and raises the generation then. Who
    // read the old target and the new generation sees the slot changed here:
    // to a leader that was cut off, no connection is opened that survives the
    // cut. (That needs the loads in this order, as x86 does them. A table of
    // many slots is swapped as a whole instead, and this look cannot tell.)
    if slot != Choice::NO_SLOT && tables.slot(slot) != id {
        return refuse(Reason::NoTarget, TargetId::NONE);
    }
    let owner = Owner {
        target: id,
        generation,
    };
    case.draft.opened = tables.microseconds() as u32;
    case.draft.server_sequence = 0;
    case.draft.progress = Progress(0);
    if !reserve(tables, case, &target, owner, now) {
        return refuse(Reason::PortsExhausted, id);
    }
    let key = &case.segment.key;
    if case.grant.affine != 0 {
        let affinity = Affinity {
            target: id,
            generation,
            since: now,
        };
        tables.set_affinity(&SourceKey::new(key.source, grant.service), &affinity);
    }
    let (rewrite, hop) = (case.reply_key.reversed(), Hop::default());
    case.draft.flow = Flow::new(key, &rewrite, Direction::Forward, owner, hop, now);
    if tables.insert_pending(key, &case.draft) == Inserted::Yes {
        let Case {
            segment,
            rewrite,
            tunnel,
            draft,
            ..
        } = case;
        let way = (rewrite, tunnel);
        return send(segment, way, &draft.flow, &target, Reason::Opened);
    }
    // The same SYN on another CPU was quicker, or there is no room. It comes
    // again, and finds what the other one made.
    if target.mode().replies() {
        tables.remove_pending(&case.reply_key);
    }
    Verdict::of_flow(Reason::SynLost, &case.draft.flow, &target)
}

/// Whether the service takes another connection, and this one.
#[inline(always)]
fn let_in<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    service: &Service,
) -> Result<(), Reason> {
    let source = segment.key.source;
    if service.options.contain(Options::PREFIXES) {
        let allowed = match tables.rule(service.id, source) {
            Some(rule) => rule == Rule::ALLOW,
            None => !service.options.contain(Options::DENY_OTHERS),
        };
        if !allowed {
            return Err(Reason::Denied);
        }
    }
    if tables.load(TargetId::NONE).open >= tables.connections_max() {
        return Err(Reason::TableFull);
    }
    if service.max_connections != 0 && tables.service_load(service.id) >= service.max_connections {
        return Err(Reason::ServiceFull);
    }
    if service.limits_sources()
        && let Some(entry) = tables.source(&SourceKey::new(source, service.id))
    {
        let state = entry.get();
        if service.source_connections != 0 && state.open >= service.source_connections {
            return Err(Reason::SourceFull);
        }
        if service.source_interval != 0 {
            let now = tables.microseconds();
            let due = next_due(
                state.due,
                now,
                service.source_interval,
                service.source_burst,
            );
            entry.set_due(due.ok_or(Reason::SourceRate)?);
        }
    }
    Ok(())
}

/// Finds out what the segments of a new connection to `target` are rewritten
/// to: `reply_key` is the reverse of that. Where the server answers us, the
/// reply flow is in PENDING then: its key there reserves the source port.
/// Whether there was a port.
#[inline(always)]
fn reserve<A: Address, T: Tables<A>>(
    tables: &T,
    case: &mut Case<A>,
    target: &Target<A>,
    owner: Owner,
    now: Tick,
) -> bool {
    let Case {
        segment,
        back: hop,
        draft,
        reply_key,
        ..
    } = case;
    let hash = select::hash(&segment.key);
    *reply_key = segment.key.reversed();
    if !target.mode().replies() {
        return true;
    }
    reply_key.source = target.server;
    reply_key.source_port = target.port;
    for attempt in 0..PORT_ATTEMPTS {
        if target.mode() == Mode::Nat {
            // Another hash than the port's: the same one would offer only some
            // of each address' ports.
            let spread = select::finish(select::mix(hash, attempt));
            let index = target.first_snat as u32 + below(spread, target.snats as u32);
            let Some(snat) = tables.snat(index) else {
                return false;
            };
            let client = segment.key.source_port.number();
            let port = select::source_port(client, hash, attempt, snat.first, snat.count);
            let Some(port) = port else {
                return false;
            };
            reply_key.destination = snat.address;
            reply_key.destination_port = Port::new(port);
        } else if attempt > 0 {
            return false;
        }
        let back = segment.key.reversed();
        draft.flow = Flow::new(reply_key, &back, Direction::Reply, owner, *hop, now);
        if tables.insert_pending(reply_key, draft) != Inserted::Yes {
            continue;
        }
        // In this order: a promotion puts a key into FLOWS before it takes it
        // out of PENDING, so that a key is never in neither.
        if tables.flow(reply_key).is_none() {
            return true;
        }
        tables.remove_pending(reply_key);
    }
    false
}
