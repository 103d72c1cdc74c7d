//! Another configuration for a running agent: what can be taken over is, all of
//! it at once, and what cannot keeps the old one in force.
//!
//! The order: whoever may report about servers as they were is silent before
//! the engine hears of the change, so that no word about a server is taken for
//! one about another of its name.

use std::fmt;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc;
use tracing::{error, info};

use crate::api::{self, OverrideStatus};
use crate::config::{Clock, Config, LoadError, Mode, Name, room};
use crate::engine::{Event, Notice};
use crate::shell::admin::Refusal;
use crate::shell::layers::Layers;
use crate::shell::load::Families;
use crate::shell::neighbours::Followed;
use crate::shell::overrides;
use crate::shell::run::{Balancer, RunError, rests};

/// Why the configuration stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file is not valid.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// The file is valid, and asks for what only a start can do.
    #[error("{}: {}; nothing has changed", path.display(), Obstacles(obstacles))]
    NotWhileRunning {
        /// As the agent was given it.
        path: PathBuf,
        /// What, and what it takes. Never empty.
        obstacles: Vec<Obstacle>,
    },
}

/// Something that cannot change while the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The agent has to be started anew; it may leave the data path meanwhile.
    Restart(&'static str),
    /// The connection tables have to be made anew, which ends all connections.
    NewTables(&'static str),
}

struct Obstacles<'a>(&'a [Obstacle]);

impl fmt::Display for Obstacles<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |pick: fn(&Obstacle) -> Option<&'static str>| {
            let names: Vec<&str> = self.0.iter().filter_map(pick).collect();
            names.join(", ")
        };
        let restart = named(|one| match one {
            Obstacle::Restart(what) => Some(what),
            Obstacle::NewTables(_) => None,
        });
        let tables = named(|one| match one {
            Obstacle::NewTables(what) => Some(what),
            Obstacle::Restart(_) => None,
        });
        if !restart.is_empty() {
            write!(out, "needs a restart of the agent: {restart}")?;
        }
        if !restart.is_empty() && !tables.is_empty() {
            write!(out, "; ")?;
        }
        if !tables.is_empty() {
            write!(
                out,
                "needs a stop by SIGTERM and a start, which ends all connections: {tables}"
            )?;
        }
        Ok(())
    }
}

/// What keeps `new` from taking the place of `old`, where SLOTS has so many
/// entries.
fn obstacles(old: &Config, new: &Config, slots: usize) -> Vec<Obstacle> {
    let local = |config: &Config| {
        let mut services = config.services.values();
        services.any(|service| service.mode == Mode::Local)
    };
    let (had, has) = (Families::of(old), Families::of(new));
    let found = [
        (
            old.interfaces != new.interfaces,
            Obstacle::Restart("interface"),
        ),
        (old.hook != new.hook, Obstacle::Restart("hook")),
        (old.snat != new.snat, Obstacle::Restart("snat")),
        (
            local(new) && !local(old),
            Obstacle::Restart("the first service of mode \"local\""),
        ),
        (
            room::slots(new) as usize > slots,
            Obstacle::Restart("more services than SLOTS has room for"),
        ),
        (old.limits != new.limits, Obstacle::NewTables("limits")),
        (
            has.v4 && !had.v4,
            Obstacle::NewTables("the first service over IPv4"),
        ),
        (
            has.v6 && !had.v6,
            Obstacle::NewTables("the first service over IPv6"),
        ),
    ];
    let found = found.into_iter().filter(|(is, _)| *is);
    found.map(|(_, obstacle)| obstacle).collect()
}

/// What time it is.
pub(super) fn clock() -> Clock {
    Clock {
        now: Instant::now(),
        wall: SystemTime::now(),
    }
}

