//! What can be measured.

mod http;
mod least;
mod outside;
mod process;
mod served;
mod server;
mod tools;
mod waiters;

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use cpu_time::ProcessTime;
use tokio::{
    runtime::{Builder, Runtime},
    sync::Barrier,
    task::JoinSet,
    time::Instant,
};

pub use self::{
    http::http,
    outside::outside,
    process::{Place, serve},
    served::{Handler, Variant},
    server::server,
    waiters::waiters,
};
use crate::{
    measure::{self, Effort, Spread, bounded, in_turns},
    report::{Line, Report},
    subjects::{self, Drive, Subject},
};

fn chosen(effort: &Effort, subjects: Vec<Subject>) -> Vec<Subject> {
    let chosen = |subject: &Subject| effort.wants(&subject.name);
    subjects.into_iter().filter(chosen).collect()
}

/// Whatever can be called in a loop.
fn all() -> [Vec<Subject>; 4] {
    [
        subjects::generic(),
        subjects::over_http(),
        subjects::servers(),
        subjects::open(),
    ]
}

/// Times subjects and prints a line for each.
fn print_times<W: Write>(
    report: &mut Report<W>,
    effort: &Effort,
    mode: &'static str,
    mut subjects: Vec<Subject>,
) -> io::Result<()> {
    let times = measure::times(effort, &mut subjects);
    for (subject, time) in subjects.iter_mut().zip(times) {
        report.line(timed(mode, subject, time))?;
    }
    Ok(())
}

fn timed<'a>(
    mode: &'static str,
    subject: &'a mut Subject,
    time: Result<Spread, String>,
) -> Line<'a> {
    let found = time.and_then(|spread| Ok((spread, measure::allocations(subject)?)));
    let mut line = Line::new(mode, &subject.name);
    match found {
        Ok((spread, allocations)) => {
            line.nanos = Some(spread);
            line.allocations = Some(allocations);
            line
        }
        Err(error) => line.with("error", error),
    }
}

/// One call after another on one thread, in its processor time: generic
/// services, HTTP, and breakers that refuse.
///
/// # Errors
///
/// Those of the output.
pub fn overhead<W: Write>(report: &mut Report<W>, effort: &Effort) -> io::Result<()> {
    for subjects in all() {
        print_times(report, effort, "overhead", chosen(effort, subjects))?;
    }
    Ok(())
}

/// What nothing that does the stack's work can do without, part by part.
///
/// # Errors
///
/// Those of the output.
pub fn floor<W: Write>(report: &mut Report<W>, effort: &Effort) -> io::Result<()> {
    print_times(report, effort, "floor", chosen(effort, subjects::floor()))
}

/// Breakers over windows of several sizes.
///
/// # Errors
///
/// Those of the output.
pub fn window<W: Write>(report: &mut Report<W>, effort: &Effort) -> io::Result<()> {
    print_times(
        report,
        effort,
        "window",
        chosen(effort, subjects::windows()),
    )
}

/// Heap allocations of a call, and the size of the future it returns.
///
/// # Errors
///
/// Those of the output.
pub fn allocs<W: Write>(report: &mut Report<W>, effort: &Effort) -> io::Result<()> {
    for subjects in all() {
        for mut subject in chosen(effort, subjects) {
            let allocations = measure::allocations(&mut subject);
            let mut line = Line::new("allocs", &subject.name);
            match allocations {
                Ok(allocations) => {
                    line.allocations = Some(allocations);
                    line = line.with("future_bytes", subject.drive.future_size());
                }
                Err(error) => line = line.with("error", error),
            }
            report.line(line)?;
        }
    }
    Ok(())
}

const TASKS: u64 = 64;
const WORKERS: usize = 2;

/// 64 tasks on 2 threads that share one service. The time of a call is the
/// processor time of the whole process, so that waiting for a lock costs what it
/// burns and what it makes the system do; `wall_ns_per_call` is time as it
/// passes, which other programs on the machine lengthen.
///
/// # Errors
///
/// Those of the output.
pub fn contended<W: Write>(report: &mut Report<W>, effort: &Effort) -> io::Result<()> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?;
    for subjects in all().into_iter().chain([subjects::floor()]) {
        let subjects = chosen(effort, subjects);
        let mut wall = vec![Vec::new(); subjects.len()];
        let times = in_turns(effort, subjects.len(), |subject, calls| {
            // Longer than other rounds: it takes a while until all run.
            let each = calls.div_ceil(TASKS) * 8;
            let (passed, burnt) = at_once(&runtime, &*subjects[subject].drive, each)?;
            let all = (each * TASKS) as f64;
            wall[subject].push(passed.as_secs_f64() * 1e9 / all);
            Ok(burnt.mul_f64(calls as f64 / all))
        });
        for ((subject, time), wall) in subjects.iter().zip(times).zip(wall) {
            let mut line = Line::new("contended", &subject.name);
            match time {
                Ok(spread) => {
                    line.nanos = Some(spread);
                    // The rounds of the calibration come first.
                    let wall = &wall[wall.len().saturating_sub(effort.rounds)..];
                    let wall = Spread::of(wall).map(|wall| wall.median.round());
                    line = line.with("wall_ns_per_call", wall);
                }
                Err(error) => line = line.with("error", error),
            }
            report.line(line)?;
        }
    }
    Ok(())
}

/// `each` calls from each of the tasks: the time that passed and that was burnt.
fn at_once(
    runtime: &Runtime,
    drive: &dyn Drive,
    each: u64,
) -> Result<(Duration, Duration), String> {
    let forks: Vec<_> = (0..TASKS).map(|_| drive.fork()).collect();
    bounded(runtime, async move {
        let begin = Arc::new(Barrier::new(TASKS as usize + 1));
        let mut tasks = JoinSet::new();
        for mut fork in forks {
            let begin = begin.clone();
            tasks.spawn(async move {
                begin.wait().await;
                fork.run(each).await
            });
        }
        begin.wait().await;
        let (start, burnt) = (Instant::now(), ProcessTime::now());
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| error.to_string())??;
        }
        Ok((start.elapsed(), burnt.elapsed()))
    })
}

/// The stack in front of one host, of 256, and of 10,000 with room for 256; and
/// nothing in front of as many, since requests that differ cost more to clone.
///
/// # Errors
///
/// Those of the output.
pub fn registry<W: Write>(report: &mut Report<W>, effort: &Effort) -> io::Result<()> {
    let (subjects, known): (Vec<_>, Vec<_>) =
        [1, 256, 10_000].map(subjects::hosts).into_iter().unzip();
    let mut subjects: Vec<_> = subjects.into_iter().flatten().collect();
    let times = measure::times(effort, &mut subjects);
    for (place, (subject, time)) in subjects.iter_mut().zip(times).enumerate() {
        let mut line = timed("registry", subject, time);
        if place % 2 == 1 {
            line = line.with("hosts_known", known[place / 2]());
        }
        report.line(line)?;
    }
    Ok(())
}
