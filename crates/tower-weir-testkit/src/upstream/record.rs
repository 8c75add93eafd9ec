use std::{collections::BTreeMap, time::Duration};

use serde::{Serialize, Serializer};

use super::throttle::Throttle;

const MOST_POINTS: usize = 1 << 16;

/// What an upstream has counted so far.
///
/// Every attempt ends in one of successes, rejections, failures and unanswered,
/// unless its caller went away, its connection was cut by an outage, or it was
/// malformed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Requests that arrived.
    pub attempts: u64,
    /// Requests that were processed and answered.
    pub successes: u64,
    /// Requests refused for want of a slot.
    pub rejections: u64,
    /// Requests given a status by [`TroubleKind::Answer`](super::TroubleKind).
    pub failures: u64,
    /// Requests left hanging, or whose connection was closed on purpose.
    pub unanswered: u64,
    /// Ids stored.
    pub distinct_ids: u64,
    /// Ids stored more than once.
    pub duplicate_ids: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Requests in a slot or waiting for one, now.
    pub in_flight: usize,
    /// The most there have been at once.
    pub peak_in_flight: usize,
    /// Slots, now; none during an outage.
    pub slots: usize,
    /// The measured time in slots of all requests whose service ended: longer
    /// than what was drawn, since a timer is late by up to a millisecond. In
    /// JSON in seconds, as `slot_time_s`.
    #[serde(rename = "slot_time_s", serialize_with = "seconds")]
    pub slot_time: Duration,
}

fn seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

/// One step of a line: the value from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Point {
    /// When, counted from the story's beginning.
    #[serde(rename = "at_s", serialize_with = "seconds")]
    pub at: Duration,
    /// The value.
    pub value: usize,
}

/// An upstream over time. Times count from the story's beginning, which is the
/// first request if it does not begin with an outage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TimeLine {
    /// Requests in a slot or waiting for one. Of more than 65,536 points every
    /// second is dropped.
    pub in_flight: Vec<Point>,
    /// Slots; none during an outage.
    pub capacity: Vec<Point>,
}

impl TimeLine {
    /// The shortest time in which `work`, the sum of times in slots, can be
    /// done with this capacity, from the beginning on; `None` if it never is.
    pub fn ideal_time(&self, work: Duration) -> Option<Duration> {
        let mut left = work.as_secs_f64();
        for (index, point) in self.capacity.iter().enumerate() {
            let capacity = point.value as f64;
            let done = match self.capacity.get(index + 1) {
                Some(next) => capacity * (next.at - point.at).as_secs_f64(),
                None if point.value > 0 => f64::INFINITY,
                None => 0.0,
            };
            if left <= done {
                let rest = if left > 0.0 { left / capacity } else { 0.0 };
                return Duration::try_from_secs_f64(rest)
                    .ok()
                    .and_then(|rest| point.at.checked_add(rest));
            }
            left -= done;
        }
        None
    }
}

/// What is written down while requests come and go.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) counts: Stats,
    pub(super) line: TimeLine,
    ids: BTreeMap<String, u64>,
}

impl Record {
    /// Writes down how the slots are, this long after the beginning.
    pub(super) fn note(&mut self, throttle: &Throttle, at: Duration) {
        let (in_flight, capacity) = (throttle.in_flight(), throttle.slots());
        push(&mut self.line.in_flight, at, in_flight);
        push(&mut self.line.capacity, at, capacity);
        self.counts.in_flight = in_flight;
        self.counts.peak_in_flight = self.counts.peak_in_flight.max(in_flight);
        self.counts.slots = capacity;
    }

    pub(super) fn store(&mut self, ids: Vec<String>) {
        for id in ids {
            let times = self.ids.entry(id).or_default();
            *times += 1;
            self.counts.distinct_ids += u64::from(*times == 1);
            self.counts.duplicate_ids += u64::from(*times == 2);
        }
    }

    pub(super) fn stored(&self, id: &str) -> u64 {
        self.ids.get(id).copied().unwrap_or(0)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &String> {
        self.ids.keys()
    }
}

fn push(line: &mut Vec<Point>, at: Duration, value: usize) {
    match line.last_mut() {
        Some(last) if last.value == value => {}
        Some(last) if last.at == at => last.value = value,
        _ => line.push(Point { at, value }),
    }
    if line.len() > MOST_POINTS {
        let mut index = 0;
        line.retain(|_| {
            index += 1;
            index % 2 == 1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(capacity: &[(u64, usize)]) -> TimeLine {
        TimeLine {
            capacity: capacity
                .iter()
                .map(|&(millis, value)| Point {
                    at: Duration::from_millis(millis),
                    value,
                })
                .collect(),
            ..TimeLine::default()
        }
    }

    #[test]
    fn the_ideal_time_integrates_the_capacity() {
        let seconds = Duration::from_secs_f64;
        let flat = line(&[(0, 8)]);
        assert_eq!(flat.ideal_time(seconds(40.0)), Some(seconds(5.0)));
        // 1.5 s of 8, 1.5 s of 2, 2 s of none, then 16: 12 + 3 + 0 + 16 t = 40
        let story = line(&[(0, 8), (1500, 2), (3000, 0), (5000, 16)]);
        assert_eq!(story.ideal_time(seconds(40.0)), Some(seconds(6.5625)));
        assert_eq!(story.ideal_time(seconds(12.0)), Some(seconds(1.5)));
        assert_eq!(story.ideal_time(seconds(14.0)), Some(seconds(2.5)));
        assert_eq!(story.ideal_time(Duration::ZERO), Some(Duration::ZERO));
    }

    #[test]
    fn work_that_no_capacity_is_left_for_is_never_done() {
        let stopped = line(&[(0, 8), (1000, 0)]);
        let eight = Duration::from_secs(8);
        assert_eq!(stopped.ideal_time(eight), Some(Duration::from_secs(1)));
        assert_eq!(stopped.ideal_time(eight + Duration::from_millis(1)), None);
        assert_eq!(
            line(&[(0, 0)]).ideal_time(Duration::ZERO),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn ids_count_once_as_distinct_and_once_as_duplicates() {
        let mut record = Record::default();
        for ids in [["a", "b"], ["a", "c"], ["a", "c"]] {
            record.store(ids.map(String::from).to_vec());
        }
        assert_eq!(
            (record.counts.distinct_ids, record.counts.duplicate_ids),
            (3, 2)
        );
        assert_eq!(["a", "b", "d"].map(|id| record.stored(id)), [3, 1, 0]);
    }

    #[test]
    fn a_line_has_a_point_where_its_value_changes() {
        let mut line = Vec::new();
        for (at, value) in [(0, 1), (1, 1), (2, 2), (2, 3), (4, 1)] {
            push(&mut line, Duration::from_secs(at), value);
        }
        let points: Vec<_> = line
            .iter()
            .map(|point| (point.at.as_secs(), point.value))
            .collect();
        assert_eq!(points, [(0, 1), (2, 3), (4, 1)]);
    }

    #[test]
    fn a_long_line_is_thinned() {
        let mut line = Vec::new();
        for index in 0..=MOST_POINTS as u64 {
            push(&mut line, Duration::from_secs(index), index as usize);
        }
        assert_eq!(line.len(), MOST_POINTS / 2 + 1);
        assert_eq!(line[1].value, 2);
    }
}
