//! The file of the overrides in the run directory: there before a change comes
//! into force, whole or not at all, and read by the next agent.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tracing::{error, warn};

use crate::config::{Config, Name, Overrides};

/// The name of the file in the run directory.
const FILE_NAME: &str = "overrides.json";

/// Where the overrides are kept.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// In this directory.
    #[must_use]
    pub fn within(directory: &Path) -> Self {
        Self {
            path: directory.join(FILE_NAME),
        }
    }

    /// What an agent before this one left, as far as `file` still allows it. What
    /// is not understood is said, and set aside.
    #[must_use]
    pub fn load(&self, file: &Config) -> Overrides {
        let path = self.path.display();
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Overrides::default(),
            Err(error) => {
                error!(%path, %error, "cannot read the overrides: starting without");
                return Overrides::default();
            }
        };
        match serde_json::from_slice::<Overrides>(&bytes) {
            Ok(mut overrides) => {
                tell(overrides.prune(file));
                overrides
            }
            Err(error) => {
                let aside = self.path.with_extension("json.bad");
                let kept = aside.display();
                error!(%path, %error, %kept, "the overrides are not understood: starting without");
                if let Err(error) = fs::rename(&self.path, &aside) {
                    warn!(%path, %error, "cannot set the file aside");
                }
                Overrides::default()
            }
        }
    }

    /// Replaces the file at once, or leaves it as it is.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn save(&self, overrides: &Overrides) -> io::Result<()> {
        if overrides.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        let json = serde_json::to_vec_pretty(overrides).map_err(io::Error::other)?;
        let new = self.path.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.write_all(&json)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// Says which overrides were dropped, and why.
pub fn tell(dropped: Vec<(Name, String)>) {
    for ((pool, server), why) in dropped {
        warn!(%pool, %server, why, "dropped an override");
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::api::Change;
    use crate::config::Clock;

    const FILE: &str = r#"
        [pool.p]
        check = { type = "tcp" }
        server = [{ name = "n1", address = "10.0.0.11:80" }]
        [service.s]
        listen = "10.0.0.100:80"
        pool = "p"
        route = "any"
    "#;

    #[test]
    fn what_one_agent_saves_the_next_one_loads() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::within(directory.path());
        let file = Config::parse(FILE).unwrap();
        assert!(store.load(&file).is_empty());
        let mut overrides = Overrides::default();
        let change = Change::Weight {
            pool: "p".into(),
            server: "n1".into(),
            weight: 7,
        };
        let clock = Clock {
            now: Instant::now(),
            wall: SystemTime::now(),
        };
        overrides.take(&file, change, clock).unwrap();
        store.save(&overrides).unwrap();
        assert_eq!(store.load(&file), overrides);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let renamed = Config::parse(&FILE.replace("n1", "n2")).unwrap();
        assert!(store.load(&renamed).is_empty());
        store.save(&Overrides::default()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_not_understood_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::within(directory.path());
        fs::write(&store.path, "[{").unwrap();
        assert!(store.load(&Config::parse(FILE).unwrap()).is_empty());
        assert!(!store.path.exists());
        assert!(directory.path().join("overrides.json.bad").exists());
    }
}
