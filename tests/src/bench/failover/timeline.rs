//! A figure of all rounds of a scenario: for each way a band, in it a line for
//! each round, drawn where writes were acknowledged.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::decision::Word;
use super::round::Observed;
use super::split::millis;
use super::way::Way;

/// Pixels.
const WIDTH: i32 = 1100;
/// Room for the names on the left.
const NAMES: i32 = 130;
const RIGHT: i32 = 20;
const TITLE: i32 = 60;
/// From one round to the next.
const PITCH: i32 = 7;
/// Between two bands.
const GAP: i32 = 22;
const AXIS: i32 = 40;
/// Milliseconds that are shown: before the stroke, and after it at most.
const BEFORE: f64 = 200.0;
const AFTER_MAX: f64 = 12_000.0;
/// Acknowledgements that lie no further apart, in ms, are one line.
const JOINED: f64 = 60.0;

const ACKNOWLEDGED: RGBColor = RGBColor(0x4a, 0x7f, 0xb5);
const FAILED: RGBColor = RGBColor(0xc8, 0x4a, 0x3c);

/// One round of one way, in milliseconds since the stroke.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    way: Way,
    acknowledged: Vec<(f64, f64)>,
    failed: Vec<f64>,
    elected: f64,
    chosen: Option<f64>,
}

impl Line {
    /// What is drawn of a round.
    pub fn of(observed: &Observed) -> Self {
        let since = |at: Instant| millis(observed.struck, at);
        let outcomes = |is_ok: bool| {
            let attempts = observed.attempts.iter();
            let those = attempts.filter(move |attempt| attempt.outcome.is_ok() == is_ok);
            those.map(|attempt| since(attempt.ended))
        };
        let new = Word::Takes(observed.elected.1);
        let mut decisions = observed.decisions.iter();
        let chosen = decisions.find(|decision| decision.word == new);
        Self {
            way: observed.way,
            acknowledged: join(outcomes(true)),
            failed: outcomes(false).collect(),
            elected: since(observed.elected.0),
            chosen: chosen.map(|decision| since(decision.done)),
        }
    }

    /// When all was well again.
    fn end(&self) -> f64 {
        let last_failure = self.failed.iter().copied().fold(0.0, f64::max);
        let resumed = self.acknowledged.iter().map(|(from, _)| *from);
        resumed.fold(last_failure, f64::max)
    }
}

/// Makes lines of moments that lie close together.
fn join(moments: impl Iterator<Item = f64>) -> Vec<(f64, f64)> {
    let mut lines: Vec<(f64, f64)> = Vec::new();
    for at in moments {
        match lines.last_mut() {
            Some((_, until)) if at - *until <= JOINED => *until = at,
            _ => lines.push((at, at)),
        }
    }
    lines
}

