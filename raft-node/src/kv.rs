//! The state machine: which keys hold which values, and what a command does to them.
//!
//! Pure: no clock, no randomness, no IO, so that every node that applies the same commands holds the same state.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One change to the store, as a client asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Bind the key to the value, whatever it held before.
    Put {
        /// The key to bind.
        key: Arc<str>,
        /// The value that it holds from now on.
        value: Arc<str>,
    },
    /// Forget the key.
    Delete {
        /// The key to forget.
        key: Arc<str>,
    },
}

impl Command {
    /// How many bytes the key and the value hold.
    pub fn len_bytes(&self) -> usize {
        match self {
            Command::Put { key, value } => key.len() + value.len(),
            Command::Delete { key } => key.len(),
        }
    }
}

/// What a command found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The key was new to the store.
    Created,
    /// The key held a value before, which the command replaced.
    Replaced,
    /// The key held a value, which is gone.
    Deleted,
    /// There was no such key to delete.
    Absent,
}

/// The commands of one log entry: many clients share one. Cloning shares them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch(pub Arc<[Command]>);

impl From<Vec<Command>> for Batch {
    fn from(commands: Vec<Command>) -> Self {
        Self(commands.into())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.0.len())
    }
}

/// One outcome per command of a batch, in the batch's order; empty for entries without commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes(pub Vec<Outcome>);

/// Every key and its value. Cloning shares the strings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kv {
    pairs: BTreeMap<Arc<str>, Arc<str>>,
}

impl Kv {
    /// Applies one batch, in order, and says what each command found.
    pub fn apply(&mut self, batch: &Batch) -> Outcomes {
        let commands = batch.0.iter();
        Outcomes(
            commands
                .map(|command| self.apply_command(command))
                .collect(),
        )
    }

    /// The value of `key`, if it holds one.
    pub fn get(&self, key: &str) -> Option<Arc<str>> {
        self.pairs.get(key).cloned()
    }

    /// How many keys hold a value.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether no key holds a value.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn apply_command(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Put { key, value } => {
                match self.pairs.insert(Arc::clone(key), Arc::clone(value)) {
                    Some(_) => Outcome::Replaced,
                    None => Outcome::Created,
                }
            }
            Command::Delete { key } => match self.pairs.remove(key) {
                Some(_) => Outcome::Deleted,
                None => Outcome::Absent,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn put(key: &str, value: &str) -> Command {
        Command::Put {
            key: key.into(),
            value: value.into(),
        }
    }

    fn delete(key: &str) -> Command {
        Command::Delete { key: key.into() }
    }

    #[test]
    fn each_command_says_what_it_found() {
        let mut kv = Kv::default();
        let outcomes = kv.apply(&Batch::from(vec![
            put("a", "1"),
            put("a", "2"),
            delete("a"),
            delete("a"),
        ]));
        assert_eq!(
            outcomes.0,
            [
                Outcome::Created,
                Outcome::Replaced,
                Outcome::Deleted,
                Outcome::Absent
            ]
        );
        assert!(kv.is_empty());
    }

    #[test]
    fn commands_of_one_batch_apply_in_order() {
        let mut kv = Kv::default();
        kv.apply(&Batch::from(vec![
            put("k", "first"),
            delete("k"),
            put("k", "last"),
        ]));
        assert_eq!(kv.get("k").as_deref(), Some("last"));
    }

    #[test]
    fn a_serialised_store_reads_back_the_same() {
        let mut kv = Kv::default();
        kv.apply(&Batch::from(vec![
            put("", "empty key"),
            put("ключ", "\"quotes\"\n"),
            put("z", ""),
        ]));
        let json = serde_json::to_vec(&kv).unwrap();
        assert_eq!(serde_json::from_slice::<Kv>(&json).unwrap(), kv);
    }

    fn any_command() -> impl Strategy<Value = Command> {
        // Few keys, so that commands meet.
        prop_oneof![
            ("[a-d]", ".{0,4}").prop_map(|(key, value)| put(&key, &value)),
            "[a-d]".prop_map(|key| delete(&key)),
        ]
    }

    proptest! {
        #[test]
        fn the_store_agrees_with_a_plain_map(commands in proptest::collection::vec(any_command(), 0..60)) {
            let mut kv = Kv::default();
            let mut model: HashMap<String, String> = HashMap::new();
            for command in commands {
                let expected = match &command {
                    Command::Put { key, value } => match model.insert(key.to_string(), value.to_string()) {
                        Some(_) => Outcome::Replaced,
                        None => Outcome::Created,
                    },
                    Command::Delete { key } => match model.remove(&**key) {
                        Some(_) => Outcome::Deleted,
                        None => Outcome::Absent,
                    },
                };
                prop_assert_eq!(kv.apply(&Batch::from(vec![command])).0, vec![expected]);
            }
            prop_assert_eq!(kv.len(), model.len());
            for (key, value) in model {
                prop_assert_eq!(kv.get(&key), Some(value.into()));
            }
        }

        #[test]
        fn how_commands_are_batched_does_not_matter(
            commands in proptest::collection::vec(any_command(), 0..40),
            size in 1usize..8,
        ) {
            let (mut one_by_one, mut batched) = (Kv::default(), Kv::default());
            for command in commands.clone() {
                one_by_one.apply(&Batch::from(vec![command]));
            }
            for chunk in commands.chunks(size) {
                batched.apply(&Batch::from(chunk.to_vec()));
            }
            prop_assert_eq!(one_by_one, batched);
        }
    }
}
