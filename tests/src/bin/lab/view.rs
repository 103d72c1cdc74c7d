//! What the terminal shows: lines that stay, and below them a table that is
//! drawn again in place. Where the output is no terminal, only lines: the
//! table's, when its facts change.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Instant;

use lb_tests::balancer::{READ_SERVICE, Status, WRITE_SERVICE};
use lb_tests::cluster::RaftCluster;

/// While there is no agent, and while it hangs.
const SILENCE: &str = "lb does not answer";

/// The screen, from where we are now downwards.
pub struct View {
    terminal: bool,
    /// Lines of the table on the screen.
    drawn: usize,
    /// The last line printed because of a change.
    last: String,
    begun: Instant,
}

impl View {
    pub fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            drawn: 0,
            last: String::new(),
            begun: Instant::now(),
        }
    }

    /// Prints a line that stays, with the time since the start.
    pub fn say(&mut self, line: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let erase = self.erase();
        self.drawn = 0;
        print(&format!("{erase}[{seconds:6.1} s] {line}\n"));
    }

    /// Shows the state of things.
    pub fn show(&mut self, scene: &Scene) {
        self.draw(&scene.table(), scene.summary());
    }

    /// Shows that nobody tells the state of things.
    pub fn show_silence(&mut self) {
        self.draw(&format!("\n  {SILENCE}\n"), SILENCE.to_owned());
    }

    /// On a terminal the table in place, else a line when it is another one.
    fn draw(&mut self, table: &str, summary: String) {
        if self.terminal {
            let erase = self.erase();
            self.drawn = table.lines().count();
            print(&format!("{erase}{table}"));
        } else if summary != self.last {
            self.say(&summary);
            self.last = summary;
        }
    }

    /// What removes the table from the screen.
    fn erase(&self) -> String {
        match self.drawn {
            0 => String::new(),
            // To the first column of the line so far up; clear from there.
            lines => format!("\x1b[{lines}F\x1b[J"),
        }
    }
}

/// A closed pipe is no reason to panic: Ctrl-C follows.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The facts of one moment.
pub struct Scene {
    servers: Vec<ServerLine>,
    leader: Option<String>,
    write: Vec<String>,
    read: Vec<String>,
    problem: Option<String>,
}

struct ServerLine {
    name: String,
    state: String,
    role: String,
    pid: Option<u32>,
    write_connections: u64,
    read_connections: u64,
}

impl Scene {
    pub fn new(status: &Status, cluster: &RaftCluster) -> Self {
        let connections = |service: &str, server: &str| {
            status
                .services
                .iter()
                .filter(|present| present.name == service)
                .flat_map(|service| &service.targets)
                .filter(|target| target.server == server)
                .map(|target| target.connections)
                .sum()
        };
        let servers = status.pools.iter().flat_map(|pool| &pool.servers);
        let servers = servers.zip(cluster.ids()).map(|(server, id)| ServerLine {
            name: server.name.clone(),
            state: server.state.clone(),
            role: server.role.clone(),
            pid: cluster.pid(id),
            write_connections: connections(WRITE_SERVICE, &server.name),
            read_connections: connections(READ_SERVICE, &server.name),
        });
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        Self {
            servers: servers.collect(),
            leader: status.pools.iter().find_map(|pool| pool.leader.clone()),
            write: owned(status.targets(WRITE_SERVICE)),
            read: owned(status.targets(READ_SERVICE)),
            problem: status.pools.iter().find_map(|pool| pool.problem.clone()),
        }
    }

    fn table(&self) -> String {
        let mut table = format!(
            "\n  {:<8}{:<8}{:<10}{:<9}{:>13}{:>13}\n",
            "node", "state", "role", "pid", "write conns", "read conns"
        );
        for line in &self.servers {
            let ServerLine {
                name,
                state,
                role,
                pid,
                write_connections,
                read_connections,
            } = line;
            let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let _ = writeln!(
                table,
                "  {name:<8}{state:<8}{role:<10}{pid:<9}{write_connections:>13}{read_connections:>13}"
            );
        }
        let _ = writeln!(
            table,
            "  writes go to {}, reads to {}{}",
            names(&self.write),
            names(&self.read),
            self.complaint()
        );
        table
    }

    /// Without the counts: those change all the time.
    fn summary(&self) -> String {
        let servers: Vec<String> = self
            .servers
            .iter()
            .map(|server| format!("{} {} {}", server.name, server.state, server.role))
            .collect();
        format!(
            "leader {}; writes to {}, reads to {}; {}{}",
            self.leader.as_deref().unwrap_or("none"),
            names(&self.write),
            names(&self.read),
            servers.join(", "),
            self.complaint()
        )
    }

    fn complaint(&self) -> String {
        self.problem
            .as_ref()
            .map_or_else(String::new, |problem| format!(" ({problem})"))
    }
}

fn names(targets: &[String]) -> String {
    match targets {
        [] => "nobody".to_owned(),
        targets => targets.join(" and "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> Scene {
        let server = |name: &str, role: &str, pid| ServerLine {
            name: name.into(),
            state: "UP".into(),
            role: role.into(),
            pid,
            write_connections: 4,
            read_connections: 0,
        };
        Scene {
            servers: vec![
                server("n1", "leader", Some(71)),
                server("n2", "replica", None),
            ],
            leader: Some("n1".into()),
            write: vec!["n1".into()],
            read: vec!["n2".into()],
            problem: None,
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_node() {
        let table = scene().table();
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[2], ["n1", "UP", "leader", "71", "4", "0"]);
        assert_eq!(lines[3], ["n2", "UP", "replica", "-", "4", "0"]);
        assert!(table.ends_with("writes go to n1, reads to n2\n"));
    }

    #[test]
    fn the_summary_changes_with_roles_and_not_with_connections() {
        let summary = scene().summary();
        let mut busy = scene();
        busy.servers[0].write_connections = 5;
        assert_eq!(busy.summary(), summary);
        let mut headless = scene();
        headless.write.clear();
        headless.leader = None;
        headless.problem = Some("two servers claim to lead".into());
        assert_eq!(
            headless.summary(),
            "leader none; writes to nobody, reads to n2; n1 UP leader, n2 UP replica \
             (two servers claim to lead)"
        );
    }
}
