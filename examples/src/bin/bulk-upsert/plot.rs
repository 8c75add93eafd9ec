use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use tower_weir::BoxError;
use tower_weir_testkit::upstream::{Point, TimeLine};

use crate::sampler::{Sample, Series};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 400.0;
/// Room for the numbers at the axes.
const LEFT: f64 = 40.0;
const BELOW: f64 = 30.0;
const ABOVE: f64 = 30.0;

/// The drawing of a run: limit, in-flight, and the upstream's true capacity
/// over time.
#[derive(Debug)]
pub(crate) struct Plot(File);

/// A line of steps: seconds, and the value from there on.
struct Steps {
    name: &'static str,
    color: &'static str,
    points: Vec<(f64, usize)>,
}

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
    let end = series.last().map_or(1.0, |sample| sample.at.as_secs_f64());
    let of = |value: fn(&Sample) -> usize| -> Vec<_> {
        let point = |sample: &Sample| (sample.at.as_secs_f64(), value(sample));
        series.iter().map(point).collect()
    };
    let mut lines = vec![
        Steps {
            name: "in flight",
            color: "#7aa6da",
            points: of(|sample| sample.in_flight),
        },
        Steps {
            name: "limit",
            color: "#c23b22",
            points: of(|sample| sample.limit),
        },
    ];
    lines.extend(upstream.map(|line| {
        Steps {
            name: "capacity",
            color: "#222222",
            points: line
                .capacity
                .iter()
                .map(known)
                .filter(|(at, _)| *at <= end)
                .collect(),
        }
    }));
    let values = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.1);
    let scale = Scale {
        end: end.max(0.001),
        top: values.max().unwrap_or(1).max(1),
    };
    let mut svg = String::new();
    // writing to a string cannot fail
    let _ = scale.write(&lines, &mut svg);
    svg
}

fn known(point: &Point) -> (f64, usize) {
    (point.at.as_secs_f64(), point.value)
}

struct Scale {
    end: f64,
    top: usize,
}

impl Scale {
    fn x(&self, at: f64) -> f64 {
        LEFT + at / self.end * (WIDTH - 2.0 * LEFT)
    }

    fn y(&self, value: usize) -> f64 {
        HEIGHT - BELOW - value as f64 / self.top as f64 * (HEIGHT - BELOW - ABOVE)
    }

    fn write(&self, lines: &[Steps], to: &mut String) -> std::fmt::Result {
        writeln!(
            to,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
        )?;
        writeln!(to, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
        self.axes(to)?;
        for (index, line) in lines.iter().enumerate() {
            let Steps { name, color, .. } = line;
            let path = self.path(&line.points);
            writeln!(
                to,
                r#"<path d="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>"#
            )?;
            let x = LEFT + 100.0 * index as f64;
            writeln!(to, r#"<text x="{x}" y="18" fill="{color}">{name}</text>"#)?;
        }
        writeln!(to, "</svg>")
    }

    fn axes(&self, to: &mut String) -> std::fmt::Result {
        let right = self.x(self.end);
        for value in ticks(self.top as f64, 1.0).map(|tick| tick as usize) {
            let (y, x) = (self.y(value), LEFT - 6.0);
            writeln!(
                to,
                r##"<path d="M{LEFT} {y:.1}H{right:.1}" stroke="#dddddd"/>"##
            )?;
            writeln!(
                to,
                r#"<text x="{x}" y="{y:.1}" dy="4" text-anchor="end">{value}</text>"#
            )?;
        }
        for at in ticks(self.end, 0.001) {
            let (x, y) = (self.x(at), HEIGHT - 10.0);
            writeln!(
                to,
                r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{at} s</text>"#
            )?;
        }
        Ok(())
    }

    fn path(&self, points: &[(f64, usize)]) -> String {
        let mut path = String::new();
        let mut last = None;
        for &(at, value) in points.iter().filter(|point| {
            let new = last != Some(point.1);
            last = Some(point.1);
            new
        }) {
            let (x, y) = (self.x(at), self.y(value));
            let _ = match path.is_empty() {
                true => write!(path, "M{x:.1} {y:.1}"),
                false => write!(path, "H{x:.1}V{y:.1}"),
            };
        }
        if !path.is_empty() {
            let _ = write!(path, "H{:.1}", self.x(self.end));
        }
        path
    }
}

/// Round numbers from 0 up to `top`: at most eleven, and `least` apart or more.
fn ticks(top: f64, least: f64) -> impl Iterator<Item = f64> {
    let magnitude = 10_f64.powf(top.log10().floor());
    let steps = [0.1, 0.2, 0.5, 1.0].map(|factor| factor * magnitude);
    let step = steps.into_iter().find(|step| top / step <= 10.0);
    let step = step.unwrap_or(magnitude).max(least);
    (0..=10)
        .map(move |index| f64::from(index) * step)
        .take_while(move |tick| *tick <= top)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let ticks = |top, least| ticks(top, least).collect::<Vec<_>>();
        assert_eq!(ticks(5.2, 0.001), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(ticks(1.0, 1.0), [0.0, 1.0]);
        assert_eq!(ticks(64.0, 1.0), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
    }

    #[test]
    fn a_line_has_a_step_where_its_value_changes() {
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
        assert!(
            svg.contains(r#"d="M40.0 30.0H920.0V200.0H920.0""#),
            "limit: {svg}"
        );
        assert!(svg.contains(r#"d="M40.0 302.0H920.0""#), "capacity: {svg}");
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn an_empty_run_makes_a_drawing_too() {
        assert!(svg(&Vec::new(), None).ends_with("</svg>\n"));
    }
}
