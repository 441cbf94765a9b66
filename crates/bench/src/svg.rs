//! Curves as an SVG picture: panels side by side, logarithmic in both directions, each line named at its end. Without a background: every
//! colour can be read on a white page and on a dark one.

use std::fmt::{self, Display, Formatter};

/// Panels with one scale of costs.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Above all.
    pub title: String,
    /// From the left.
    pub panels: Vec<Panel>,
}

/// Curves over one quantity.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What grows to the right.
    pub title: String,
    /// The curves.
    pub series: Vec<Series>,
}

/// One curve.
#[derive(Clone, Debug)]
pub struct Series {
    /// Written at its end.
    pub name: String,
    /// Of the line and of its name.
    pub colour: &'static str,
    /// Of the line.
    pub width: u8,
    /// Each positive.
    pub points: Vec<(f64, f64)>,
}

/// Of axes and their text.
const GREY: &str = "#7a818c";
/// A panel, and within it what the lines have, with room for their names at the right.
const PANEL: f64 = 320.0;
const LEFT: f64 = 34.0;
const WIDE: f64 = 178.0;
const TOP: f64 = 62.0;
const HIGH: f64 = 260.0;
const BELOW: f64 = 34.0;
/// Between the names of two lines.
const LINE: f64 = 14.0;

/// Where values stand on an axis, in pixels.
#[derive(Clone, Copy, Debug)]
struct Scale {
    values: (f64, f64),
    pixels: (f64, f64),
}

impl Scale {
    /// The place of a value; equal factors are equal distances.
    fn at(self, value: f64) -> f64 {
        let share = (value / self.values.0).ln() / (self.values.1 / self.values.0).ln();
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    /// 1, 10, 100… as far as they are on it; between them 2 and 5 where it is short.
    fn ticks(self) -> Vec<f64> {
        let steps: &[f64] = if self.values.1 / self.values.0 > 2_000.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let decades = (-3..7).map(|power| 10f64.powi(power));
        let all = decades.flat_map(|decade| steps.iter().map(move |step| step * decade));
        all.filter(|tick| (self.values.0 * 0.999..=self.values.1 * 1.001).contains(tick)).collect()
    }
}

/// The least and the largest.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(least, largest), value| (least.min(value), largest.max(value)))
}

/// Moves places apart, from the lowest of the picture upwards, as little as it takes so that none is nearer to its neighbour than a line.
fn apart(places: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|a, b| places[*b].total_cmp(&places[*a]));
    let mut moved = places.to_vec();
    let mut limit = f64::INFINITY;
    for index in order {
        moved[index] = moved[index].min(limit);
        limit = moved[index] - LINE;
    }
    moved
}

/// `10000` as `10k`.
fn short(value: f64) -> String {
    if value < 1_000.0 { value.to_string() } else { format!("{}k", value / 1_000.0) }
}

