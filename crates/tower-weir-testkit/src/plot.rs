//! Drawings of what changes in steps: slots, limits, calls in flight.

use std::fmt::{self, Write as _};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 400.0;
/// Room for the numbers at the axes.
const LEFT: f64 = 40.0;
const BELOW: f64 = 30.0;
const ABOVE: f64 = 30.0;

/// A line that changes in steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// What is written above the drawing.
    pub name: &'static str,
    /// A color, as SVG has them.
    pub color: &'static str,
    /// Seconds, in their order, and the value from there on.
    pub points: Vec<(f64, usize)>,
}

/// Draws the lines up to `end`, in seconds, as an SVG, the first at the bottom.
/// Points after the end are left out.
///
/// ```
/// use tower_weir_testkit::plot::{Steps, draw};
///
/// let limit = Steps {
///     name: "limit",
///     color: "#c23b22",
///     points: vec![(0.0, 10), (0.5, 5)],
/// };
/// assert!(draw(&[limit], 1.0).starts_with("<svg "));
/// ```
pub fn draw(lines: &[Steps], end: f64) -> String {
    let shown = lines.iter().flat_map(|line| line.until(end));
    let scale = Scale {
        end: end.max(0.001),
        top: shown.map(|(_, value)| value).max().unwrap_or(1).max(1),
    };
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = scale.write(lines, &mut svg);
    svg
}

impl Steps {
    fn until(&self, end: f64) -> impl Iterator<Item = (f64, usize)> {
        let points = self.points.iter().copied();
        points.take_while(move |(at, _)| *at <= end)
    }
}

/// From seconds and values to places in the drawing.
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

    fn write(&self, lines: &[Steps], svg: &mut String) -> fmt::Result {
        writeln!(
            svg,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
        )?;
        writeln!(svg, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
        self.axes(svg)?;
        for (index, line) in lines.iter().enumerate() {
            let Steps { name, color, .. } = line;
            write!(svg, r#"<path d=""#)?;
            self.path(line, svg)?;
            writeln!(
                svg,
                r#"" fill="none" stroke="{color}" stroke-width="1.5"/>"#
            )?;
            let x = LEFT + 100.0 * index as f64;
            writeln!(svg, r#"<text x="{x}" y="18" fill="{color}">{name}</text>"#)?;
        }
        writeln!(svg, "</svg>")
    }

    fn axes(&self, svg: &mut String) -> fmt::Result {
        let right = self.x(self.end);
        for value in ticks(self.top as f64, 1.0).map(|tick| tick as usize) {
            let (y, x) = (self.y(value), LEFT - 6.0);
            writeln!(
                svg,
                r##"<path d="M{LEFT} {y:.1}H{right:.1}" stroke="#dddddd"/><text x="{x}" y="{y:.1}" dy="4" text-anchor="end">{value}</text>"##
            )?;
        }
        for at in ticks(self.end, 0.001) {
            let (x, y) = (self.x(at), HEIGHT - 10.0);
            writeln!(
                svg,
                r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{at} s</text>"#
            )?;
        }
        Ok(())
    }

    /// A corner wherever the value changes.
    fn path(&self, line: &Steps, svg: &mut String) -> fmt::Result {
        let mut last = None;
        for (at, value) in line.until(self.end) {
            let (x, y) = (self.x(at), self.y(value));
            match last.replace(value) {
                None => write!(svg, "M{x:.1} {y:.1}")?,
                Some(before) if before != value => write!(svg, "H{x:.1}V{y:.1}")?,
                Some(_) => {}
            }
        }
        match last {
            Some(_) => write!(svg, "H{:.1}", self.x(self.end)),
            None => Ok(()),
        }
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
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let ticks = |top, least| ticks(top, least).collect::<Vec<_>>();
        assert_eq!(ticks(5.2, 0.001), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(ticks(1.0, 1.0), [0.0, 1.0]);
        assert_eq!(ticks(64.0, 1.0), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
    }

    #[test]
    fn a_line_has_a_corner_where_its_value_changes() {
        let line = |name, points: &[(f64, usize)]| Steps {
            name,
            color: "black",
            points: points.to_vec(),
        };
        let svg = draw(
            &[
                line("limit", &[(0.0, 10), (0.5, 10), (1.0, 5)]),
                line("capacity", &[(0.0, 2), (9.0, 40)]),
            ],
            2.0,
        );
        let limit = r#"d="M40.0 30.0H480.0V200.0H920.0""#;
        assert!(svg.contains(limit), "{svg}");
        let capacity = r#"d="M40.0 302.0H920.0""#;
        assert!(svg.contains(capacity), "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_run_without_points_makes_a_drawing_too() {
        assert!(draw(&[], 0.0).ends_with("</svg>\n"));
    }
}
