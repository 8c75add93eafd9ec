//! Runs the limiter against simulated servers and prints what it came to.

use std::{
    fs,
    io::{self, Write},
    num::NonZero,
    ops::RangeInclusive,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use clap::{Parser, ValueEnum};
use tower_weir_testkit::sim::{LawChoice, Report, Run, Scenario, plot, run, run_real};

/// How many random servers stand behind the scenario `random`.
const RANDOM_SERVERS: u64 = 200;

/// Run the concurrency limit against simulated servers.
#[derive(Debug, Parser)]
struct Args {
    /// A scenario's name, `random` for 200 servers of all kinds, or `all`
    #[arg(long)]
    scenario: String,
    /// Where the random numbers start, and which 200 servers `random` has
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// One run for each of these seeds; the table shows medians
    #[arg(long, value_name = "FROM-TO", value_parser = seeds, default_value = "1-5")]
    seeds: RangeInclusive<u64>,
    /// proportional, halve, naive or fixed:N
    #[arg(long, default_value_t = LawChoice::Proportional)]
    law: LawChoice,
    /// What is around the law
    #[arg(long, value_enum, default_value_t = Around::Real)]
    limiter: Around,
    /// One JSON object a line and run instead of a table
    #[arg(long)]
    json: bool,
    /// One JSON object a line for each 100 ms of the run
    #[arg(long)]
    trace: bool,
    /// Draws the limit against the server's capacity in one scenario's first run
    /// as an SVG, instead of a table
    #[arg(long, value_name = "FILE.svg", conflicts_with_all = ["json", "trace"])]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Around {
    /// The limiter that ships
    Real,
    /// A plain model of slots and waiters, ten times as fast
    Model,
}

fn seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let range = text.split_once('-').and_then(|(from, to)| {
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        (from <= to).then_some(from..=to)
    });
    range.ok_or_else(|| "two seeds, as in 101-105".to_owned())
}

type Pick = fn(&Report) -> Option<f64>;

const COLUMNS: [(&str, Pick); 9] = [
    ("goodput", |r| r.goodput),
    ("rej/succ", |r| r.rejects_per_success),
    ("down s", |r| r.settle_down_s),
    ("up s", |r| r.settle_up_s),
    ("sends/s", |r| r.outage_sends_per_s),
    ("recov s", |r| r.recovery_s),
    ("jain", |r| r.jain),
    ("rtt x", |r| r.rtt_ratio),
    ("peak", |r| r.peak_rejects_100ms.map(f64::from)),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let seeds = args.seed.map_or(args.seeds.clone(), |seed| seed..=seed);
    if let Some(file) = &args.plot {
        let scenario = Scenario::named(&args.scenario).ok_or("no such scenario")?;
        let run = args.run(&scenario, *seeds.start())?;
        fs::write(file, plot(&run.trace))?;
        return Ok(());
    }
    let mut out = io::stdout().lock();
    if !args.json && !args.trace {
        write!(out, "{:14}", "scenario")?;
        for (title, _) in COLUMNS {
            write!(out, " {title:>9}")?;
        }
        writeln!(out)?;
    }
    let scenarios = match args.scenario.as_str() {
        "all" => Scenario::all(),
        "random" => Vec::new(),
        name => vec![Scenario::named(name).ok_or("no such scenario")?],
    };
    for scenario in scenarios {
        let name = scenario.name.clone();
        let jobs = seeds.clone().map(|seed| (scenario.clone(), seed));
        let reports = args.reports(&mut out, &jobs.collect::<Vec<_>>())?;
        args.print_row(&mut out, &name, &reports, |values| values[values.len() / 2])?;
    }
    if matches!(args.scenario.as_str(), "all" | "random") {
        let server = |set: u64| {
            let numbers = set * RANDOM_SERVERS..(set + 1) * RANDOM_SERVERS;
            numbers.map(move |number| (Scenario::random(number), set))
        };
        let reports = args.reports(&mut out, &seeds.flat_map(server).collect::<Vec<_>>())?;
        args.print_row(&mut out, "random mean", &reports, |values| {
            values.iter().sum::<f64>() / values.len() as f64
        })?;
        args.print_row(&mut out, "random p10", &reports, |values| {
            values[values.len() / 10]
        })?;
        args.print_row(&mut out, "random max", &reports, |values| {
            values[values.len() - 1]
        })?;
    }
    Ok(())
}

impl Args {
    fn run(&self, scenario: &Scenario, seed: u64) -> io::Result<Run> {
        match self.limiter {
            Around::Real => run_real(scenario, self.law, seed),
            Around::Model => Ok(run(scenario, self.law, seed)),
        }
    }

    /// Runs the jobs on all processors and writes what was asked for besides
    /// the table.
    fn reports(&self, out: &mut dyn Write, jobs: &[(Scenario, u64)]) -> io::Result<Vec<Report>> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::new());
        let work = || {
            while let number = next.fetch_add(1, Ordering::Relaxed)
                && let Some((scenario, seed)) = jobs.get(number)
            {
                let mut run = self.run(scenario, *seed);
                if let (Ok(run), false) = (&mut run, self.trace) {
                    run.trace = Vec::new();
                }
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.push((number, run));
            }
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        thread::scope(|scope| {
            for _ in 0..threads.min(jobs.len()) {
                scope.spawn(work);
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(number, _)| *number);
        let mut reports = Vec::new();
        for (_, run) in done {
            let run = run?;
            if self.json {
                writeln!(out, "{}", serde_json::to_string(&run.report)?)?;
            }
            for point in &run.trace {
                writeln!(out, "{}", serde_json::to_string(point)?)?;
            }
            reports.push(run.report);
        }
        Ok(reports)
    }

    fn print_row(
        &self,
        out: &mut dyn Write,
        name: &str,
        reports: &[Report],
        summary: fn(&[f64]) -> f64,
    ) -> io::Result<()> {
        if self.json || self.trace {
            return Ok(());
        }
        write!(out, "{name:14}")?;
        for (_, pick) in COLUMNS {
            let mut values: Vec<f64> = reports.iter().filter_map(pick).collect();
            values.sort_by(f64::total_cmp);
            match values.is_empty() {
                true => write!(out, " {:>9}", "-")?,
                false => write!(out, " {:>9.4}", summary(&values))?,
            }
        }
        writeln!(out)
    }
}
