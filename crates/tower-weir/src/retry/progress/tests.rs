use proptest::prelude::*;

use super::*;
use crate::{
    outcome::{GrpcCode, Hint},
    retry::{RetryPolicy, backoff::Backoff},
};

const SECOND: Duration = Duration::from_secs(1);

/// One second first, and twice the last wait after it: shows what it was told.
#[derive(Debug)]
struct Doubling;

impl Backoff for Doubling {
    fn delay(&self, _retry: u32, prev: Option<Duration>, _u: f64) -> Duration {
        prev.map_or(SECOND, |prev| prev.saturating_mul(2))
    }
}

fn rules(change: impl FnOnce(RetryPolicy<()>) -> RetryPolicy<()>) -> Rules {
    change(RetryPolicy::new(()).backoff(Doubling).max_retries(9)).rules
}

fn safe() -> Terms {
    Terms {
        safe: true,
        ..Terms::default()
    }
}

struct Request<'a> {
    rules: &'a Rules,
    progress: Progress,
    start: Instant,
}

impl<'a> Request<'a> {
    fn new(rules: &'a Rules, terms: Terms) -> Self {
        let start = Instant::now();
        Self {
            rules,
            progress: Progress::new(Plan::new(rules, terms, || start)),
            start,
        }
    }

    fn after(&mut self, outcome: Outcome) -> Next {
        self.decide(outcome, None, Duration::ZERO)
    }

    fn decide(&mut self, outcome: Outcome, local: Option<Duration>, at: Duration) -> Next {
        let now = self.start + at;
        self.progress
            .decide(self.rules, &outcome, || false, local, || now)
    }
}

fn hinted(delay: Duration, source: HintSource) -> Outcome {
    Outcome::unavailable().with_hint(Some(Hint { delay, source }))
}

fn local() -> Outcome {
    Outcome::ignored().with_cause(Cause::Fault(Fault::Local))
}

fn paid(delay: Duration) -> Next {
    Next::Retry(delay, Toll::Budget)
}

#[test]
fn after_a_wait_that_the_upstream_chose_the_backoff_is_at_its_base_again() {
    let rules = rules(|policy| policy.seed(1));
    for (hint, chosen) in [
        (hinted(5 * SECOND, HintSource::RetryAfter), true),
        (hinted(4 * SECOND, HintSource::RetryAfter), true),
        (hinted(SECOND, HintSource::Pushback), true),
        (hinted(4 * SECOND, HintSource::Pushback), true),
        // Ours was the longer: it goes on from there.
        (hinted(3 * SECOND, HintSource::RetryAfter), false),
        (hinted(Duration::ZERO, HintSource::RetryAfter), false),
    ] {
        let mut request = Request::new(&rules, safe());
        assert_eq!(request.after(Outcome::failed()), paid(SECOND));
        assert_eq!(request.after(Outcome::failed()), paid(2 * SECOND));
        let Next::Retry(delay, _) = request.after(hint) else {
            panic!("{hint:?}")
        };
        let least = hint.wait().unwrap();
        assert!(delay >= least && delay <= least.max(4 * SECOND) * 11 / 10);
        let expected = if chosen { SECOND } else { 8 * SECOND };
        assert_eq!(request.after(Outcome::failed()), paid(expected), "{hint:?}");
    }
}

#[test]
fn our_own_wait_is_cut_to_the_longest_and_a_hint_may_be_allowed_more() {
    let most = 3 * SECOND;
    let rules = rules(|policy| policy.max_wait(most).max_hint(20 * SECOND));
    let mut request = Request::new(&rules, safe());
    for expected in [1, 2, 3, 3] {
        assert_eq!(request.after(Outcome::failed()), paid(expected * SECOND));
    }
    let pushback = |seconds| hinted(seconds * SECOND, HintSource::Pushback);
    assert_eq!(request.after(pushback(20)), paid(20 * SECOND));
    assert!(matches!(
        request.after(pushback(21)),
        Next::Return(Ending::GaveUp(GiveUp::HintTooLong { .. }))
    ));
    let rules = self::rules(|policy| policy.max_wait(most));
    let mut request = Request::new(&rules, safe());
    assert!(matches!(request.after(pushback(4)), Next::Return(_)));
}

