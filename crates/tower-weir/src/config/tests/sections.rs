//! Sections that a layer takes whole.

#[cfg(feature = "dead-letter")]
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::read;
#[cfg(any(feature = "dead-letter", feature = "failover"))]
use super::{Table, Value, leaves};
#[cfg(any(feature = "dead-letter", feature = "failover"))]
use crate::config::Settings;
#[cfg(feature = "failover")]
use crate::failover::{Failover, Region};
#[cfg(feature = "dead-letter")]
use crate::{
    BoxError,
    dead_letter::{DeadLetterLayer, sink_fn},
};
use crate::{
    Weir,
    config::Running,
    retry::{Account, RetryHandle, RetryLayer},
};

#[cfg(feature = "dead-letter")]
pub(super) fn letters() -> DeadLetterLayer {
    DeadLetterLayer::new(sink_fn(|_| async { Ok(()) }))
}

#[cfg(feature = "failover")]
pub(super) fn regions() -> Failover<()> {
    Failover::http([Region::new("a", ()), Region::new("b", ())]).unwrap()
}

/// Each field of the section, with another value than its default.
#[cfg(any(feature = "dead-letter", feature = "failover"))]
fn others(section: &str) -> Vec<(String, Settings)> {
    let whole = Table::try_from(Settings::default()).unwrap();
    let fields = leaves(&whole).into_iter().filter(|(path, _)| {
        path.strip_prefix(section)
            .is_some_and(|rest| rest.starts_with('.'))
    });
    let other = |value| match value {
        Value::Boolean(value) => (!value).to_string(),
        Value::Integer(value) => (value + 1).to_string(),
        _ => "\"17s\"".to_owned(),
    };
    let all = fields.map(|(path, value)| {
        let settings = read(&format!("{path} = {}", other(value)));
        assert_ne!(settings, Settings::default(), "{path}");
        (path, settings)
    });
    all.collect()
}

#[cfg(feature = "dead-letter")]
#[test]
fn dead_letters_take_their_section() {
    let default = letters().handle().shown();
    let configured = letters().configured(&Settings::default()).unwrap();
    assert_eq!(configured.handle().shown(), default);
    let layer = letters();
    let running = Running::new().with(layer.handle());
    let all = others("dead_letter");
    assert_eq!(all.len(), 8);
    for (path, settings) in all {
        let configured = letters().configured(&settings).unwrap().handle().shown();
        assert_ne!(configured, default, "{path}");
        running.apply(&settings).unwrap();
        assert_eq!(layer.handle().shown(), configured, "{path}");
    }
    running.apply(&Settings::default()).unwrap();
    assert_eq!(layer.handle().shown(), default);
}

#[cfg(feature = "failover")]
#[tokio::test]
async fn a_failover_takes_its_section() {
    let default = regions().handle().shown();
    let configured = regions().configured(&Settings::default()).unwrap();
    assert_eq!(configured.handle().shown(), default);
    let failover = regions();
    let running = Running::new().with(failover.handle());
    let all = others("failover");
    assert_eq!(all.len(), 13);
    for (path, settings) in all {
        let configured = regions().configured(&settings).unwrap().handle().shown();
        assert_ne!(configured, default, "{path}");
        running.apply(&settings).unwrap();
        assert_eq!(failover.handle().shown(), configured, "{path}");
    }
    running.apply(&Settings::default()).unwrap();
    assert_eq!(failover.handle().shown(), default);
}

#[cfg(feature = "dead-letter")]
#[tokio::test(start_paused = true)]
async fn letters_of_requests_that_begin_follow_the_file() {
    let layer = letters();
    let (handle, running) = (layer.handle(), Running::new().with(layer.handle()));
    let service = service_fn(|_: http::Request<String>| async {
        Err::<http::Response<String>, BoxError>("down".into())
    });
    let client = ServiceBuilder::new().layer(layer).service(service);
    let failed = async || {
        let request = http::Request::new(String::new());
        assert!(client.clone().oneshot(request).await.is_err());
        handle.flush().await.unwrap();
        handle.written()
    };
    assert_eq!(failed().await, 1);
    running.apply(&read("dead_letter.enabled = false")).unwrap();
    assert_eq!(failed().await, 1);
    running.apply(&Settings::default()).unwrap();
    assert_eq!(failed().await, 2);
}

#[test]
fn recorded_bodies_have_the_bounds_of_the_file() {
    let settings = read("retry.replay = { per_request = 7, total = 70 }");
    let bounds = |account: &Account| (account.per_request(), account.total());
    let shared = Account::new(1, 2);
    let retry = RetryLayer::http().replay(shared.clone());
    let retry = retry.configured(&settings).unwrap();
    let stack = Weir::http().configured(&settings).unwrap();
    // Setters that follow make an account of the same bounds.
    let stack = stack.max_retries(1);
    assert_eq!(bounds(&shared), (1, 2));
    let given = RetryLayer::http().replay(shared.clone());
    let handles = [retry.handle(), stack.handle().retry];
    for handle in &handles {
        assert_eq!(bounds(handle.replay()), (7, 70));
    }
    let running = Running::new().with(retry.handle()).with(stack.handle());
    let running = running.with(given.handle());
    running
        .apply(&read("retry.replay.per_request = 8"))
        .unwrap();
    for account in handles.iter().map(RetryHandle::replay).chain([&shared]) {
        assert_eq!(bounds(account), (8, Account::TOTAL));
    }
}