impl Display for Picture {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let (width, height) = (PANEL * self.panels.len() as f64, TOP + HIGH + BELOW);
        writeln!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif" font-size="12" fill="{GREY}">"#
        )?;
        writeln!(out, r#"<title>{}</title>"#, self.title)?;
        writeln!(out, r#"<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{}</text>"#, self.title)?;
        let costs = self.panels.iter().flat_map(|panel| &panel.series).flat_map(|series| &series.points).map(|point| point.1);
        let (least, largest) = range(costs);
        for (panel, place) in self.panels.iter().zip(0..) {
            writeln!(out, r#"<g transform="translate({} 0)">"#, f64::from(place) * PANEL)?;
            panel.draw(out, Scale { values: (least / 1.2, largest * 1.2), pixels: (TOP + HIGH, TOP) })?;
            writeln!(out, "</g>")?;
        }
        writeln!(out, "</svg>")
    }
}

impl Panel {
    fn draw(&self, out: &mut Formatter<'_>, up: Scale) -> fmt::Result {
        let values = range(self.series.iter().flat_map(|series| &series.points).map(|point| point.0));
        let right = Scale { values, pixels: (LEFT, LEFT + WIDE) };
        let bottom = TOP + HIGH;
        writeln!(out, r#"<text x="{LEFT}" y="{}" font-weight="bold">{}</text>"#, TOP - 14.0, self.title)?;
        for tick in up.ticks() {
            let (y, end) = (up.at(tick), LEFT + WIDE);
            writeln!(out, r#"<path d="M{LEFT} {y:.1}H{end}" stroke="{GREY}" stroke-opacity="0.25"/>"#)?;
            writeln!(out, r#"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#, LEFT - 6.0, y + 4.0, short(tick))?;
        }
        for tick in right.ticks().into_iter().filter(|tick| tick.log10().fract() == 0.0) {
            let x = right.at(tick);
            writeln!(out, r#"<path d="M{x:.1} {bottom}v5" stroke="{GREY}"/>"#)?;
            writeln!(out, r#"<text x="{x:.1}" y="{}" text-anchor="middle">{}</text>"#, bottom + 20.0, short(tick))?;
        }
        writeln!(out, r#"<path d="M{LEFT} {TOP}V{bottom}h{WIDE}" fill="none" stroke="{GREY}"/>"#)?;
        let ends: Vec<f64> = self.series.iter().filter_map(|series| Some(up.at(series.points.last()?.1))).collect();
        for (series, end) in self.series.iter().zip(apart(&ends)) {
            let places: Vec<(f64, f64)> = series.points.iter().map(|(x, y)| (right.at(*x), up.at(*y))).collect();
            let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let Series { colour, width, .. } = series;
            writeln!(out, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="{width}"/>"#, line.join(" "))?;
            for (x, y) in places {
                writeln!(out, r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.5" fill="{colour}"/>"#)?;
            }
            writeln!(out, r#"<text x="{}" y="{:.1}" fill="{colour}">{}</text>"#, LEFT + WIDE + 8.0, end + 4.0, series.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_factors_are_equal_distances() {
        let scale = Scale { values: (1.0, 1_000.0), pixels: (300.0, 0.0) };
        assert_eq!([1.0, 10.0, 100.0, 1_000.0].map(|value| scale.at(value).round()), [300.0, 200.0, 100.0, 0.0]);
    }

    #[test]
    fn a_short_axis_has_ticks_between_the_decades() {
        let ticks = |values| Scale { values, pixels: (0.0, 1.0) }.ticks();
        assert_eq!(ticks((1.0, 100_000.0)), [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0]);
        assert_eq!(ticks((1.5, 60.0)), [2.0, 5.0, 10.0, 20.0, 50.0]);
    }

    #[test]
    fn names_stand_apart_and_near_their_lines() {
        assert_eq!(apart(&[100.0, 50.0]), [100.0, 50.0]);
        assert_eq!(apart(&[100.0, 99.0, 98.0]), [100.0, 86.0, 72.0]);
        assert_eq!(apart(&[98.0, 100.0]), [86.0, 100.0]);
    }

    #[test]
    fn thousands_are_short() {
        assert_eq!([0.5, 20.0, 1_000.0, 100_000.0].map(short), ["0.5", "20", "1k", "100k"]);
    }

    #[test]
    fn every_series_is_a_line_with_its_points_and_its_name() {
        let series =
            |name: &str, colour| Series { name: name.into(), colour, width: 2, points: vec![(1.0, 2.0), (10.0, 4.0), (100.0, 40.0)] };
        let panel = |title: &str| Panel { title: title.into(), series: vec![series("ours", "#010203"), series("theirs", "#040506")] };
        let text = Picture { title: "cost".into(), panels: vec![panel("rules"), panel("members")] }.to_string();
        let count = |what: &str| text.matches(what).count();
        assert_eq!((count("<polyline"), count("<circle"), count(">ours<"), count(">theirs<")), (4, 12, 2, 2));
        assert_eq!((count("<g "), count("</g>"), count("<svg"), count("</svg>")), (2, 2, 1, 1));
        // Axes of both panels begin and end with the points.
        assert_eq!((count(r#"cx="34.0""#), count(r#"cx="212.0""#)), (4, 4));
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }
}
