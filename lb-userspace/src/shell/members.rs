//! The members that clusters told of themselves, in the place of the servers
//! in the file: kept in the run directory, so that an agent that takes over
//! knows whom the tables name before anybody has told it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::config::{Config, Member, PoolName};

const FILE_NAME: &str = "members.json";

type Lists = BTreeMap<PoolName, Vec<Member>>;

/// The members of all pools that follow a list.
#[derive(Clone, Debug)]
pub struct Members {
    path: PathBuf,
    lists: Lists,
    /// The last lists that could not be followed: not tried again.
    refused: Lists,
}

impl Members {
    /// What an agent before this one kept in `run_dir`. What cannot be read is
    /// told, and forgotten: the next list brings it back.
    #[must_use]
    pub fn load(run_dir: &Path) -> Self {
        let path = run_dir.join(FILE_NAME);
        let lists = read(&path).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "cannot read the members that were kept");
            Lists::new()
        });
        Self {
            path,
            lists,
            refused: Lists::new(),
        }
    }

    /// The file's configuration with the members that are known.
    #[must_use]
    pub fn in_force(&self, file: &Config) -> Config {
        let mut config = file.clone();
        for pool in config.pools.values_mut() {
            if let (Some(members), true) = (self.lists.get(&pool.name), pool.discover.is_some()) {
                pool.servers = pool.followed(members);
            }
        }
        config
    }

    /// Whether the pool follows just this list already, or could not.
    #[must_use]
    pub fn is_settled(&self, pool: &PoolName, members: &[Member]) -> bool {
        let lists = [&self.lists, &self.refused];
        let mut lists = lists.iter().filter_map(|lists| lists.get(pool));
        lists.any(|list| list == members)
    }

    /// Notes that the pool cannot follow this list.
    pub fn refuse(&mut self, pool: PoolName, members: Vec<Member>) {
        self.refused.insert(pool, members);
    }

    /// The pool has these members from now on.
    pub fn set(&mut self, pool: PoolName, members: Vec<Member>) {
        self.refused.remove(&pool);
        self.lists.insert(pool, members);
    }

    /// Keeps the members for the next agent. What cannot be written is told, and
    /// known all the same.
    pub fn save(&self) {
        if let Err(error) = self.write() {
            let path = self.path.display();
            warn!(%path, %error, "cannot keep the members for the next agent");
        }
    }

    /// Leaves nothing to the next agent.
    pub fn forget(&self) {
        // There may be none.
        let _ = fs::remove_file(&self.path);
    }

    /// Whole or not at all.
    fn write(&self) -> io::Result<()> {
        let aside = self.path.with_extension("new");
        let mut file = File::create(&aside)?;
        serde_json::to_writer(&mut file, &self.lists)?;
        file.flush()?;
        file.sync_all()?;
        fs::rename(aside, &self.path)
    }
}

fn read(path: &Path) -> io::Result<Lists> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Lists::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixtures;

    fn members() -> Vec<Member> {
        [1, 4]
            .map(|number| Member {
                name: format!("m{number}").into(),
                address: fixtures::server(number),
                check_address: fixtures::server(number),
            })
            .into()
    }

    fn followed(members: &Members) -> Vec<String> {
        let mut file = fixtures::write_and_read();
        for pool in file.pools.values_mut() {
            pool.discover = Some(fixtures::discover());
        }
        let config = members.in_force(&file);
        let servers = config.pools["kv"].servers.iter();
        servers.map(|server| server.name.to_string()).collect()
    }

    #[test]
    fn the_next_agent_knows_what_this_one_was_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = Members::load(directory.path());
        assert_eq!(followed(&first), ["n1", "n2", "n3"], "as the file says");
        first.set("kv".into(), members());
        first.save();
        assert!(first.is_settled(&"kv".into(), &members()));
        assert_eq!(followed(&first), ["n1", "m4"]);
        let second = Members::load(directory.path());
        assert_eq!(followed(&second), ["n1", "m4"]);
        let plain = second.in_force(&fixtures::write_and_read());
        assert_eq!(plain, fixtures::write_and_read(), "it follows no list");
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE_NAME), "{\"kv\":[{}]}").unwrap();
        let members = Members::load(directory.path());
        assert_eq!(followed(&members), ["n1", "n2", "n3"]);
    }
}
