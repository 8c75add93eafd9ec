//! A simulator of limiters in front of a server, by discrete events.
//!
//! Time is virtual and every random number comes from a seed: the same scenario,
//! law and seed give the same run, bit for bit, and two minutes of it take
//! milliseconds. The law is the one that ships
//! ([`Aimd`](tower_weir::aimd::law::Aimd)); around it stands a [`Limiter`]: the
//! one that ships, on a paused clock ([`run_real`]), or a plain model of slots
//! and waiters, which is quicker and says what the other ought to come to
//! ([`run`]).
//!
//! ```
//! use tower_weir_testkit::sim::{LawChoice, Scenario, run};
//!
//! let scenario = Scenario::named("steady-4").unwrap();
//! let report = run(&scenario, LawChoice::Proportional, 1).report;
//! assert!(report.goodput.unwrap() > 0.9);
//! ```

mod client;
mod law;
mod limiter;
mod plot;
mod real;
mod record;
mod scenario;
mod server;
mod world;

pub use self::{
    client::Load,
    law::{LawChoice, Naive},
    limiter::{Answer, Limiter, SlotModel},
    plot::plot,
    real::run_real,
    record::{Report, TracePoint},
    scenario::Scenario,
    server::{Overload, Quota, ServerModel},
    world::{Run, run, run_with},
};