/// Draws all rounds.
pub fn draw(path: &Path, title: &str, lines: &[Line]) -> Result<()> {
    let mut bands: Vec<(Way, Vec<&Line>)> = Vec::new();
    for line in lines {
        match bands.iter_mut().find(|(way, _)| *way == line.way) {
            Some((_, band)) => band.push(line),
            None => bands.push((line.way, vec![line])),
        }
    }
    let tall: i32 = bands
        .iter()
        .map(|(_, band)| PITCH * band.len() as i32 + GAP)
        .sum();
    let size = (WIDTH as u32, u32::try_from(TITLE + tall + AXIS)?);
    let after = lines.iter().map(Line::end).fold(500.0, f64::max);
    let scale = Scale {
        after: (after * 1.1).min(AFTER_MAX),
    };
    let area = SVGBackend::new(path, size).into_drawing_area();
    let drawn = paint(&area, title, &bands, scale).and_then(|()| area.present());
    drawn.map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

/// From milliseconds to pixels.
#[derive(Clone, Copy)]
struct Scale {
    after: f64,
}

impl Scale {
    fn x(self, ms: f64) -> i32 {
        let room = f64::from(WIDTH - NAMES - RIGHT);
        let part = (ms.clamp(-BEFORE, self.after) + BEFORE) / (BEFORE + self.after);
        NAMES + (part * room) as i32
    }

    fn shows(self, ms: f64) -> bool {
        (-BEFORE..=self.after).contains(&ms)
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn paint(area: &Area<'_>, title: &str, bands: &[(Way, Vec<&Line>)], scale: Scale) -> Drawn {
    area.fill(&WHITE)?;
    let words = |size: u32| ("sans-serif", size).into_font().color(&BLACK);
    area.draw(&Text::new(title.to_owned(), (12, 14), words(18)))?;
    let legend = "blue: writes are acknowledged; red: a write failed; black: another node says that it leads; \
                  green: the balancer sends writes there";
    area.draw(&Text::new(legend.to_owned(), (12, 38), words(12)))?;
    let right = words(13).pos(Pos::new(HPos::Right, VPos::Center));
    let mut top = TITLE;
    for (way, band) in bands {
        let height = PITCH * band.len() as i32;
        let beside = (NAMES - 8, top + height / 2);
        area.draw(&Text::new(way.name(), beside, right.clone()))?;
        for (line, row) in band.iter().zip(0..) {
            paint_line(area, line, top + PITCH * row, scale)?;
        }
        top += height + GAP;
    }
    paint_axis(area, top, scale)
}

fn paint_line(area: &Area<'_>, line: &Line, top: i32, scale: Scale) -> Drawn {
    let bottom = top + PITCH - 2;
    let block = |from: f64, to: f64, color: RGBColor| {
        let right = scale.x(to).max(scale.x(from) + 1);
        Rectangle::new([(scale.x(from), top), (right, bottom)], color.filled())
    };
    let visible = |from: f64, to: f64| to >= -BEFORE && from <= scale.after;
    for &(from, to) in &line.acknowledged {
        if visible(from, to) {
            area.draw(&block(from, to, ACKNOWLEDGED))?;
        }
    }
    // Where many fail within a pixel, one shows them all.
    let mut last = None;
    for &at in line.failed.iter().filter(|&&at| scale.shows(at)) {
        if last.replace(scale.x(at)) != Some(scale.x(at)) {
            area.draw(&block(at, at, FAILED))?;
        }
    }
    let marks = [(Some(line.elected), BLACK), (line.chosen, GREEN)];
    for (at, color) in marks {
        if let Some(at) = at.filter(|&at| scale.shows(at)) {
            let mark = vec![(scale.x(at), top - 1), (scale.x(at), bottom + 1)];
            area.draw(&PathElement::new(mark, color.stroke_width(2)))?;
        }
    }
    Ok(())
}

fn paint_axis(area: &Area<'_>, top: i32, scale: Scale) -> Drawn {
    let words = ("sans-serif", 12).into_font().color(&BLACK);
    let below = words.pos(Pos::new(HPos::Center, VPos::Top));
    let steps = [100.0, 200.0, 500.0, 1000.0, 2000.0];
    let step = steps.into_iter().find(|step| scale.after / step <= 14.0);
    let step = step.unwrap_or(2000.0);
    let count = (scale.after / step) as i32;
    for at in (0..=count).map(|index| f64::from(index) * step) {
        let x = scale.x(at);
        let grid = BLACK.mix(if at == 0.0 { 0.9 } else { 0.15 });
        area.draw(&PathElement::new(vec![(x, TITLE - 4), (x, top)], grid))?;
        area.draw(&Text::new(format!("{at:.0}"), (x, top + 4), below.clone()))?;
    }
    let end = (WIDTH - RIGHT, top + 20);
    let right = ("sans-serif", 12).into_font().color(&BLACK);
    let right = right.pos(Pos::new(HPos::Right, VPos::Top));
    area.draw(&Text::new("ms since it happened", end, right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_close_together_are_one_line() {
        let lines = join([0.0, 10.0, 60.0, 500.0, 505.0].into_iter());
        assert_eq!(lines, [(0.0, 60.0), (500.0, 505.0)]);
    }

    #[test]
    fn a_drawn_round_shows_its_outage() {
        let line = Line {
            way: Way::Push,
            acknowledged: vec![(-200.0, 0.0), (400.0, 900.0)],
            failed: vec![20.0, 30.0],
            elected: 390.0,
            chosen: Some(392.0),
        };
        assert_eq!(line.end(), 400.0);
        let directory = std::env::temp_dir().join(format!("lb-timeline-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("timeline.svg");
        draw(&path, "SIGKILL", &[line.clone(), line]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(text.contains("lb, push") && text.contains("SIGKILL"));
        // The outage is where nothing is drawn: two blocks a round.
        let blue = text.matches("#4A7FB5").count();
        assert_eq!(blue, 4, "{text}");
    }
}
