//! Random histories, and what must hold at every step of each.
//!
//! The world has three servers that may say anything in any order, asked or
//! not, ways that come and go, sweeps, clients, and an agent that is told of another
//! configuration, or killed in the middle of a plan and started again. The kernel is a model: tables, generations,
//! flows. After every single operation of every plan:
//!
//! - all write slots together name one server at most;
//! - no slot names a target that is not installed, or does not accept;
//! - behind every table stand the targets that it names;
//! - no id changes its server while a flow holds it.
//!
//! And after every event:
//!
//! - the writer, if there is one, is the only server whose last word is a
//!   claim of the highest term that was vouched for since the agent started;
//! - before every server has been heard, it is the one that was adopted;
//! - no connection of a write service is alive on any other server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_common::target::TargetId;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use self::record::Record;
use super::fixtures::*;
use super::{Action, Agent, Event, Installed, Op, TICK};
use crate::config::{Access, Algorithm, Config, Route};

mod record;

const MOMENT: Duration = Duration::from_millis(2);

#[derive(Clone, Debug)]
enum Step {
    Report(u8, Says),
    /// The server tells by itself.
    Line(u8, Says),
    WayFound(u8),
    WayLost(u8),
    Wait(u8),
    Connect,
    Disconnect,
    Sweep,
    /// The file has changed, and the agent is told.
    Reload,
    /// The agent dies after this many operations of its next plan.
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let term = prop_oneof![1 => Just(None), 4 => (1..6_u64).prop_map(Some)];
    let says = prop_oneof![
        4 => term.clone().prop_map(Says::Leads),
        4 => term.clone().prop_map(Says::Follows),
        1 => term.clone().prop_map(Says::Neither),
        2 => Just(Says::Nothing),
        1 => Just(Says::Refuses),
        1 => term.clone().prop_map(Says::LeadsUnready),
        1 => term.clone().prop_map(Says::LeadsStuck),
    ];
    let told = prop_oneof![
        term.clone().prop_map(Says::Leads),
        term.clone().prop_map(Says::Follows),
        term.clone().prop_map(Says::Neither),
    ];
    let number = || 1..=3_u8;
    prop_oneof![
        12 => (number(), says).prop_map(|(number, says)| Step::Report(number, says)),
        3 => (number(), told).prop_map(|(number, says)| Step::Line(number, says)),
        3 => number().prop_map(Step::WayFound),
        1 => number().prop_map(Step::WayLost),
        1 => (1..12_u8).prop_map(Step::Wait),
        3 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Sweep),
        1 => Just(Step::Reload),
        1 => (0..5_usize).prop_map(Step::Crash),
    ]
}

/// A connection: whose it is, and the generation that it was opened in.
#[derive(Clone, Copy, Debug)]
struct Flow {
    id: TargetId,
    server: SocketAddr,
    generation: u32,
}

#[derive(Default)]
struct Kernel {
    tables: Installed,
    generations: BTreeMap<TargetId, u32>,
    flows: Vec<Flow>,
}

impl Kernel {
    fn generation(&self, id: TargetId) -> u32 {
        self.generations.get(&id).copied().unwrap_or(0)
    }

    fn writers(&self, config: &Config) -> BTreeSet<SocketAddr> {
        let services = config.services.values();
        services
            .filter(|service| service.route == Route::Leader)
            .flat_map(|service| self.tables.selectable(service.listen))
            .map(|id| self.tables.targets[&id].server)
            .collect()
    }

    fn apply(&mut self, config: &Config, op: &Op) -> TestCaseResult {
        if let Op::Cut { id } = op {
            *self.generations.entry(*id).or_default() += 1;
        }
        if let Op::ClearTarget { id } = op {
            prop_assert!(self.flows.iter().all(|flow| flow.id != *id), "{:?}", op);
        }
        self.tables.apply(op);
        for &listen in self.tables.services.keys() {
            let selectable = self.tables.selectable(listen);
            for id in &selectable {
                let target = self.tables.targets.get(id);
                prop_assert!(target.is_some_and(|one| one.accepts), "after {:?}", op);
            }
            let slots = self.tables.slots_of(listen).iter().copied();
            let named: BTreeSet<_> = slots.filter(|&id| id != TargetId::NONE).collect();
            prop_assert_eq!(named, selectable, "after {:?}", op);
        }
        let writers = self.writers(config);
        prop_assert!(writers.len() <= 1, "{:?} after {:?}", writers, op);
        for flow in &self.flows {
            let server = self
                .tables
                .targets
                .get(&flow.id)
                .map(|target| target.server);
            prop_assert_eq!(server, Some(flow.server), "after {:?}", op);
        }
        Ok(())
    }