impl Balancer {
    /// Reads the file again, and goes on as it says from now on.
    ///
    /// # Errors
    /// The tables are out of reach. What is wrong with the file is no such error.
    pub(super) async fn reload(
        &mut self,
        happened: &mut mpsc::Receiver<Event>,
    ) -> Result<Result<api::Reloaded, ReloadError>, RunError> {
        let (layers, config) = match self.read() {
            Ok(read) => read,
            Err(error) => {
                // As `lb check` has it: a line for each problem.
                for line in error.to_string().lines() {
                    error!("not reloaded: {line}");
                }
                return Ok(Err(error));
            }
        };
        let reloaded = api::Reloaded {
            services: config.services.len(),
            pools: config.pools.len(),
            servers: config.pools.values().map(|pool| pool.servers.len()).sum(),
        };
        self.adopt(layers);
        self.configure(config, happened).await?;
        info!(
            services = reloaded.services,
            pools = reloaded.pools,
            servers = reloaded.servers,
            "reloaded the configuration"
        );
        Ok(Ok(reloaded))
    }

    /// These layers count from now on. Overrides that are gone are forgotten;
    /// what cannot be saved now is saved with the next change.
    fn adopt(&mut self, layers: Layers) {
        if layers.overrides != self.layers.overrides
            && let Err(error) = self.options.store().save(&layers.overrides)
        {
            error!(%error, "cannot save the overrides");
        }
        self.layers = layers;
    }

    /// The layers with the file as it is now, and what they come to.
    fn read(&self) -> Result<(Layers, Config), ReloadError> {
        let mut layers = Layers {
            file: self.options.load()?,
            ..self.layers.clone()
        };
        let dropped = layers.overrides.prune(&layers.base());
        let config = layers.in_force(clock());
        let obstacles = obstacles(&self.config, &config, self.tables.slots());
        if obstacles.is_empty() {
            overrides::tell(dropped);
            return Ok((layers, config));
        }
        let path = self.options.config_path.clone();
        Err(ReloadError::NotWhileRunning { path, obstacles })
    }

    /// Changes something until it is cleared.
    ///
    /// # Errors
    /// The tables are out of reach. A change that is refused is no such error.
    pub(super) async fn change(
        &mut self,
        change: api::Change,
        happened: &mut mpsc::Receiver<Event>,
    ) -> Result<Result<api::Changed, Refusal>, RunError> {
        let (base, mut overrides) = (self.layers.base(), self.layers.overrides.clone());
        let concerned = match overrides.take(&base, change, clock()) {
            Ok(concerned) => concerned,
            Err(why) => return Ok(Err(Refusal::Invalid(format!("lb: {why}")))),
        };
        let config = overrides.apply(&base, clock());
        let obstacles = obstacles(&self.config, &config, self.tables.slots());
        if !obstacles.is_empty() {
            let why = format!("lb: {}; nothing has changed", Obstacles(&obstacles));
            return Ok(Err(Refusal::Invalid(why)));
        }
        if let Err(error) = self.options.store().save(&overrides) {
            let why = format!("cannot save the override, nothing has changed: {error}");
            return Ok(Err(Refusal::Failed(why)));
        }
        self.layers.overrides = overrides;
        let said = |(pool, server): Name| {
            let mut all = self.layers.overrides.iter();
            let found = all.find(|((p, s), _)| (p, s) == (&pool, &server));
            let what = found.map(|(_, one)| one.to_string());
            OverrideStatus { pool, server, what }
        };
        let servers: Vec<OverrideStatus> = concerned.into_iter().map(said).collect();
        for OverrideStatus { pool, server, what } in &servers {
            let what = what.as_deref().unwrap_or("no override");
            info!(%pool, %server, what, "an operator changed a server");
        }
        self.configure(config, happened).await?;
        Ok(Ok(api::Changed { servers }))
    }

