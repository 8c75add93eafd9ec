//! Servers under load generators that are other people's programs, in turns so short
//! that a machine whose speed drifts treats all of them alike.

use std::{
    io::{self, Write},
    process::Child,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    process::{Place, Process, Shell, pause},
    served::{CONNECTIONS, Variant},
    tools::{Files, Tool},
};
use crate::{
    measure::{Effort, Spread},
    report::{Line, Report},
};

/// How long a server and its load generator run before they are stopped, and the next
/// go on.
const TURN: Duration = Duration::from_millis(50);

/// So much longer than thrice its time a run may take.
const HUNG: Duration = Duration::from_secs(10);

/// What one run came to: requests a second, the server's processor time for each in
/// nanoseconds, and its memory at the end.
#[derive(Clone, Copy)]
struct Run {
    per_second: f64,
    burnt: f64,
    resident_kib: Option<u64>,
}

/// A server and its load generator, which run at the same time.
struct Pair {
    server: Process,
    tool: Option<Child>,
    ran: Duration,
}

impl Pair {
    fn new(variant: Variant, place: Place, shell: &mut Shell) -> io::Result<Self> {
        let server = Process::new(variant, place)?;
        shell.keep(server.id())?;
        if place.workers < 2 {
            shell.pin(server.id(), 0)?;
        }
        Ok(Self {
            server,
            tool: None,
            ran: Duration::ZERO,
        })
    }

    fn start(
        &mut self,
        tool: Tool,
        requests: f64,
        place: Place,
        files: &Files,
        shell: &mut Shell,
    ) -> Result<(), String> {
        let child = tool.start(&self.server.url(), requests, files)?;
        let id = self.tool.insert(child).id();
        let pinned = match place.workers {
            0 | 1 => shell.pin(id, 1),
            _ => Ok(()),
        };
        shell
            .keep(id)
            .and(pinned)
            .map_err(|error| error.to_string())
    }

    fn ids(&self) -> Vec<u32> {
        let tool = self.tool.as_ref().map(Child::id);
        tool.into_iter().chain([self.server.id()]).collect()
    }

    /// Both run, until the turn is over or there is no more to be done. Says whether
    /// there is not.
    fn turn(&mut self, shell: &mut Shell) -> io::Result<bool> {
        let begin = Instant::now();
        shell.signal("CONT", &self.ids())?;
        let mut over = false;
        while !over && begin.elapsed() < TURN {
            pause();
            let tool = self.tool.as_mut().map(Child::try_wait);
            over = tool.transpose()?.flatten().is_some();
        }
        self.ran += begin.elapsed();
        shell.signal("STOP", &self.ids())?;
        Ok(over)
    }

    /// An error if it has hung.
    fn is_in_time(&self, run: Duration) -> Result<(), String> {
        let late = self.ran > 3 * run + HUNG;
        let hung = || format!("a run of {run:?} has not ended after {:?}", self.ran);
        if late { Err(hung()) } else { Ok(()) }
    }

    /// What came of it. The server stays stopped, so that all requests that are
    /// counted were answered within the turns.
    fn end(mut self, tool: Tool, shell: &mut Shell) -> Result<Run, String> {
        let Some(child) = self.tool.take() else {
            return Err(format!("{} has not begun", tool.name()));
        };
        let requests = tool.requests(child, shell)?;
        let burnt = self.server.burnt();
        let burnt = burnt.map_or(f64::NAN, |burnt| burnt.as_secs_f64());
        Ok(Run {
            per_second: requests as f64 / self.ran.as_secs_f64(),
            burnt: burnt * 1e9 / requests as f64,
            resident_kib: self.server.resident_kib(),
        })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Some(tool) = &mut self.tool {
            let _ = tool.kill();
            let _ = tool.wait();
        }
    }
}

