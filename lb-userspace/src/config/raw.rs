//! The file as it was typed: tables of keys and values with their places.
//!
//! Knows TOML and nothing of load balancing. [`Fields`] hands out the values
//! of one table by key; the keys that were asked for are the known ones, so
//! what is left over at the end is unknown. Serde's `deny_unknown_fields`
//! would stop at the first error of a file; this reads on.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problems, is_like, spelling};

/// A value and its place in the file.
pub(super) type Value<'a> = &'a Spanned<DeValue<'a>>;

/// The name and the fields of `[pool.NAME]`.
pub(super) type Named<'a> = (Spanned<&'a str>, Fields<'a>);

/// The keys of one table that have not been read yet.
pub(super) struct Fields<'a> {
    table: &'a DeTable<'a>,
    /// Where the table stands: what a missing key is reported at.
    at: Range<usize>,
    /// How messages call it: `service "kv-read"`.
    name: String,
    known: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Fields<'a> {
    /// The fields of a table that is known to be one.
    pub(super) fn of_table(
        table: &'a DeTable<'a>,
        at: Range<usize>,
        name: impl Into<String>,
        problems: &'a Problems,
    ) -> Self {
        let (name, known) = (name.into(), Vec::new());
        Self {
            table,
            at,
            name,
            known,
            problems,
        }
    }

    /// The fields of a value that ought to be a table; reported if it is not.
    pub(super) fn of_value(
        value: Value<'a>,
        name: impl Into<String>,
        problems: &'a Problems,
    ) -> Option<Self> {
        let name = name.into();
        let DeValue::Table(table) = value.get_ref() else {
            let found = kind(value.get_ref());
            problems.report(
                &value.span(),
                format!("{name}: expected a table, found {found}"),
            );
            return None;
        };
        Some(Self::of_table(table, value.span(), name, problems))
    }

    /// How messages call the table.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether `key` is there, or a key that was meant to be it: what follows
    /// from its absence need not be reported beside the misspelling.
    pub(super) fn has_like(&self, key: &'static str) -> bool {
        let mut keys = self.table.keys();
        keys.any(|found| is_like(found.get_ref(), key))
    }

    /// Where the table stands.
    pub(super) fn at(&self) -> &Range<usize> {
        &self.at
    }

    /// The value of `key`, if it is there.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key)
    }

    /// The value of `key` read by `parse`, whose error is reported.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&'a DeValue<'a>) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        let value = self.value(key)?;
        match parse(value.get_ref()) {
            Ok(parsed) => Some(Spanned::new(value.span(), parsed)),
            Err(reason) => {
                self.problems
                    .report(&value.span(), format!("{key}: {reason}"));
                None
            }
        }
    }

    /// The values of `key`, an array or just one, each read by `parse`, whose
    /// errors are reported. Empty: there are none, or all are reported.
    pub(super) fn read_all<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&'a DeValue<'a>) -> Result<T, String>,
    ) -> Vec<Spanned<T>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let values = match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![value],
        };
        if values.is_empty() {
            let reason = format!("{key}: the list is empty; leave the key out, or name one");
            self.problems.report(&value.span(), reason);
        }
        let mut read = Vec::new();
        for value in values {
            match parse(value.get_ref()) {
                Ok(parsed) => read.push(Spanned::new(value.span(), parsed)),
                Err(reason) => {
                    let reason = format!("{key}: {reason}");
                    self.problems.report(&value.span(), reason);
                }
            }
        }
        read
    }

    /// As `read`; the key has to be there, and `mend` is what to add.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        mend: &str,
        parse: impl FnOnce(&'a DeValue<'a>) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        self.required(key, mend)?;
        self.read(key, parse)
    }

    /// As `value`; the key has to be there, and `mend` is what to add.
    pub(super) fn required(&mut self, key: &'static str, mend: &str) -> Option<Value<'a>> {
        let value = self.value(key);
        if value.is_none() {
            let message = format!("{} has no {key}; add {mend}", self.name);
            self.problems.report(&self.at, message);
        }
        value
    }

    /// The fields of the table `key`, if it is there; messages call it `name`.
    pub(super) fn table(&mut self, key: &'static str, name: impl Into<String>) -> Option<Self> {
        Self::of_value(self.value(key)?, name, self.problems)
    }

    /// Every entry of the table of named tables `key`, as `[pool.NAME]`.
    /// `None`: it is something else, which is reported.
    pub(super) fn named_tables(&mut self, key: &'static str) -> Option<Vec<Named<'a>>> {
        let Some(value) = self.value(key) else {
            return Some(Vec::new());
        };
        let DeValue::Table(tables) = value.get_ref() else {
            let found = kind(value.get_ref());
            let message =
                format!("{key}: expected named tables, found {found}; write [{key}.NAME]");
            self.problems.report(&value.span(), message);
            return None;
        };
        let mut named = Vec::new();
        for (name, value) in tables {
            let text: &str = name.get_ref();
            if !value.get_ref().is_table() {
                let message = format!("{key}: \"{text}\" is no named table; write [{key}.NAME]");
                self.problems.report(&name.span(), message);
                return None;
            }
            let fields = Self::of_value(value, format!("{key} \"{text}\""), self.problems)?;
            named.push((Spanned::new(name.span(), text), fields));
        }
        Some(named)
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let text: &str = key.get_ref();
            if self.known.contains(&text) {
                continue;
            }
            let (name, mend) = (&self.name, spelling(text, &self.known));
            self.problems.report(
                &key.span(),
                format!("unknown key \"{text}\" in {name}; {mend}"),
            );
        }
    }
}

/// What a value is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