#[test]
fn what_may_have_been_processed_is_repeated_only_where_that_is_safe() {
    let rules = rules(|policy| policy);
    let mut post = Request::new(&rules, Terms::default());
    assert_eq!(post.after(Outcome::failed()), Next::Return(Ending::Unsafe));
    assert_eq!(post.after(Outcome::throttled()), paid(SECOND));
    assert_eq!(
        post.after(Outcome::unavailable()),
        Next::Return(Ending::Unsafe)
    );
    assert_eq!(post.after(Outcome::success()), Next::Return(Ending::Done));

    let any = self::rules(|policy| policy.any_method(true));
    let mut post = Request::new(&any, Terms::default());
    assert_eq!(post.after(Outcome::failed()), paid(SECOND));
}

#[test]
fn only_the_first_refusal_unseen_is_free() {
    let unseen = Outcome::ignored().with_repeat(Repeat::Transparent);
    let rules = rules(|policy| policy.max_retries(1));
    let mut request = Request::new(&rules, Terms::default());
    assert_eq!(
        request.after(unseen),
        Next::Retry(Duration::ZERO, Toll::Free)
    );
    assert_eq!(
        (
            request.progress.attempts(),
            request.progress.attempts_seen()
        ),
        (2, 0)
    );
    assert_eq!(request.after(unseen), paid(SECOND));
    assert_eq!(
        (
            request.progress.attempts(),
            request.progress.attempts_seen()
        ),
        (3, 0)
    );
    assert_eq!(request.after(unseen), Next::Return(Ending::Exhausted));

    let mut once = Request::new(
        &rules,
        Terms {
            once: true,
            ..safe()
        },
    );
    assert_eq!(once.after(unseen), Next::Return(Ending::Exhausted));
    let deadline = Some(once.start + SECOND);
    let mut late = Request::new(&rules, Terms { deadline, ..safe() });
    assert!(matches!(
        late.decide(unseen, None, 2 * SECOND),
        Next::Return(_)
    ));
}

#[test]
fn attempts_that_the_upstream_cannot_have_seen_are_not_counted_as_seen() {
    let rules = rules(|policy| policy.max_retries(9).patience(1000 * SECOND));
    let mut request = Request::new(&rules, safe());
    let fault = |fault: Fault| fault.outcome(Protocol::Http);
    for (outcome, seen) in [
        (fault(Fault::Connect), 0),
        (fault(Fault::Local), 0),
        (fault(Fault::NotSent), 0),
        (Outcome::throttled(), 1),
        (fault(Fault::GoAway), 1),
        (fault(Fault::RefusedStream), 1),
        (fault(Fault::Reset), 2),
        (Outcome::unavailable(), 3),
        (fault(Fault::AttemptTimeout), 4),
    ] {
        assert!(matches!(request.after(outcome), Next::Retry(..)));
        assert_eq!(request.progress.attempts_seen(), seen, "{outcome:?}");
    }
}

#[test]
fn patience_counts_only_what_the_upstream_may_have_processed() {
    let rules = rules(|policy| policy.patience(100 * SECOND).max_retries(1));
    let mut request = Request::new(&rules, safe());
    let waits = Next::Retry(SECOND, Toll::Patient);
    let unsent = Outcome::failed().with_processed(Processed::No);
    for outcome in [Outcome::throttled(), Outcome::unavailable(), unsent] {
        for _ in 0..5 {
            assert_eq!(request.after(outcome), waits, "{outcome:?}");
        }
    }
    assert_eq!(request.after(Outcome::failed()), waits);
    assert_eq!(
        request.after(Outcome::failed()),
        Next::Return(Ending::Exhausted)
    );
    assert_eq!(request.after(Outcome::throttled()), waits);
    let late = request.decide(Outcome::throttled(), None, 99 * SECOND);
    assert!(matches!(late, Next::Return(Ending::GaveUp(_))));
}

#[test]
fn what_a_layer_of_ours_refuses_is_waited_out_under_patience_and_costs_nothing() {
    let rules = rules(|policy| policy.patience(100 * SECOND));
    let mut request = Request::new(&rules, safe());
    let open_for = Some(7 * SECOND);
    let waited = request.decide(local(), open_for, Duration::ZERO);
    assert_eq!(waited, Next::Retry(7 * SECOND, Toll::Free));
    // That was not ours to grow from.
    assert_eq!(
        request.after(Outcome::failed()),
        Next::Retry(SECOND, Toll::Patient)
    );

    let impatient = self::rules(|policy| policy);
    let mut request = Request::new(&impatient, safe());
    assert_eq!(request.after(local()), Next::Return(Ending::Done));
}