    /// One new connection to every target that may be given one.
    fn connect(&mut self) {
        let services = self.tables.services.keys();
        let ids: Vec<TargetId> = services
            .flat_map(|&listen| self.tables.selectable(listen))
            .collect();
        for id in ids {
            let (server, generation) = (self.tables.targets[&id].server, self.generation(id));
            self.flows.push(Flow {
                id,
                server,
                generation,
            });
        }
    }

    /// Reaps what is stale, and counts what there was.
    fn sweep(&mut self) -> BTreeMap<TargetId, u64> {
        let mut open = BTreeMap::new();
        for flow in &self.flows {
            *open.entry(flow.id).or_default() += 1;
        }
        let generations = self.generations.clone();
        let current = |id: TargetId| generations.get(&id).copied().unwrap_or(0);
        self.flows
            .retain(|flow| flow.generation == current(flow.id));
        open
    }
}

struct World {
    config: Config,
    /// What the file says when it is read again.
    edited: Option<Config>,
    agent: Agent,
    kernel: Kernel,
    record: Record,
    now: Instant,
    crash_after: Option<usize>,
}

impl World {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        let (agent, actions) = Agent::new(config.clone(), Installed::default(), now);
        let mut world = Self {
            config,
            edited: None,
            agent,
            kernel: Kernel::default(),
            record: Record::default(),
            now,
            crash_after: None,
        };
        world.execute(actions).unwrap();
        world
    }

    fn execute(&mut self, actions: Vec<Action>) -> TestCaseResult {
        let mut actions = actions;
        loop {
            let plans = actions.into_iter().filter_map(|action| match action {
                Action::Apply(ops) => Some(ops),
                Action::CheckNow { .. }
                | Action::Pace { .. }
                | Action::Hold(_)
                | Action::Inquire { .. }
                | Action::Follow { .. }
                | Action::Notice(_) => None,
            });
            let plan: Vec<Op> = plans.flatten().collect();
            let lives_for = match self.crash_after {
                Some(count) if !plan.is_empty() => count,
                _ => plan.len(),
            };
            for op in plan.iter().take(lives_for) {
                self.kernel.apply(&self.config, op)?;
            }
            if lives_for >= plan.len() {
                break;
            }
            self.crash_after = None;
            self.record = Record::after(self.kernel.writers(&self.config));
            self.read_file();
            // A half that was filled and never flipped to is nobody's.
            let tables = &mut self.kernel.tables;
            let in_use: BTreeSet<u32> =
                tables.services.values().map(|one| one.first_slot).collect();
            tables.slots.retain(|first, _| in_use.contains(first));
            let installed = tables.clone();
            (self.agent, actions) = Agent::new(self.config.clone(), installed, self.now);
        }
        prop_assert_eq!(self.agent.installed(), &self.kernel.tables);
        self.check()
    }

    fn read_file(&mut self) {
        if let Some(edited) = &mut self.edited {
            std::mem::swap(&mut self.config, edited);
        }
    }

    fn check(&self) -> TestCaseResult {
        let writers = self.kernel.writers(&self.config);
        self.record.check(&writers)?;
        let services = self.config.services.values();
        for service in services.filter(|service| service.route == Route::Leader) {
            let Some(entry) = self.kernel.tables.services.get(&service.listen) else {
                continue;
            };
            for flow in &self.kernel.flows {
                let target = &self.kernel.tables.targets[&flow.id];
                let alive = flow.generation == self.kernel.generation(flow.id);
                // A way that is lost cuts nobody off; a leader that is does.
                let leads = self.agent_leader() == Some(target.server);
                prop_assert!(
                    target.service != entry.id
                        || !alive
                        || leads
                        || writers.contains(&target.server),
                    "{:?} is alive",
                    flow
                );
            }
        }
        Ok(())
    }

    fn agent_leader(&self) -> Option<SocketAddr> {
        let status = self.agent.status(self.now);
        let pool = &status.pools[0];
        let leader = pool.leader.as_ref()?;
        pool.servers
            .iter()
            .find(|server| server.name == *leader)
            .map(|server| server.address)
    }

    fn sees(&mut self, event: Event) -> TestCaseResult {
        let actions = self.agent.handle(self.now, event);
        self.execute(actions)
    }

    fn step(&mut self, step: &Step) -> TestCaseResult {
        match *step {
            Step::Report(number, says) => {
                // Longer than a check takes: it began after all lines before.
                self.now += MOMENT;
                let leads = self.agent_leader() == Some(server(number));
                self.record.note(number, says, leads);
                self.sees(checked(self.now, number, says))
            }
            Step::Line(number, says) => {
                let leads = self.agent_leader() == Some(server(number));
                self.record.note_line(number, says, leads);
                self.sees(line(number, says))
            }
            Step::WayFound(number) => self.sees(resolved(number)),
            Step::WayLost(number) => self.sees(Event::Resolved {
                server: server(number).ip(),
                route: None,
            }),
            Step::Wait(ticks) => {
                for _ in 0..ticks {
                    // Anew at each tick: an agent that is killed on the way
                    // leaves its successor the rest of the time.
                    self.record.wait();
                    self.now += TICK;
                    self.sees(Event::Tick)?;
                }
                Ok(())
            }
            Step::Connect => {
                self.kernel.connect();
                Ok(())
            }
            Step::Disconnect => {
                self.kernel.flows.clear();
                Ok(())
            }
            Step::Sweep => {
                let open = self.kernel.sweep();
                self.sees(Event::Swept { open })
            }
            Step::Reload => {
                self.read_file();
                self.sees(Event::Configured {
                    config: Box::new(self.config.clone()),
                })
            }
            Step::Crash(after) => {
                self.crash_after = Some(after);
                Ok(())
            }
        }
    }
}