/// A server of each kind in a new process, each of which runs for so long.
fn round(
    tool: Tool,
    variants: &[Variant],
    place: Place,
    run: Duration,
    files: &Files,
) -> Result<Vec<Run>, String> {
    let failed = |error: io::Error| error.to_string();
    let mut shell = Shell::new().map_err(failed)?;
    // What h2load is given: so many as the server without a layer has time for.
    let requests = match tool.is_interrupted() {
        true => 0.0,
        false => {
            let few = 100.0 * CONNECTIONS as f64;
            let mut pair = Pair::new(variants[0], place, &mut shell).map_err(failed)?;
            pair.start(tool, few, place, files, &mut shell)?;
            while !pair.turn(&mut shell).map_err(failed)? {
                pair.is_in_time(run)?;
            }
            pair.end(tool, &mut shell)?.per_second * run.as_secs_f64()
        }
    };
    let mut pairs = Vec::new();
    for variant in variants {
        let mut pair = Pair::new(*variant, place, &mut shell).map_err(failed)?;
        pair.start(tool, requests, place, files, &mut shell)?;
        pair.turn(&mut shell).map_err(failed)?;
        pairs.push((pair, false));
    }
    let mut turn = 0;
    while pairs.iter().any(|(_, over)| !over) {
        for step in 0..pairs.len() {
            let which = (turn + step) % variants.len();
            let (pair, over) = &mut pairs[which];
            if !*over {
                *over = pair.turn(&mut shell).map_err(failed)?;
                *over |= tool.is_interrupted() && pair.ran >= run;
                pair.is_in_time(run)?;
            }
        }
        turn += 1;
    }
    let runs = pairs
        .into_iter()
        .map(|(pair, _)| pair.end(tool, &mut shell));
    runs.collect()
}

/// The mean, and its standard error.
fn mean(numbers: &[f64]) -> (f64, f64) {
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let squares: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

/// Servers in processes of their own, with 256 connections each by wrk (HTTP/1) and
/// by h2load (HTTP/2), in turns of 50 ms: all processes but one server and its load
/// generator are stopped meanwhile. A round is a new process of each, since two
/// processes of one program are not equally fast, whatever they do. A load generator
/// that is not there is an error in its line. What each is compared with, axum alone,
/// is always among them.
///
/// # Errors
///
/// Those of the output and of the temporary files.
pub fn outside<W: Write>(
    report: &mut Report<W>,
    effort: &Effort,
    place: Place,
    seconds: u64,
) -> io::Result<()> {
    let files = Files::new(&place.handler.body())?;
    for tool in Tool::ALL {
        let name = |variant: Variant| {
            let (tool, variant) = (tool.name(), variant.name());
            format!("{tool}, {CONNECTIONS} connections: {variant}")
        };
        let wanted = |variant: &Variant| effort.wants(&name(*variant));
        let is_wanted = |it: &Variant| {
            let mut own = Variant::ALL.into_iter().filter(|own| own.bare() == *it);
            wanted(it) || own.any(|own| wanted(&own))
        };
        let variants: Vec<_> = Variant::ALL.into_iter().filter(is_wanted).collect();
        if variants.is_empty() {
            continue;
        }
        let run = Duration::from_secs(seconds);
        let rounds = (0..effort.rounds).map(|_| round(tool, &variants, place, run, &files));
        let rounds = match rounds.collect::<Result<Vec<_>, _>>() {
            Ok(rounds) => rounds,
            Err(error) => {
                report.line(Line::new("outside", tool.name()).with("error", error))?;
                continue;
            }
        };
        let digits = |number: f64| (number * 1e4).round() / 1e4;
        for (which, variant) in variants.iter().enumerate() {
            let name = name(*variant);
            let all = |of: fn(&Run) -> f64| rounds.iter().map(move |runs| of(&runs[which]));
            let bare = variants.iter().position(|it| *it == variant.bare());
            let over_bare = |of: fn(&Run) -> f64| {
                let bare = rounds.iter().filter_map(|runs| Some(of(&runs[bare?])));
                let ratios = all(of).zip(bare);
                mean(&ratios.map(|(own, bare)| own / bare).collect::<Vec<_>>())
            };
            let rates: Vec<_> = all(|run| run.per_second).collect();
            let (ratio, error) = over_bare(|run| run.per_second);
            let resident = rounds.last().and_then(|runs| runs[which].resident_kib);
            let mut line = Line::new("outside", &name)
                .with("handler", place.handler.name())
                .with("workers", place.workers)
                .with("per_second", Spread::of(&rates).map(|it| it.median.round()))
                .with("throughput_over_bare", digits(ratio))
                .with("standard_error", digits(error))
                .with("cpu_over_bare", digits(over_bare(|run| run.burnt).0))
                .with("resident_kib", resident);
            line.nanos = Spread::of(&all(|run| run.burnt).collect::<Vec<_>>());
            report.line(line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_has_its_error() {
        let (mean, error) = mean(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(mean, 2.5);
        assert!((error - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }
}
