use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;
use tower_weir::dead_letter::DeadLetterHandle;
use tower_weir_testkit::upstream::Upstream;

use crate::run::Ended;

/// What came of a run; null is what an endpoint elsewhere cannot tell.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    batches: usize,
    /// Delivered by earlier runs.
    skipped: usize,
    delivered: usize,
    pub(crate) lost: usize,
    letters: u64,
    letters_lost: u64,
    records: usize,
    distinct_ids: Option<u64>,
    duplicate_ids: Option<u64>,
    attempts: u64,
    rejections: u64,
    rejections_per_success: Option<f64>,
    wall_s: f64,
    ideal_s: Option<f64>,
    wall_over_ideal: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

impl Report {
    /// With the inner upstream, its own counts; without, those of the client.
    pub(crate) fn new(
        (batches, records): (usize, usize),
        ended: Ended,
        letters: &DeadLetterHandle,
        upstream: Option<&Upstream>,
    ) -> Self {
        let Ended {
            mut times,
            skipped,
            wall,
            tally,
        } = ended;
        times.sort_unstable();
        let delivered = times.len();
        let stats = upstream.map(Upstream::stats);
        let ideal = upstream.and_then(Upstream::ideal_time);
        let (attempts, rejections, successes) = match &stats {
            Some(stats) => (stats.attempts, stats.rejections, stats.successes),
            None => (tally.attempts(), tally.rejections(), delivered as u64),
        };
        Self {
            batches,
            skipped,
            delivered,
            lost: batches - skipped - delivered,
            letters: letters.written(),
            letters_lost: letters.lost().total(),
            records,
            distinct_ids: stats.as_ref().map(|stats| stats.distinct_ids),
            duplicate_ids: stats.as_ref().map(|stats| stats.duplicate_ids),
            attempts,
            rejections,
            rejections_per_success: ratio(rejections as f64, successes as f64),
            wall_s: rounded(wall.as_secs_f64()),
            ideal_s: ideal.map(|ideal| rounded(ideal.as_secs_f64())),
            wall_over_ideal: ideal.and_then(|ideal| ratio(wall.as_secs_f64(), ideal.as_secs_f64())),
            p50_ms: percentile(&times, 50),
            p99_ms: percentile(&times, 99),
        }
    }

    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            return writeln!(out);
        }
        let (delivered, batches, lost) = (self.delivered, self.batches, self.lost);
        writeln!(
            out,
            "batches     {delivered} of {batches} delivered, {lost} lost"
        )?;
        if self.skipped > 0 {
            writeln!(
                out,
                "resumed     {} had been delivered before",
                self.skipped
            )?;
        }
        if self.letters + self.letters_lost > 0 {
            let (kept, lost) = (self.letters, self.letters_lost);
            writeln!(out, "letters     {kept} written, {lost} lost")?;
        }
        if let (Some(distinct), Some(duplicate)) = (self.distinct_ids, self.duplicate_ids) {
            let records = self.records;
            writeln!(
                out,
                "ids         {distinct} distinct of {records} sent, {duplicate} stored twice"
            )?;
        }
        let per_success = told(self.rejections_per_success, "");
        writeln!(
            out,
            "attempts    {}, {} of them rejected: {per_success} per success",
            self.attempts, self.rejections
        )?;
        write!(out, "wall time   {:.3} s", self.wall_s)?;
        if let Some(ideal) = self.ideal_s {
            let times = told(self.wall_over_ideal, "");
            write!(
                out,
                ", {times} times the ideal {ideal:.3} s (work / capacity)"
            )?;
        }
        let (p50, p99) = (told(self.p50_ms, " ms"), told(self.p99_ms, " ms"));
        writeln!(out, "\na batch     p50 {p50}, p99 {p99}, waiting included")
    }
}

fn told(number: Option<f64>, unit: &str) -> String {
    number.map_or("-".to_owned(), |number| format!("{number}{unit}"))
}

fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| rounded(a / b))
}

/// To four digits after the point.
fn rounded(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}

/// The nearest rank of sorted times, in milliseconds.
fn percentile(times: &[Duration], percent: usize) -> Option<f64> {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    let time = times.get(rank - 1)?;
    Some(rounded(time.as_secs_f64() * 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Some(100.0));
        assert_eq!(percentile(&times, 99), Some(198.0));
        assert_eq!(percentile(&times[..1], 50), Some(1.0));
        assert_eq!(percentile(&times[..1], 99), Some(1.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_ratio_to_nothing_is_none() {
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!(ratio(1.0, 3.0), Some(0.3333));
    }
}