    /// Goes on with the members that clusters told of themselves.
    ///
    /// # Errors
    /// The tables are out of reach.
    pub(super) async fn follow(
        &mut self,
        happened: &mut mpsc::Receiver<Event>,
    ) -> Result<(), RunError> {
        while let Some((pool, members)) = self.told.pop_first() {
            let Layers {
                file,
                members: known,
                ..
            } = &self.layers;
            if known.is_settled(file, &pool, &members) {
                continue;
            }
            let mut layers = self.layers.clone();
            let file = &layers.file;
            layers.members.set(file, pool.clone(), members.clone());
            let dropped = layers.overrides.prune(&layers.base());
            let config = layers.in_force(clock());
            let obstacles = obstacles(&self.config, &config, self.tables.slots());
            if !obstacles.is_empty() {
                let why = Obstacles(&obstacles).to_string();
                error!("pool {pool}: cannot follow its members: {why}");
                self.layers.members.refuse(pool, members);
                continue;
            }
            overrides::tell(dropped);
            layers.members.save();
            self.adopt(layers);
            let members = members.into_iter().map(|member| member.name);
            let members = members.collect();
            info!("{}", Notice::Members { pool, members });
            self.configure(config, happened).await?;
        }
        Ok(())
    }

    /// Goes on as `config` says from now on.
    ///
    /// # Errors
    /// The tables are out of reach.
    pub(super) async fn configure(
        &mut self,
        config: Config,
        happened: &mut mpsc::Receiver<Event>,
    ) -> Result<(), RunError> {
        self.probes.retire(&config).await;
        let more = std::iter::from_fn(|| happened.try_recv().ok());
        let before: Vec<Event> = self.probes.take_reports().into_iter().chain(more).collect();
        let actions = self.agent.handle_all(Instant::now(), before);
        self.carry_out(actions).await?;
        let event = Event::Configured {
            config: Box::new(config.clone()),
        };
        let actions = self.agent.handle(Instant::now(), event);
        self.probes.begin(&config);
        self.followed.send_replace(Followed::of(&config));
        self.config = config;
        self.carry_out(actions).await?;
        self.keeper.set_rests(rests(&self.config, &self.agent));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        interface = "eth0"
        [pool.p]
        check = { type = "tcp" }
        server = [{ name = "n1", address = "10.0.0.11:80" }]
        [service.s]
        listen = "10.0.0.100:80"
        pool = "p"
        route = "any"
    "#;

    fn config(text: &str) -> Config {
        Config::parse(text).unwrap()
    }

    #[test]
    fn what_needs_a_start_is_named() {
        let old = config(FILE);
        let slots = room::slots(&old) as usize;
        let with = |from: &str, to: &str| obstacles(&old, &config(&FILE.replace(from, to)), slots);
        let restart = |what| vec![Obstacle::Restart(what)];
        let tables = |what| vec![Obstacle::NewTables(what)];
        assert_eq!(with("n1", "n2"), []);
        assert_eq!(with("\"any\"", "\"any\"\nalgorithm = \"random\""), []);
        assert_eq!(with("eth0", "eth1"), restart("interface"));
        let hook = "\"eth0\"\nhook = \"tc\"";
        assert_eq!(with("\"eth0\"", hook), restart("hook"));
        let snat = "\"eth0\"\nsnat = { ports = \"2000-3000\" }";
        assert_eq!(with("\"eth0\"", snat), restart("snat"));
        let limits = "\"eth0\"\nlimits = { connections = 1000 }";
        assert_eq!(with("\"eth0\"", limits), tables("limits"));
        let local = "\"any\"\nmode = \"local\"";
        let first = restart("the first service of mode \"local\"");
        assert_eq!(with("\"any\"", local), first);
        let v6 = "[fd00::1]:80";
        let v6 = FILE
            .replace("10.0.0.11:80", v6)
            .replace("10.0.0.100:80", "[fd00::100]:80");
        let first = tables("the first service over IPv6");
        assert_eq!(obstacles(&old, &config(&v6), slots), first);
        let full = restart("more services than SLOTS has room for");
        assert_eq!(obstacles(&old, &old, slots - 1), full);
    }

    #[test]
    fn the_refusal_says_what_each_obstacle_takes() {
        let error = ReloadError::NotWhileRunning {
            path: "lb.toml".into(),
            obstacles: vec![
                Obstacle::Restart("hook"),
                Obstacle::NewTables("limits"),
                Obstacle::Restart("snat"),
            ],
        };
        assert_eq!(
            error.to_string(),
            "lb.toml: needs a restart of the agent: hook, snat; needs a stop by SIGTERM and a start, \
             which ends all connections: limits; nothing has changed"
        );
    }
}
