//! Runs the checks of all servers: each at its turn (`schedule`), in a task of its own.
//!
//! One task waits for the turns of all. Where a thousand tasks sleep, each on a timer of
//! its own, all that a check needs has left the CPU's caches by the time that it wakes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::Name;
use super::check::Check;
use super::reports::Reports;
use super::schedule::Schedule;
use crate::engine::{CheckReport, Event, Outcome, Pace, RoleClaim};

/// The checks of one server, among all that there ever were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

/// One server, and how its checks went.
pub struct Subject {
    name: Name,
    check: Check,
    schedule: Schedule,
    /// How many good checks in a row settle that it is UP.
    rise: u32,
    stage: Stage,
    /// What it said last, and how often it had said the same before.
    said: Option<(Outcome, Option<RoleClaim>)>,
    repeated: u32,
}

/// What the checks of a server are at.
enum Stage {
    Waiting {
        due: Instant,
    },
    Running {
        task: AbortHandle,
        /// Whether somebody asked for it.
        asked: bool,
    },
}

impl Subject {
    /// A server that was not checked yet.
    pub fn new(name: Name, check: Check, schedule: Schedule, rise: u32) -> Self {
        let due = schedule.due();
        Self {
            name,
            check,
            schedule,
            rise,
            stage: Stage::Waiting { due },
            said: None,
            repeated: 0,
        }
    }

    /// Whether a report says that the server is well, as the `rise` before it did.
    fn is_settled_by(&mut self, report: &CheckReport) -> bool {
        let says = Some((report.outcome, report.role.clone()));
        self.repeated = match self.said == says {
            true => self.repeated.saturating_add(1),
            false => 0,
        };
        self.said = says;
        report.outcome.passed() && self.repeated >= self.rise
    }
}

enum Order {
    Add(Place, Box<Subject>),
    Remove(Vec<Place>, oneshot::Sender<()>),
    CheckNow(Place),
    SetPace(Place, Pace),
}

/// Gives orders to the task that runs the checks, which ends with this.
#[derive(Debug)]
pub struct Rota {
    orders: mpsc::UnboundedSender<Order>,
    given: u64,
}

impl Rota {
    /// Nobody is checked yet; reports will go to `reports`.
    pub fn start(thread: &Handle, reports: Arc<Reports>) -> Self {
        let (orders, given) = mpsc::unbounded_channel();
        thread.spawn(Runner::new(reports).run(given));
        Self { orders, given: 0 }
    }

    /// Has a server checked.
    pub fn add(&mut self, subject: Subject) -> Place {
        self.given += 1;
        let place = Place(self.given);
        self.give(Order::Add(place, Box::new(subject)));
        place
    }

    /// Ends the checks of these, and what of them is under way. There is no report of
    /// any of them after this.
    pub async fn remove(&self, places: Vec<Place>) {
        let (done, removed) = oneshot::channel();
        self.give(Order::Remove(places, done));
        // What comes where the task is gone is an error: so are the checks.
        let _ = removed.await;
    }

    /// Has a server checked at once, or again at once where a check is under way.
    pub fn check_now(&self, place: Place) {
        self.give(Order::CheckNow(place));
    }

    /// Has a server checked at another pace from now on.
    pub fn set_pace(&self, place: Place, pace: Pace) {
        self.give(Order::SetPace(place, pace));
    }

    fn give(&self, order: Order) {
        // The task ends with its runtime alone.
        let _ = self.orders.send(order);
    }
}

struct Runner {
    /// Those that are due together stand together.
    subjects: BTreeMap<Place, Subject>,
    /// All that wait, by when they are due: many at the same beat.
    waiting: BTreeMap<Instant, Vec<Place>>,
    running: JoinSet<(Place, CheckReport)>,
    reports: Arc<Reports>,
}

impl Runner {
    fn new(reports: Arc<Reports>) -> Self {
        Self {
            subjects: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: JoinSet::new(),
            reports,
        }
    }

    /// Checks until nobody gives orders any more.
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut alarm = Box::pin(sleep_until(Instant::now()));
        loop {
            if let Some((&due, _)) = self.waiting.first_key_value()
                && alarm.deadline() != due
            {
                alarm.as_mut().reset(due);
            }
            tokio::select! {
                () = &mut alarm, if !self.waiting.is_empty() => self.begin(Instant::now()),
                Some(ended) = self.running.join_next() => self.end(ended),
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
            }
        }
    }

    /// Begins the checks that are due.
    fn begin(&mut self, now: Instant) {
        while let Some(entry) = self.waiting.first_entry()
            && *entry.key() <= now
        {
            for place in entry.remove() {
                let Some(subject) = self.subjects.get_mut(&place) else {
                    continue;
                };
                let asked = subject.schedule.begin(now);
                let check = subject.check.clone();
                let task = self
                    .running
                    .spawn(async move { (place, check.run().await) });
                subject.stage = Stage::Running { task, asked };
            }
        }
    }

    fn end(&mut self, ended: Result<(Place, CheckReport), JoinError>) {
        // Who was removed meanwhile is not missed.
        let Ok((place, report)) = ended else {
            return;
        };
        let Some(subject) = self.subjects.get_mut(&place) else {
            return;
        };
        let asked = matches!(subject.stage, Stage::Running { asked: true, .. });
        let settled = subject.is_settled_by(&report);
        let news = !settled || asked || subject.schedule.is_urgent();
        subject.schedule.end(Instant::now());
        let (pool, server) = subject.name.clone();
        self.wait(place);
        let report = Event::Checked {
            pool,
            server,
            report,
        };
        match news {
            true => self.reports.put_news(report),
            false => self.reports.put(report),
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Add(place, subject) => {
                self.subjects.insert(place, *subject);
                self.wait(place);
            }
            Order::Remove(places, done) => {
                for place in places {
                    match self.subjects.remove(&place).map(|subject| subject.stage) {
                        Some(Stage::Waiting { due }) => self.strike(due, place),
                        Some(Stage::Running { task, .. }) => task.abort(),
                        None => {}
                    }
                }
                // Whoever ordered it may not wait any more.
                let _ = done.send(());
            }
            Order::CheckNow(place) => self.alter(place, Schedule::hurry),
            Order::SetPace(place, pace) => self.alter(place, |turns| turns.set_pace(pace)),
        }
    }

    fn alter(&mut self, place: Place, change: impl FnOnce(&mut Schedule)) {
        let Some(subject) = self.subjects.get_mut(&place) else {
            return;
        };
        change(&mut subject.schedule);
        if let Stage::Waiting { due } = subject.stage {
            self.strike(due, place);
            self.wait(place);
        }
    }

    /// Has it wait for its next turn.
    fn wait(&mut self, place: Place) {
        if let Some(subject) = self.subjects.get_mut(&place) {
            let due = subject.schedule.due();
            subject.stage = Stage::Waiting { due };
            self.waiting.entry(due).or_default().push(place);
        }
    }

    /// Has it wait no more.
    fn strike(&mut self, due: Instant, place: Place) {
        if let Entry::Occupied(mut entry) = self.waiting.entry(due) {
            entry.get_mut().retain(|&other| other != place);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }
}
