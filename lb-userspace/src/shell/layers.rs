//! What the configuration in force is made of: the file, the members that
//! clusters told of themselves, and over both what an operator changed.

use crate::config::{Clock, Config, Overrides};
use crate::shell::members::Members;
use crate::shell::run::RunOptions;

/// From the bottom up.
#[derive(Clone, Debug)]
pub struct Layers {
    /// As the file has it.
    pub file: Config,
    /// In the place of the file's servers.
    pub members: Members,
    /// By `lb set` and the like.
    pub overrides: Overrides,
}

impl Layers {
    /// The file, and what an agent before this one left.
    #[must_use]
    pub fn load(file: Config, options: &RunOptions) -> Self {
        let members = Members::load(&options.run_dir);
        let overrides = options.store().load(&members.in_force(&file));
        Self {
            file,
            members,
            overrides,
        }
    }

    /// The configuration without what an operator changed.
    #[must_use]
    pub fn base(&self) -> Config {
        self.members.in_force(&self.file)
    }

    /// The configuration that counts.
    #[must_use]
    pub fn in_force(&self, clock: Clock) -> Config {
        self.overrides.apply(&self.base(), clock)
    }
}
