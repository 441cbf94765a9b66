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
    /// What the ratio should be at most; none: a figure for comparison only.
    pub goal: Option<f64>,
    /// Whether it is; a figure without a goal is neither.
    pub met: Option<bool>,
}

impl Line {
    /// A ratio that should be at most so large.
    pub fn new(name: impl Into<String>, ours: f64, baseline: f64, unit: &'static str, goal: Option<f64>) -> Line {
        let ratio = ours / baseline;
        Line { name: name.into(), ours, baseline, unit, ratio, goal, met: goal.map(|goal| ratio <= goal) }
    }
}

impl Line {
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
    format!("{:62} {:>9} {:>9} {:4} {:>6} {:>6}", "name", "ours", "baseline", "", "ratio", "goal")
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:62} {:9.2} {:9.2} {:4} {:6.2}", self.name, self.ours, self.baseline, self.unit, self.ratio)?;
        match (self.goal, self.met) {
            (Some(goal), Some(met)) => write!(f, " {goal:6.2} {}", if met { "met" } else { "short" }),
            _ => Ok(()),
        }
    }
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
