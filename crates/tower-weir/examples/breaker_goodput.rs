//! What the circuit breaker costs where an upstream throttles, and what it saves
//! one that is dead: the tables of `docs/circuit-breaker-figures.md`, made anew. Time is
//! virtual, so the same seeds give the same figures on any machine.
//!
//! ```sh
//! cargo run -p tower-weir --example breaker_goodput [FIRST_SEED LAST_SEED]
//! ```

#[path = "../tests/breaker/crowd.rs"]
mod crowd;
#[path = "../tests/breaker/server.rs"]
mod server;

use std::{
    env,
    io::{self, Write},
    ops::RangeInclusive,
    time::Duration,
};

use tower_weir::circuit_breaker::OpenFor;

use self::{
    crowd::{Breaker, DEFAULT, Full, LITERAL, OFF, Report, Work, outage},
    server::{Answer, Does},
};

type Seeds = RangeInclusive<u64>;

/// Doubles by refused probes as by all others. The rest of it is the preset's.
const ONE_CAP: Breaker = Some(|config| {
    let open_for = OpenFor::new(Duration::from_secs(1), Duration::from_secs(5));
    config.open_for(open_for.expect("in order").refused_cap(None))
});

const RULES: [(&str, Breaker); 3] = [
    ("no breaker", OFF),
    ("default", DEFAULT),
    ("`CountRefusals::Always`", LITERAL),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seeds = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => 2001..=2012,
        [first, last] => first.parse()?..=last.parse()?,
        _ => return Err("give no seeds, or the first and the last".into()),
    };
    let mut out = io::stdout().lock();
    throttling(&mut out, &seeds)?;
    goodput(&mut out, &seeds)?;
    crowd(&mut out, &seeds)?;
    dead(&mut out)?;
    Ok(())
}

/// Runs on a clock that goes on by itself when all wait.
fn paused<F: Future>(run: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(run)
}

fn median<T: Copy + Ord>(reports: &[Report], figure: impl Fn(&Report) -> T) -> T {
    let mut figures: Vec<_> = reports.iter().map(figure).collect();
    figures.sort();
    figures[figures.len() / 2]
}

/// 16 clients on 4 slots: what is done in a minute, and how long 200 requests of
/// each take with `.bulk()`; medians.
fn throttling(out: &mut dyn Write, seeds: &Seeds) -> io::Result<()> {
    writeln!(
        out,
        "| | done | failed | refused by a circuit | bulk: wall |"
    )?;
    writeln!(out, "|---|---|---|---|---|")?;
    for (status, refusal) in [(429, Answer::Throttled), (503, Answer::Unavailable)] {
        for (rule, breaker) in RULES {
            let runs = |work| {
                let run = |seed| paused(Full::Crowd.run(refusal, work, breaker, seed));
                seeds.clone().map(run).collect::<Vec<_>>()
            };
            let minute = runs(Work::For(Duration::from_secs(60)));
            let bulk = runs(Work::Requests(200));
            assert!(bulk.iter().all(|report| report.lost() == 0));
            writeln!(
                out,
                "| {status}, {rule} | {} | {} | {} | {:.1} s |",
                median(&minute, |report| report.done),
                median(&minute, |report| report.failed),
                median(&minute, |report| report.refused),
                median(&bulk, |report| report.wall).as_secs_f64(),
            )?;
        }
    }
    writeln!(out)
}

/// What the default does in a minute, as a share of what is done without a breaker;
/// medians.
fn goodput(out: &mut dyn Write, seeds: &Seeds) -> io::Result<()> {
    writeln!(out, "| default over no breaker | 429 | 503 |")?;
    writeln!(out, "|---|---|---|")?;
    let names = ["16 clients on 4 slots", "one on 4", "one on 32, 4, 32"];
    for (name, full) in names.into_iter().zip(Full::ALL) {
        let share = |refusal| {
            let work = Work::For(Duration::from_secs(60));
            let run = |breaker, seed| paused(full.run(refusal, work, breaker, seed)).goodput();
            let share = |seed| run(DEFAULT, seed) / run(OFF, seed);
            let mut shares: Vec<_> = seeds.clone().map(share).collect();
            shares.sort_by(f64::total_cmp);
            100.0 * shares[shares.len() / 2]
        };
        let (throttled, unavailable) = (share(Answer::Throttled), share(Answer::Unavailable));
        writeln!(out, "| {name} | {throttled:.1}% | {unavailable:.1}% |")?;
    }
    writeln!(out)
}

/// By how much longer bulk runs of 16 clients take for their circuits, on a server
/// that throttles with 503.
fn crowd(out: &mut dyn Write, seeds: &Seeds) -> io::Result<()> {
    writeln!(
        out,
        "| requests a client | no breaker | one cap of 5 s: mean, worst | default: mean, worst, over 10% |"
    )?;
    writeln!(out, "|---|---|---|---|")?;
    for requests in [100, 150, 200] {
        let walls = |breaker| {
            let work = Work::Requests(requests);
            let run = |seed| paused(Full::Crowd.run(Answer::Unavailable, work, breaker, seed));
            let wall = |seed| run(seed).wall.as_secs_f64();
            seeds.clone().map(wall).collect::<Vec<_>>()
        };
        let without = walls(OFF);
        let costs = |breaker| {
            let walls = walls(breaker).into_iter().zip(&without);
            let mut costs: Vec<_> = walls.map(|(with, without)| with / without - 1.0).collect();
            costs.sort_by(f64::total_cmp);
            let mean = costs.iter().sum::<f64>() / costs.len() as f64;
            let over = costs.iter().filter(|cost| **cost > 0.1).count();
            (100.0 * mean, 100.0 * costs[costs.len() - 1], over)
        };
        let mean = without.iter().sum::<f64>() / without.len() as f64;
        let (one_cap, default) = (costs(ONE_CAP), costs(DEFAULT));
        writeln!(
            out,
            "| {requests} | {mean:.1} s | {:.1}%, {:.1}% | {:.1}%, {:.1}%, {} of {} |",
            one_cap.0,
            one_cap.1,
            default.0,
            default.1,
            default.2,
            without.len(),
        )?;
    }
    writeln!(out)
}

/// A server that is dead for 40 s, under one client of 16 callers.
fn dead(out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "| dead for 40 s | opened after | probes | back after | bulk: probes | bulk: back after |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for (name, does) in [
        ("answers 500", Does::Answers(Answer::Broken)),
        ("answers 503", Does::Answers(Answer::Unavailable)),
        ("hangs", Does::Hangs),
    ] {
        let run = |bulk| {
            let (report, server) = paused(outage(does, bulk));
            let (opened, _) = report.openings[0];
            let died = Duration::from_secs(20);
            let back = Duration::from_secs(60);
            let probes = server.attempts().into_iter();
            let probes = probes.filter(|at| *at > opened && *at < back).count();
            let closed = report.closings[report.closings.len() - 1] - back;
            ((opened - died).as_secs_f64(), probes, closed.as_secs_f64())
        };
        let (usual, bulk) = (run(false), run(true));
        writeln!(
            out,
            "| {name} | {:.1} s | {} | {:.1} s | {} | {:.1} s |",
            usual.0, usual.1, usual.2, bulk.1, bulk.2,
        )?;
    }
    Ok(())
}
