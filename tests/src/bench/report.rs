//! What a benchmark found: rows of numbers, as a table and as JSON.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

/// One number, and how sure it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The benchmark: `micro`, `e2e`, ….
    pub bench: String,
    /// What was measured.
    pub name: String,
    /// Which way the packets took.
    pub path: String,
    /// Of `median`, `min` and `max`.
    pub unit: String,
    /// The middle one of all runs.
    pub median: f64,
    /// The least of all runs.
    pub min: f64,
    /// The greatest of all runs.
    pub max: f64,
    /// How often it was measured.
    pub runs: usize,
    /// The row of the same benchmark that `ratio` compares with.
    pub ratio_to: Option<String>,
    /// `median` in units of that row's.
    pub ratio: Option<f64>,
}

impl Row {
    /// The row of these samples. NaN of all numbers where there are none.
    pub fn new(bench: &str, name: &str, path: &str, unit: &str, samples: &[f64]) -> Self {
        let mut samples = samples.to_vec();
        samples.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| samples.get(index).copied().unwrap_or(f64::NAN);
        Self {
            bench: bench.to_owned(),
            name: name.to_owned(),
            path: path.to_owned(),
            unit: unit.to_owned(),
            median: at(samples.len() / 2),
            min: at(0),
            max: at(samples.len().saturating_sub(1)),
            runs: samples.len(),
            ratio_to: None,
            ratio: None,
        }
    }

    /// Compares with `other`, which `called` names.
    #[must_use]
    pub fn against(mut self, other: &Self, called: &str) -> Self {
        self.ratio_to = Some(called.to_owned());
        self.ratio = (other.median > 0.0).then_some(self.median / other.median);
        self
    }
}

/// Prints the rows as a table without borders.
pub fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "NAME", "PATH", "UNIT", "MEDIAN", "MIN", "MAX", "RUNS", "RATIO", "TO",
    ]);
    for row in rows {
        let ratio = row
            .ratio
            .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        table.add_row([
            row.name.clone(),
            row.path.clone(),
            row.unit.clone(),
            number(row.median),
            number(row.min),
            number(row.max),
            row.runs.to_string(),
            ratio,
            row.ratio_to.clone().unwrap_or_default(),
        ]);
    }
    for column in 3..=7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{}", table.trim_fmt());
}

/// Three digits that say something.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Writes the rows to `BENCH.json` in `directory`, which is made if need be.
pub fn write(directory: &Path, bench: &str, rows: &[Row]) -> Result<PathBuf> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join(format!("{bench}.json"));
    let mut text = serde_json::to_string_pretty(rows)?;
    text.push('\n');
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Reads what [`write()`] has written, and holds it against what it promises.
///
/// # Errors
/// A field is missing or one too many, or the numbers are not in order.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows: Vec<Row> = serde_json::from_slice(&text)
        .with_context(|| format!("{} has no rows of a benchmark", path.display()))?;
    for row in &rows {
        ensure!(
            row.runs > 0 && row.min <= row.median && row.median <= row.max,
            "not in order: {row:?}"
        );
        ensure!(row.ratio_to.is_some() || row.ratio.is_none(), "{row:?}");
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_middle_and_both_ends_of_its_samples() {
        let row = Row::new("micro", "a", "xdp", "ns", &[3.0, 1.0, 2.0]);
        assert_eq!((row.min, row.median, row.max, row.runs), (1.0, 2.0, 3.0, 3));
        let twice = Row::new("micro", "b", "xdp", "ns", &[4.0]).against(&row, "a");
        assert_eq!(twice.ratio, Some(2.0));
        assert_eq!(twice.ratio_to.as_deref(), Some("a"));
    }

    #[test]
    fn nothing_is_compared_with_what_costs_nothing() {
        let nothing = Row::new("micro", "a", "xdp", "ns", &[0.0]);
        let row = Row::new("micro", "b", "xdp", "ns", &[1.0]).against(&nothing, "a");
        assert_eq!(row.ratio, None);
    }

    #[test]
    fn numbers_have_three_digits_or_as_many_as_it_takes() {
        let shown = [0.123, 1.234, 12.34, 123.4, 123_456.7].map(number);
        assert_eq!(shown, ["0.12", "1.23", "12.3", "123", "123457"]);
    }
}
