use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use tower_weir::BoxError;
use tower_weir_testkit::{
    plot::{Steps, draw},
    upstream::TimeLine,
};

use crate::sampler::{Sample, Series};

/// The drawing of a run: limit, in-flight, and the upstream's true capacity
/// over time.
#[derive(Debug)]
pub(crate) struct Plot(File);

impl Plot {
    pub(crate) fn create(path: &Path) -> Result<Self, BoxError> {
        let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(file))
    }

    pub(crate) fn draw(mut self, series: &Series, upstream: Option<&TimeLine>) -> io::Result<()> {
        self.0.write_all(svg(series, upstream).as_bytes())
    }
}

fn svg(series: &Series, upstream: Option<&TimeLine>) -> String {
    let line = |name, color, value: fn(&Sample) -> usize| Steps {
        name,
        color,
        points: series
            .iter()
            .map(|sample| (sample.at.as_secs_f64(), value(sample)))
            .collect(),
    };
    let mut lines = vec![
        line("in flight", "#7aa6da", |sample| sample.in_flight),
        line("limit", "#c23b22", |sample| sample.limit),
    ];
    lines.extend(upstream.map(|known| {
        Steps {
            name: "capacity",
            color: "#222222",
            points: known
                .capacity
                .iter()
                .map(|point| (point.at.as_secs_f64(), point.value))
                .collect(),
        }
    }));
    let end = series.last().map_or(0.0, |sample| sample.at.as_secs_f64());
    draw(&lines, end)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tower_weir_testkit::upstream::Point;

    use super::*;

    #[test]
    fn a_run_is_drawn_beside_what_the_upstream_had() {
        let sample = |millis, limit| Sample {
            at: Duration::from_millis(millis),
            limit,
            in_flight: 1,
            circuit: None,
        };
        let series = vec![sample(0, 10), sample(500, 10), sample(1000, 5)];
        let upstream = TimeLine {
            capacity: vec![
                Point {
                    at: Duration::ZERO,
                    value: 2,
                },
                Point {
                    at: Duration::from_secs(9),
                    value: 4,
                },
            ],
            ..TimeLine::default()
        };
        let svg = svg(&series, Some(&upstream));
        let limit = r##"d="M40.0 30.0H920.0V200.0H920.0" fill="none" stroke="#c23b22""##;
        assert!(svg.contains(limit), "{svg}");
        let capacity = r##"d="M40.0 302.0H920.0" fill="none" stroke="#222222""##;
        assert!(svg.contains(capacity), "{svg}");
    }
}
