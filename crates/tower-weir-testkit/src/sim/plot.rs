use std::fmt::{self, Write};

use super::TracePoint;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 320.0;
/// Room around the lines for numbers and names.
const MARGIN: f64 = 40.0;

type Pick = fn(&TracePoint) -> usize;

/// What is drawn, the first at the bottom.
const LINES: [(&str, &str, Pick); 3] = [
    ("busy", "#9dbfe3", |point| point.busy),
    ("limit", "#c23b22", |point| point.limit),
    ("capacity", "#222222", |point| point.capacity),
];

/// Draws a run as an SVG: the sum of the limits, the server's slots and those
/// at work, over time.
pub fn plot(trace: &[TracePoint]) -> String {
    let values = LINES.iter().flat_map(|(_, _, pick)| trace.iter().map(pick));
    let scale = Scale {
        end: trace.last().map_or(1.0, |point| point.at_s).max(0.1),
        top: values.max().unwrap_or(0).max(1) as f64,
    };
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = scale.draw(trace, &mut svg);
    svg
}

/// From seconds and slots to places in the drawing.
struct Scale {
    end: f64,
    top: f64,
}

impl Scale {
    fn x(&self, at: f64) -> f64 {
        MARGIN + at / self.end * (WIDTH - 2.0 * MARGIN)
    }

    fn y(&self, slots: usize) -> f64 {
        HEIGHT - MARGIN - slots as f64 / self.top * (HEIGHT - 2.0 * MARGIN)
    }

    fn draw(&self, trace: &[TracePoint], svg: &mut String) -> fmt::Result {
        writeln!(
            svg,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
        )?;
        writeln!(svg, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
        self.axes(svg)?;
        for (index, (name, color, pick)) in LINES.iter().enumerate() {
            write!(
                svg,
                r#"<polyline fill="none" stroke="{color}" stroke-width="1.5" points=""#
            )?;
            self.steps(trace, *pick, svg)?;
            writeln!(svg, r#""/>"#)?;
            let x = MARGIN + 100.0 * index as f64;
            writeln!(svg, r#"<text x="{x}" y="20" fill="{color}">{name}</text>"#)?;
        }
        writeln!(svg, "</svg>")
    }

    /// A corner wherever the value changes.
    fn steps(&self, trace: &[TracePoint], pick: Pick, svg: &mut String) -> fmt::Result {
        let mut last = None;
        for point in trace {
            let value = pick(point);
            let (x, y) = (self.x(point.at_s), self.y(value));
            match last.replace(value) {
                None => write!(svg, "{x:.1},{y:.1}")?,
                Some(before) if before != value => {
                    write!(svg, " {x:.1},{:.1} {x:.1},{y:.1}", self.y(before))?;
                }
                Some(_) => {}
            }
        }
        match last {
            Some(value) => write!(svg, " {:.1},{:.1}", self.x(self.end), self.y(value)),
            None => Ok(()),
        }
    }

    fn axes(&self, svg: &mut String) -> fmt::Result {
        let right = self.x(self.end);
        for slots in ticks(self.top) {
            let y = self.y(slots);
            writeln!(
                svg,
                r##"<path d="M{MARGIN} {y:.1}H{right:.1}" stroke="#dddddd"/><text x="34" y="{y:.1}" dy="4" text-anchor="end">{slots}</text>"##
            )?;
        }
        for at in ticks(self.end) {
            let (x, y) = (self.x(at as f64), HEIGHT - 16.0);
            writeln!(
                svg,
                r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{at} s</text>"#
            )?;
        }
        Ok(())
    }
}

/// Round numbers from 0 to `top`, seven at most.
fn ticks(top: f64) -> impl Iterator<Item = usize> {
    let top = top as usize;
    let powers = (0..).map(|power| 10_usize.pow(power));
    let steps = powers.flat_map(|power| [power, 2 * power, 5 * power]);
    let step = steps.into_iter().find(|step| top / step <= 6);
    (0..=top).step_by(step.unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_s: f64, limit: usize) -> TracePoint {
        TracePoint {
            at_s,
            limit,
            capacity: 8,
            busy: 0,
        }
    }

    #[test]
    fn a_line_has_a_corner_where_its_value_changes() {
        let svg = plot(&[point(0.0, 4), point(1.0, 4), point(2.0, 8), point(4.0, 8)]);
        let limit = r#"points="40.0,160.0 480.0,160.0 480.0,40.0 920.0,40.0""#;
        assert!(svg.contains(limit), "{svg}");
        assert!(svg.contains(r#"points="40.0,40.0 920.0,40.0""#), "{svg}");
    }

    #[test]
    fn ticks_are_round_and_few() {
        let ticks = |top| ticks(top).collect::<Vec<_>>();
        assert_eq!(ticks(0.5), [0]);
        assert_eq!(ticks(32.0), [0, 5, 10, 15, 20, 25, 30]);
        assert_eq!(ticks(70.0), [0, 20, 40, 60]);
    }

    #[test]
    fn a_run_without_points_makes_a_drawing_too() {
        assert!(plot(&[]).ends_with("</svg>\n"));
    }
}
