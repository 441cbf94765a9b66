//! What was measured, as a table for people and as JSON.

use serde::Serialize;

/// One figure beside what it is compared with, in the same unit.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What was measured.
    pub name: String,
    /// Ours.
    pub ours: f64,
    /// The other's.
    pub baseline: f64,
    /// Unit of both.
    pub unit: &'static str,
    /// Ours over the other's.
    pub ratio: f64,
    /// What the ratio should be at most, of a rate at least; none: a figure for comparison only.
    pub goal: Option<f64>,
    /// Whether more is better.
    pub rate: bool,
    /// Whether it is; a figure without a goal is neither.
    pub met: Option<bool>,
}

impl Line {
    /// A ratio that should be at most so large.
    pub fn new(name: impl Into<String>, ours: f64, baseline: f64, unit: &'static str, goal: Option<f64>) -> Line {
        let ratio = ours / baseline;
        Line { name: name.into(), ours, baseline, unit, ratio, goal, rate: false, met: goal.map(|goal| ratio <= goal) }
    }

    /// A ratio that should be at least so large.
    pub fn rate(name: impl Into<String>, ours: f64, baseline: f64, unit: &'static str, goal: Option<f64>) -> Line {
        let line = Line::new(name, ours, baseline, unit, goal);
        Line { rate: true, met: goal.map(|goal| line.ratio >= goal), ..line }
    }

    /// A figure that should be at most so large; the limit stands where another's figure would.
    pub fn limit(name: impl Into<String>, ours: f64, limit: f64, unit: &'static str) -> Line {
        Line::new(name, ours, limit, unit, Some(1.0))
    }

    /// A count that should be none; it stands where a ratio would.
    pub fn none(name: impl Into<String>, count: f64, unit: &'static str) -> Line {
        Line { ratio: count, baseline: 0.0, ..Line::new(name, count, 1.0, unit, Some(0.0)) }
    }

    /// A figure with nothing to compare it with.
    pub fn figure(name: impl Into<String>, ours: f64, unit: &'static str) -> Line {
        Line { baseline: f64::NAN, ratio: f64::NAN, ..Line::new(name, ours, ours, unit, None) }
    }
}

/// The heading.
pub fn heading() -> String {
    format!("{:75} {:>9} {:>9} {:5} {:>6} {:>6}", "name", "ours", "baseline", "", "ratio", "goal")
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Nothing to compare it with.
        let or_dash = |value: f64| if value.is_nan() { "-".into() } else { format!("{value:.2}") };
        let (baseline, ratio) = (or_dash(self.baseline), or_dash(self.ratio));
        write!(f, "{:75} {:9.2} {baseline:>9} {:5} {ratio:>6}", self.name, self.ours, self.unit)?;
        match (self.goal, self.met) {
            (Some(goal), Some(met)) => {
                write!(f, " {}{goal:5.2} {}", if self.rate { '≥' } else { '≤' }, if met { "met" } else { "short" })
            }
            _ => Ok(()),
        }
    }
}

/// `10000` as `10,000`; below a thousand as it is.
pub fn number(value: f64) -> String {
    let text = value.to_string();
    if value < 1_000.0 { text } else { format!("{},{}", &text[..text.len() - 3], &text[text.len() - 3..]) }
}

/// What so many percent of measurements do not exceed.
pub fn percentile(mut measured: Vec<f64>, percent: usize) -> f64 {
    measured.sort_by(f64::total_cmp);
    let at = (measured.len() * percent).div_ceil(100);
    measured.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The middle one of measurements.
pub fn median(mut measured: Vec<f64>) -> f64 {
    measured.sort_by(f64::total_cmp);
    measured.get(measured.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_of_a_rate_and_less_of_a_cost_is_better() {
        let met = |line: Line| line.met;
        assert_eq!([0.9, 1.1, 1.2].map(|ours| met(Line::new("", ours, 1.0, "µs", Some(1.1)))), [true, true, false].map(Some));
        assert_eq!([0.9, 0.95, 1.2].map(|ours| met(Line::rate("", ours, 1.0, "/s", Some(0.95)))), [false, true, true].map(Some));
        assert!(met(Line::new("", 1.0, 1.0, "µs", None)).is_none());
        assert!(Line::figure("x", 2.0, "MiB").to_string().ends_with(" 2.00         - MiB        -"));
        assert!(Line::rate("x", 98.0, 100.0, "/s", Some(0.95)).to_string().ends_with("98.00    100.00 /s      0.98 ≥ 0.95 met"));
    }

    #[test]
    fn thousands_are_told_apart() {
        assert_eq!([0.5, 20.0, 1_000.0, 100_000.0].map(number), ["0.5", "20", "1,000", "100,000"]);
    }

    #[test]
    fn the_median_is_a_measured_one() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn percentiles_are_measurements() {
        let ten = || (1..=10).rev().map(f64::from).collect();
        assert_eq!([percentile(ten(), 90), percentile(ten(), 100), percentile(vec![7.0], 90)], [9.0, 10.0, 7.0]);
        assert!(percentile(Vec::new(), 90).is_nan());
    }

    #[test]
    fn a_count_that_should_be_none_is_met_by_none_alone() {
        assert_eq!([0.0, 1.0].map(|count| Line::none("", count, "").met), [Some(true), Some(false)]);
    }
}
