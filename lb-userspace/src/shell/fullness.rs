//! The notice of a table of connections that is full, or will be soon: said
//! once, and once more when it is over.

use lb_common::verdict::Reason;
use tracing::{info, warn};

use crate::shell::counters::Counters;
use crate::shell::flows::Sweep;

/// From how much of the table on it is nearly full, in percent.
const NEARLY_FULL: u64 = 90;

/// Below how much it has room again: a table at the brink is not to be
/// complained of each second.
const ROOM_AGAIN: u64 = 80;

/// How much room the table of connections has, as was said last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Room {
    #[default]
    Enough,
    Little,
    None,
}

impl Room {
    /// After a sweep that found so many percent of it in use; whether
    /// connections were refused since the one before.
    const fn after(self, percent: u64, refused: bool) -> Self {
        match self {
            _ if refused => Self::None,
            // Full it was, and nobody has come since.
            Self::None if percent >= ROOM_AGAIN => Self::None,
            Self::Little if percent >= ROOM_AGAIN => Self::Little,
            _ if percent >= NEARLY_FULL => Self::Little,
            Self::Enough | Self::Little | Self::None => Self::Enough,
        }
    }
}

/// What watches over the room for connections.
pub struct Watch {
    counters: Counters,
    room: Room,
    /// Connections that were refused for want of room, ever; none before the
    /// first look.
    refused: Option<u64>,
}

impl Watch {
    /// One that has said nothing yet.
    #[must_use]
    pub const fn new(counters: Counters) -> Self {
        Self {
            counters,
            room: Room::Enough,
            refused: None,
        }
    }

    /// Looks at what a sweep found, and says what there is to say.
    pub fn look(&mut self, sweep: &Sweep) {
        let refused = match self.counters.verdict(Reason::TableFull) {
            Ok(traffic) => traffic.packets,
            Err(error) => return warn!(%error, "cannot read how many connections were refused"),
        };
        let more = self.refused.is_some_and(|before| refused > before);
        self.refused = Some(refused);
        let room = self.room.after(sweep.full, more);
        if room == self.room {
            return;
        }
        self.room = room;
        let percent = sweep.full;
        match room {
            Room::Enough => info!(percent, "the table of connections has room again"),
            Room::Little => {
                warn!(
                    percent,
                    "the table of connections is nearly full: raise limits.connections"
                );
            }
            Room::None => {
                warn!(
                    percent,
                    "the table of connections is full, and new ones are refused: raise \
                     limits.connections"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_given_once_and_taken_back_when_there_is_room() {
        let mut room = Room::default();
        let table = [
            (50, false, Room::Enough),
            (89, false, Room::Enough),
            (90, false, Room::Little),
            (85, false, Room::Little),
            (100, true, Room::None),
            (100, false, Room::None),
            (95, true, Room::None),
            (80, false, Room::None),
            (79, false, Room::Enough),
            (85, false, Room::Enough),
            (95, false, Room::Little),
            (79, false, Room::Enough),
            // By the limit on what is open, or between two sweeps.
            (10, true, Room::None),
            (10, false, Room::Enough),
        ];
        for (percent, refused, expected) in table {
            room = room.after(percent, refused);
            assert_eq!(room, expected, "{percent} % {refused}");
        }
    }
}
