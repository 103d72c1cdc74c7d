//! The members that clusters told of themselves, in the place of the servers
//! in the file: kept in the run directory, so that an agent that takes over
//! knows whom the tables name before anybody has told it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::config::{Config, Member, Pool, PoolName, Server};

const FILE_NAME: &str = "members.json";

/// A list that was told.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Told {
    members: Vec<Member>,
    /// Where the file had the pool's servers at that time.
    file: BTreeSet<SocketAddr>,
}

type Lists = BTreeMap<PoolName, Told>;

/// The members of all pools that follow a list.
#[derive(Clone, Debug)]
pub struct Members {
    path: PathBuf,
    lists: Lists,
    /// The last lists that could not be followed: not tried again.
    refused: BTreeMap<PoolName, Vec<Member>>,
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
            refused: BTreeMap::new(),
        }
    }

    /// The file's configuration with the members that are known.
    ///
    /// A list is as good as the file that it was told to. Where that names other
    /// servers since, they count beside the members until the list is told anew:
    /// else nothing would help where the whole cluster has moved.
    #[must_use]
    pub fn in_force(&self, file: &Config) -> Config {
        let mut config = file.clone();
        for pool in config.pools.values_mut() {
            if let (Some(told), true) = (self.lists.get(&pool.name), pool.discover.is_some()) {
                let mut servers = pool.followed(&told.members);
                if told.file != addresses(pool) {
                    let differs = |one: &Server, other: &Server| {
                        one.address != other.address && one.name != other.name
                    };
                    servers.retain(|one| pool.servers.iter().all(|other| differs(one, other)));
                    servers.splice(..0, pool.servers.iter().cloned());
                }
                pool.servers = servers;
            }
        }
        config
    }

    /// Whether the pool follows these members already, whatever they are called
    /// and in which order, or could not.
    #[must_use]
    pub fn is_settled(&self, file: &Config, pool: &PoolName, members: &[Member]) -> bool {
        let followed = self.lists.get(pool).is_some_and(|told| {
            places(&told.members) == places(members)
                && file.pools.get(pool).map(addresses).as_ref() == Some(&told.file)
        });
        followed || self.refused.get(pool).is_some_and(|list| list == members)
    }

    /// Notes that the pool cannot follow this list.
    pub fn refuse(&mut self, pool: PoolName, members: Vec<Member>) {
        self.refused.insert(pool, members);
    }

    /// The pool has these members from now on.
    pub fn set(&mut self, file: &Config, pool: PoolName, members: Vec<Member>) {
        self.refused.remove(&pool);
        let file = file.pools.get(&pool).map(addresses).unwrap_or_default();
        self.lists.insert(pool, Told { members, file });
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

fn addresses(pool: &Pool) -> BTreeSet<SocketAddr> {
    pool.servers.iter().map(|server| server.address).collect()
}

fn places(members: &[Member]) -> BTreeSet<(SocketAddr, SocketAddr)> {
    members.iter().map(Member::place).collect()
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

    /// A file that follows a list, and names these servers.
    fn file(numbers: &[u8]) -> Config {
        let mut file = fixtures::write_and_read();
        for pool in file.pools.values_mut() {
            pool.discover = Some(fixtures::discover());
            let named = |number: u8| Server {
                name: format!("n{number}").into(),
                address: fixtures::server(number),
                ..pool.servers[0].clone()
            };
            pool.servers = numbers.iter().map(|&number| named(number)).collect();
        }
        file
    }

    fn followed_by(file: &Config, members: &Members) -> Vec<String> {
        let config = members.in_force(file);
        let servers = config.pools["kv"].servers.iter();
        servers.map(|server| server.name.to_string()).collect()
    }

    fn followed(members: &Members) -> Vec<String> {
        followed_by(&file(&[1, 2, 3]), members)
    }

    /// Its members are all gone, and the one who would tell a new list is
    /// known from the file alone.
    #[test]
    fn a_file_with_other_servers_counts_beside_the_list_until_that_is_told_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = Members::load(directory.path());
        let (before, after) = (file(&[1, 2, 3]), file(&[1, 6]));
        first.set(&before, "kv".into(), members());
        first.save();
        let mut second = Members::load(directory.path());
        assert_eq!(followed_by(&after, &second), ["n1", "n6", "m4"]);
        assert!(
            !second.is_settled(&after, &"kv".into(), &members()),
            "not by this file"
        );
        second.set(&after, "kv".into(), members());
        assert_eq!(followed_by(&after, &second), ["n1", "m4"]);
        assert!(second.is_settled(&after, &"kv".into(), &members()));

        // Who is called as somebody in the file is left to the file.
        let mut namesake = members();
        namesake[1].name = "n6".into();
        second.set(&before, "kv".into(), namesake);
        assert_eq!(followed_by(&after, &second), ["n1", "n6"]);
    }

    #[test]
    fn the_next_agent_knows_what_this_one_was_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = Members::load(directory.path());
        assert_eq!(followed(&first), ["n1", "n2", "n3"], "as the file says");
        first.set(&file(&[1, 2, 3]), "kv".into(), members());
        first.save();
        assert!(first.is_settled(&file(&[3, 2, 1]), &"kv".into(), &members()));
        assert_eq!(followed(&first), ["n1", "m4"]);
        let second = Members::load(directory.path());
        assert_eq!(followed(&second), ["n1", "m4"]);
        let plain = second.in_force(&fixtures::write_and_read());
        assert_eq!(plain, fixtures::write_and_read(), "it follows no list");
    }

    #[test]
    fn a_list_is_news_where_a_member_is_or_is_checked_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let mut known = Members::load(directory.path());
        let (file, pool) = (file(&[1, 2, 3]), "kv".into());
        known.set(&file, "kv".into(), members());
        let mut other = members();
        other.reverse();
        other[0].name = "other".into();
        assert!(known.is_settled(&file, &pool, &other));
        // Also of one that the file has, where it changes nothing.
        for member in 0..2 {
            let mut other = members();
            other[member].check_address.set_port(10_002);
            assert!(!known.is_settled(&file, &pool, &other));
            known.set(&file, "kv".into(), other.clone());
            assert!(known.is_settled(&file, &pool, &other));
        }
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE_NAME), "{\"kv\":[{}]}").unwrap();
        let members = Members::load(directory.path());
        assert_eq!(followed(&members), ["n1", "n2", "n3"]);
    }
}
