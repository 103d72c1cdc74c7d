//! What the agent beside a server says about it: HAProxy's agent check.
//!
//! An agent speaks about three things, and leaves alone what it does not
//! speak of: how much the server takes, whether it is to be used, whether it
//! works. What it said stands until it says otherwise, also when it is gone.

use std::fmt;

use crate::config::word::words;

/// One answer of an agent: what it speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentReport {
    /// `75%`: of the server's weight. At most 100.
    pub percent: Option<u32>,
    /// `maxconn:30`: open connections at a time; 0 for no limit.
    pub max_connections: Option<u32>,
    /// `ready`, `drain`, `maint`.
    pub admin: Option<Admin>,
    /// `up`, or one of the words for DOWN.
    pub operating: Option<Operating>,
}

words! {
    /// What a server is to be used for.
    #[derive(Default)]
    pub enum Admin {
        /// For whatever its checks allow.
        #[default]
        Ready = "ready",
        /// For no new connections.
        Drain = "drain",
        /// For nothing.
        Maint = "maint",
    }
}

/// Whether a server works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Operating {
    /// As far as the agent knows.
    #[default]
    Up,
    /// It does not: the agent's word, and its reason if it gave one.
    Down(String),
}

/// All that an agent has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// Of the server's weight.
    pub percent: u32,
    /// In place of the server's own; `Some(None)`: none.
    pub max_connections: Option<Option<u32>>,
    /// What the server is to be used for.
    pub admin: Admin,
    /// Whether it works.
    pub operating: Operating,
}

impl Default for Advice {
    fn default() -> Self {
        Self {
            percent: 100,
            max_connections: None,
            admin: Admin::Ready,
            operating: Operating::Up,
        }
    }
}

impl Advice {
    /// Takes in one more answer.
    pub fn take(&mut self, report: &AgentReport) {
        let AgentReport {
            percent,
            max_connections,
            admin,
            operating,
        } = report;
        self.percent = percent.unwrap_or(self.percent);
        if let Some(limit) = *max_connections {
            self.max_connections = Some((limit > 0).then_some(limit));
        }
        self.admin = admin.unwrap_or(self.admin);
        if let Some(operating) = operating {
            self.operating.clone_from(operating);
        }
    }
}

impl fmt::Display for Advice {
    /// In the agent's words: `50% drain`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.operating {
            Operating::Up => write!(out, "up")?,
            Operating::Down(why) => write!(out, "{why}")?,
        }
        if self.admin != Admin::Ready {
            write!(out, " {}", self.admin)?;
        }
        if self.percent != 100 {
            write!(out, " {}%", self.percent)?;
        }
        match self.max_connections {
            Some(limit) => write!(out, " maxconn:{}", limit.unwrap_or(0)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_does_not_speak_of_stays_as_it_was() {
        let mut advice = Advice::default();
        let say = |advice: &mut Advice, report: AgentReport| {
            advice.take(&report);
            advice.to_string()
        };
        let nothing = AgentReport::default();
        assert_eq!(say(&mut advice, nothing.clone()), "up");
        let half = AgentReport {
            percent: Some(50),
            ..nothing.clone()
        };
        assert_eq!(say(&mut advice, half), "up 50%");
        let drain = AgentReport {
            admin: Some(Admin::Drain),
            max_connections: Some(30),
            ..nothing.clone()
        };
        assert_eq!(say(&mut advice, drain), "up drain 50% maxconn:30");
        let down = AgentReport {
            operating: Some(Operating::Down("stopped: upgrade".into())),
            ..nothing.clone()
        };
        assert_eq!(
            say(&mut advice, down),
            "stopped: upgrade drain 50% maxconn:30"
        );
        let back = AgentReport {
            admin: Some(Admin::Ready),
            operating: Some(Operating::Up),
            max_connections: Some(0),
            ..nothing
        };
        assert_eq!(say(&mut advice, back), "up 50% maxconn:0");
        assert_eq!(advice.max_connections, Some(None));
    }
}
