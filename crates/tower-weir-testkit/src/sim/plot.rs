use super::TracePoint;
use crate::plot::{Steps, draw};

/// Draws a run as an SVG: the sum of the limits, the server's slots and those
/// at work, over time.
pub fn plot(trace: &[TracePoint]) -> String {
    let line = |name, color, pick: fn(&TracePoint) -> usize| Steps {
        name,
        color,
        points: trace
            .iter()
            .map(|point| (point.at_s, pick(point)))
            .collect(),
    };
    let lines = [
        line("busy", "#9dbfe3", |point| point.busy),
        line("limit", "#c23b22", |point| point.limit),
        line("capacity", "#222222", |point| point.capacity),
    ];
    draw(&lines, trace.last().map_or(0.0, |point| point.at_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_three_lines() {
        let point = |at_s, limit| TracePoint {
            at_s,
            limit,
            capacity: 8,
            busy: 0,
        };
        let svg = plot(&[point(0.0, 4), point(2.0, 8), point(4.0, 8)]);
        for line in [
            r##"d="M40.0 370.0H920.0" fill="none" stroke="#9dbfe3""##,
            r##"d="M40.0 200.0H480.0V30.0H920.0" fill="none" stroke="#c23b22""##,
            r##"d="M40.0 30.0H920.0" fill="none" stroke="#222222""##,
        ] {
            assert!(svg.contains(line), "{svg}");
        }
    }
}
