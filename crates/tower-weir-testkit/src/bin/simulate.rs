//! Runs the limiter's law against simulated servers and prints what it came to.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::Parser;
use tower_weir_testkit::sim::{LawChoice, Report, Scenario, plot, run};

/// How many random servers stand behind the scenario `random`.
const RANDOM_SERVERS: u64 = 200;

/// Run the concurrency law against simulated servers.
#[derive(Debug, Parser)]
struct Args {
    /// A scenario's name, `random` for 200 servers of all kinds, or `all`
    #[arg(long)]
    scenario: String,
    /// Where the random numbers start, and which 200 servers `random` has. Without
    /// it there are five runs, of the seeds 1 to 5, and the table shows medians
    #[arg(long)]
    seed: Option<u64>,
    /// proportional, halve, naive or fixed:N
    #[arg(long, default_value_t = LawChoice::Proportional)]
    law: LawChoice,
    /// One JSON object a line and run instead of a table
    #[arg(long)]
    json: bool,
    /// One JSON object a line for each 100 ms of the run
    #[arg(long)]
    trace: bool,
    /// Draws the limit against the server's capacity in one scenario's first run
    /// (of seed 1, or the one given) as an SVG, instead of a table
    #[arg(long, value_name = "FILE.svg", conflicts_with_all = ["json", "trace"])]
    plot: Option<PathBuf>,
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
    if let Some(file) = &args.plot {
        let scenario = Scenario::named(&args.scenario).ok_or("no such scenario")?;
        let run = run(&scenario, args.law, args.seed.unwrap_or(1));
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
    let seeds = match args.seed {
        Some(seed) => seed..=seed,
        None => 1..=5,
    };
    let all = args.scenario == "all";
    let scenarios = match args.scenario.as_str() {
        "all" => Scenario::all(),
        "random" => Vec::new(),
        name => vec![Scenario::named(name).ok_or("no such scenario")?],
    };
    for scenario in &scenarios {
        let reports = seeds
            .clone()
            .map(|seed| report(&args, scenario, seed, &mut out))
            .collect::<Result<Vec<_>, _>>()?;
        print_row(&args, &mut out, &scenario.name, &reports, median)?;
    }
    if all || args.scenario == "random" {
        let mut reports = Vec::new();
        for set in seeds {
            for number in 0..RANDOM_SERVERS {
                let scenario = Scenario::random(set * RANDOM_SERVERS + number);
                reports.push(report(&args, &scenario, set, &mut out)?);
            }
        }
        print_row(&args, &mut out, "random mean", &reports, |values| {
            values.iter().sum::<f64>() / values.len() as f64
        })?;
        print_row(&args, &mut out, "random p10", &reports, |values| {
            values[values.len() / 10]
        })?;
        print_row(&args, &mut out, "random max", &reports, |values| {
            values[values.len() - 1]
        })?;
    }
    Ok(())
}

/// Runs a scenario once and writes what was asked for besides the table.
fn report(
    args: &Args,
    scenario: &Scenario,
    seed: u64,
    out: &mut dyn Write,
) -> Result<Report, Box<dyn std::error::Error>> {
    let run = run(scenario, args.law, seed);
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&run.report)?)?;
    }
    if args.trace {
        for point in &run.trace {
            writeln!(out, "{}", serde_json::to_string(point)?)?;
        }
    }
    Ok(run.report)
}

fn median(values: &[f64]) -> f64 {
    values[values.len() / 2]
}

fn print_row(
    args: &Args,
    out: &mut dyn Write,
    name: &str,
    reports: &[Report],
    summary: fn(&[f64]) -> f64,
) -> io::Result<()> {
    if args.json || args.trace {
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