#[test]
fn a_budget_that_fills_at_the_end_of_time_is_not_waited_for() {
    #[derive(Debug)]
    struct Longest;

    impl Backoff for Longest {
        fn delay(&self, _: u32, _: Option<Duration>, _: f64) -> Duration {
            Duration::MAX
        }
    }

    let rules = rules(|policy| {
        let policy = policy.seed(1).backoff(Longest).max_wait(Duration::MAX);
        policy.patience(Duration::MAX)
    });
    let mut request = Request::new(&rules, safe());
    let now = request.start;
    let retry_at = now.checked_add(Duration::from_secs(1 << 62));
    let empty = BudgetEmpty { retry_at };
    for _ in 0..100 {
        let wait = request.progress.wait_for_budget(&rules, empty, now);
        assert_eq!(wait, None);
    }
}

#[test]
fn the_lists_choose_what_is_repeated_and_the_servers_word_goes_before_them() {
    let status = |status: u16| Cause::Status(http::StatusCode::from_u16(status).unwrap());
    let rules = rules(|policy| {
        policy
            .retry_statuses([http::StatusCode::NOT_FOUND, http::StatusCode::BAD_GATEWAY])
            .retry_codes([GrpcCode::NotFound])
    });
    for (outcome, expected) in [
        (Outcome::success().with_cause(status(404)), Repeat::IfSafe),
        (Outcome::failed().with_cause(status(502)), Repeat::IfSafe),
        (Outcome::throttled().with_cause(status(429)), Repeat::Never),
        (
            Outcome::throttled()
                .with_cause(status(429))
                .with_told(Some(true)),
            Repeat::Always,
        ),
        (
            Outcome::success().with_cause(Cause::Code(GrpcCode::NotFound)),
            Repeat::Always,
        ),
        (
            Outcome::unavailable().with_cause(Cause::Code(GrpcCode::Unavailable)),
            Repeat::Never,
        ),
        (
            Outcome::failed().with_cause(Cause::Fault(Fault::Closed)),
            Repeat::IfSafe,
        ),
    ] {
        let applied = rules.apply(outcome);
        assert_eq!(applied.repeat, expected, "{outcome:?}");
        assert_eq!(applied.verdict, outcome.verdict);
    }
}

#[test]
fn grpc_requests_get_five_retries_and_others_three() {
    let rules = RetryPolicy::new(()).rules;
    for (protocol, expected) in [(Protocol::Http, 3), (Protocol::Grpc, 5)] {
        let mut request = Request::new(&rules, Terms { protocol, ..safe() });
        assert_eq!(request.progress.max_attempts(), Some(expected + 1));
        let retries = (0..9)
            .take_while(|_| matches!(request.after(Outcome::failed()), Next::Retry(..)))
            .count();
        assert_eq!(retries, expected as usize);
    }
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let kind = prop_oneof![
        Just(Outcome::throttled()),
        Just(Outcome::unavailable()),
        Just(Outcome::failed()),
        Just(Outcome::timed_out()),
        Just(Outcome::ignored().with_repeat(Repeat::Transparent)),
        Just(
            Outcome::failed()
                .with_repeat(Repeat::Always)
                .with_processed(Processed::No)
        ),
    ];
    let sources = prop_oneof![Just(HintSource::Pushback), Just(HintSource::RetryAfter)];
    let hint = proptest::option::of((0_u64..200_000, sources));
    (kind, hint).prop_map(|(outcome, hint)| {
        outcome.with_hint(hint.map(|(millis, source)| Hint {
            delay: Duration::from_millis(millis),
            source,
        }))
    })
}

proptest! {
    #[test]
    fn attempts_are_bounded_and_no_hint_is_undercut(
        script in prop::collection::vec(outcomes(), 0..20),
        max_retries in 0_u32..6,
        seed in any::<u64>(),
    ) {
        let rules = RetryPolicy::new(()).seed(seed).max_retries(max_retries).rules;
        let mut request = Request::new(&rules, safe());
        for outcome in script {
            let Next::Retry(delay, toll) = request.after(outcome) else {
                break;
            };
            if toll == Toll::Free {
                continue;
            }
            match outcome.hint {
                Some(hint) if hint.source == HintSource::Pushback => {
                    prop_assert_eq!(delay, hint.delay);
                }
                hint => {
                    let told = hint.map_or(Duration::ZERO, |hint| hint.delay);
                    prop_assert!(told <= Duration::from_secs(60));
                    prop_assert!(delay >= told.max(Duration::from_millis(250)));
                    prop_assert!(delay <= Duration::from_secs(65));
                }
            }
        }
        let attempts = request.progress.attempts();
        let transparent = u32::from(request.progress.past.is_some_and(|past| past.transparent));
        prop_assert!(attempts <= max_retries + 1 + transparent);
    }
}
