//! The limiter that ships and the simulator's plain model of it come to the same:
//! what is measured with the one holds for the other.

use tower_weir_testkit::sim::{LawChoice, Report, Scenario, run, run_real};

type Figure = fn(&Report) -> Option<f64>;

const GOODPUT: Figure = |report| report.goodput;
const REJECTS: Figure = |report| report.rejects_per_success;

/// The means of three runs each.
struct Pair {
    name: &'static str,
    real: Vec<Report>,
    model: Vec<Report>,
}

fn pair(name: &'static str, law: LawChoice) -> Pair {
    let scenario = Scenario::named(name).expect("a scenario");
    let real = (1..=3).map(|seed| run_real(&scenario, law, seed).expect("a runtime").report);
    let model = (1..=3).map(|seed| run(&scenario, law, seed).report);
    Pair {
        name,
        real: real.collect(),
        model: model.collect(),
    }
}

fn mean(reports: &[Report], figure: Figure) -> f64 {
    let figures = reports
        .iter()
        .map(|report| figure(report).expect("a figure"));
    figures.sum::<f64>() / reports.len() as f64
}

impl Pair {
    fn within(&self, figure: Figure, allowance: f64) -> &Self {
        let (real, model) = (mean(&self.real, figure), mean(&self.model, figure));
        let name = self.name;
        assert!(
            (real - model).abs() <= allowance,
            "{name}: {real}, not {model}"
        );
        self
    }
}

#[test]
fn a_steady_server_is_kept_as_full() {
    for name in ["steady-4", "steady-16"] {
        pair(name, LawChoice::Proportional)
            .within(GOODPUT, 0.015)
            .within(REJECTS, 0.002);
    }
    pair("steady-4", LawChoice::Halve)
        .within(GOODPUT, 0.015)
        .within(REJECTS, 0.002);
}

#[test]
fn a_step_is_followed_as_closely() {
    pair("step", LawChoice::Proportional)
        .within(GOODPUT, 0.015)
        .within(REJECTS, 0.002)
        .within(|report| report.settle_down_s, 0.2)
        .within(|report| report.settle_up_s, 0.6);
}

#[test]
fn an_outage_is_left_alone_as_much() {
    pair("outage-100ms", LawChoice::Proportional)
        .within(GOODPUT, 0.015)
        .within(|report| report.outage_sends_per_s, 0.4)
        .within(|report| report.recovery_s, 0.4);
}

#[test]
fn a_crowd_is_as_gentle() {
    pair("crowd", LawChoice::Proportional)
        .within(GOODPUT, 0.015)
        .within(REJECTS, 0.05);
    // Of a crowd that is refused with a hint, a pause is asked for too.
    pair("crowd-hint", LawChoice::Proportional)
        .within(GOODPUT, 0.015)
        .within(REJECTS, 0.05);
}

#[test]
fn a_crowd_with_an_end_is_done_as_soon() {
    pair("finite", LawChoice::Proportional)
        .within(GOODPUT, 0.03)
        .within(REJECTS, 0.05);
}

#[test]
fn calls_that_hang_and_servers_that_queue_are_met_alike() {
    pair("blackhole", LawChoice::Proportional)
        .within(GOODPUT, 0.015)
        .within(REJECTS, 0.02);
    pair("queue", LawChoice::Proportional)
        .within(GOODPUT, 0.015)
        .within(|report| report.rtt_ratio, 0.1);
}

#[test]
fn a_quota_is_used_up_alike() {
    for name in ["quota", "quota-bucket"] {
        pair(name, LawChoice::Proportional)
            .within(GOODPUT, 0.03)
            .within(REJECTS, 0.05);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let scenario = Scenario::named("share-4").expect("a scenario");
    let run = |seed| run_real(&scenario, LawChoice::Proportional, seed).expect("a runtime");
    let first = run(3);
    assert_eq!(first, run(3));
    assert_ne!(first.trace, run(4).trace);
}
