//! Tables and quantities for people.
//!
//! No borders and no colours: the same text on a terminal, in a pipe and in a
//! bug report, and every cell can be cut out by `awk`, as no cell but the last
//! of a row contains a blank.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, presets};

/// Rows under a header line.
pub(super) struct Table {
    table: comfy_table::Table,
}

/// How a column is aligned.
#[derive(Clone, Copy)]
pub(super) enum Align {
    Left,
    Right,
}

impl Table {
    /// A table without rows.
    pub(super) fn new(columns: &[(&str, Align)]) -> Self {
        let mut table = comfy_table::Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(columns.iter().map(|(title, _)| *title));
        for (column, (_, align)) in table.column_iter_mut().zip(columns) {
            column.set_padding((0, 2));
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        Self { table }
    }

    /// Adds one row. What servers said is in it: control characters, which
    /// could command the terminal, become `?`.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter();
        let printable = cells.map(|cell| cell.replace(char::is_control, "?"));
        self.table.add_row(printable);
    }

    /// Prints the table; nothing at all if there are no rows.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.table.row_count() == 0 {
            return Ok(());
        }
        for line in self.table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A counter: exact up to five digits, then `123.4k`, `1.2M` …, rounded down.
pub(super) fn quantity(number: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (1_000_000_000_000_000_000, "E"),
        (1_000_000_000_000_000, "P"),
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1_000, "k"),
    ];
    if number < 100_000 {
        return number.to_string();
    }
    let unit = UNITS.iter().find(|(size, _)| number >= *size);
    let (size, unit) = unit.copied().unwrap_or((1, ""));
    format!("{}.{}{unit}", number / size, number % size * 10 / size)
}

/// A duration in its two greatest units: `230ms`, `5s`, `2m05s`, `3h20m`,
/// `4d02h`.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) if ms < 1000 => format!("{ms}ms"),
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// `-` where there is nothing.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_keep_five_digits_then_take_a_unit() {
        let cases = [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100.0k"),
            (999_999, "999.9k"),
            (1_000_000, "1.0M"),
            (1_299_999_999, "1.2G"),
            (u64::MAX, "18.4E"),
        ];
        for (number, text) in cases {
            assert_eq!(quantity(number), text);
        }
    }

    #[test]
    fn durations_show_their_two_greatest_units() {
        let cases = [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1s"),
            (59_999, "59s"),
            (125_000, "2m05s"),
            (3_600_000, "1h00m"),
            (12_000_000, "3h20m"),
            (90_000_000, "1d01h"),
        ];
        for (ms, text) in cases {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn a_table_has_no_trailing_blanks_and_no_escape_codes() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("COUNT", Align::Right),
            ("", Align::Left),
        ]);
        table.row(["a".into(), "5".into(), String::new()]);
        table.row(["longer".into(), "12345678".into(), "\u{1b}[31m".into()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAME       COUNT\n\
             a              5\n\
             longer  12345678  ?[31m\n"
        );
    }
}
