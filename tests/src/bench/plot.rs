//! A figure of rows: bars, each with its range, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Row, number};

/// Pixels.
const WIDTH: u32 = 900;
/// Room for the labels on the left.
const LABELS: i32 = 330;
/// Room for the numbers on the right.
const NUMBERS: i32 = 120;
/// From one bar to the next.
const PITCH: i32 = 26;
/// Above the first bar.
const TITLE: i32 = 48;

/// What a bar is called by: what differs between the rows of the figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// The row's name.
    Name,
    /// The row's path.
    Path,
}

/// Draws one horizontal bar a row, of its median, with its ratio to the row
/// that it is compared with; a thin line goes from the least to the greatest.
pub fn bars(path: &Path, title: &str, label: Label, rows: &[&Row]) -> Result<()> {
    let count = i32::try_from(rows.len())?;
    let height = u32::try_from(TITLE + PITCH * count + 12)?;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    let failed = |error| anyhow!("cannot draw {}: {error}", path.display());
    area.fill(&WHITE).map_err(failed)?;
    let heading = ("sans-serif", 18).into_font().color(&BLACK);
    area.draw(&Text::new(title.to_owned(), (12, 14), heading))
        .map_err(failed)?;

    let greatest = rows
        .iter()
        .map(|row| row.max)
        .fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(WIDTH as i32 - LABELS - NUMBERS);
    let x = |value: f64| LABELS + (value.max(0.0) / greatest * room) as i32;
    let words = ("sans-serif", 13).into_font().color(&BLACK);
    let left = words.pos(Pos::new(HPos::Right, VPos::Center));
    let right = words.pos(Pos::new(HPos::Left, VPos::Center));
    for (row, index) in rows.iter().zip(0..) {
        let top = TITLE + PITCH * index;
        let middle = top + PITCH / 2 - 3;
        let called = match label {
            Label::Name => &row.name,
            Label::Path => &row.path,
        };
        area.draw(&Text::new(
            called.clone(),
            (LABELS - 8, middle),
            left.clone(),
        ))
        .map_err(failed)?;
        let bar = [(LABELS, top), (x(row.median), top + PITCH - 6)];
        area.draw(&Rectangle::new(bar, RGBColor(0x4a, 0x7f, 0xb5).filled()))
            .map_err(failed)?;
        let range = vec![(x(row.min), middle), (x(row.max), middle)];
        area.draw(&PathElement::new(range, BLACK.stroke_width(2)))
            .map_err(failed)?;
        let ratio = row.ratio.map(|ratio| format!("  ({ratio:.2} ×)"));
        let said = format!("{}{}", number(row.median), ratio.unwrap_or_default());
        let beside = (x(row.max).max(x(row.median)) + 8, middle);
        area.draw(&Text::new(said, beside, right.clone()))
            .map_err(failed)?;
    }
    area.present().map_err(failed)
}