fn histories(length: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..length)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn two_write_services_in_any_history(steps in histories(80)) {
        let services = [service("a", 8080, Route::Leader), service("b", 8081, Route::Leader)];
        let mut world = World::new(config(&services));
        for step in &steps {
            world.step(step)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_write_and_a_read_service_in_any_history(steps in histories(60)) {
        let services = [service("a", 8080, Route::Leader), service("b", 8081, Route::ReplicasFirst)];
        let mut world = World::new(config(&services));
        for step in &steps {
            world.step(step)?;
        }
    }

    /// Every look at the file finds other settings of the read service than
    /// the one before it.
    #[test]
    fn a_read_service_whose_settings_change_in_any_history(steps in histories(60)) {
        let write = service("a", 8080, Route::Leader);
        let before = service("b", 8081, Route::ReplicasFirst);
        let mut after = before.clone();
        after.algorithm = Algorithm::LeastConnections;
        after.max_connections = Some(10);
        after.rules = [("10.0.0.0/8".parse().unwrap(), Access::Allow)].into();
        let mut edited = config(&[write.clone(), after]);
        let pool = edited.pools.values_mut().next().unwrap();
        for (server, weight) in pool.servers.iter_mut().zip([5, 3, 2]) {
            server.weight = weight;
        }
        let mut world = World::new(config(&[write, before]));
        world.edited = Some(edited);
        for step in &steps {
            world.step(step)?;
        }
        let tables = &world.kernel.tables;
        for (listen, entry) in &tables.services {
            let mut services = world.config.services.values();
            let service = services.find(|service| service.listen == *listen).unwrap();
            prop_assert_eq!(entry.settings.algorithm, service.algorithm);
            prop_assert_eq!(entry.settings.max_connections, service.max_connections);
            prop_assert_eq!(entry.settings.rules, service.unmatched());
            let rules = tables.rules.keys().filter(|(id, _)| *id == entry.id);
            prop_assert_eq!(rules.count(), service.rules.len());
        }
    }

    /// After whatever happened, a cluster in order is served in order.
    #[test]
    fn after_any_history_a_sound_cluster_is_served(steps in histories(40)) {
        let mut world = World::new(write_and_read());
        for step in &steps {
            world.step(step)?;
        }
        world.crash_after = None;
        for number in 1..=3 {
            world.step(&Step::WayFound(number))?;
        }
        for _ in 0..2 {
            world.step(&Step::Report(1, Says::Leads(Some(9))))?;
            world.step(&Step::Report(2, Says::Follows(Some(9))))?;
            world.step(&Step::Report(3, Says::Follows(Some(9))))?;
        }
        let serving = |port| {
            let ids = world.kernel.tables.selectable(vip(port)).into_iter();
            ids.map(|id| world.kernel.tables.targets[&id].server).collect::<BTreeSet<_>>()
        };
        prop_assert_eq!(serving(8080), BTreeSet::from([server(1)]));
        prop_assert_eq!(serving(8081), BTreeSet::from([server(2), server(3)]));
    }
}
